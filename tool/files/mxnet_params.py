"""MXNet's `.params` files, read without MXNet: the ImageNet weights of ResNet-38 (method §1).

Such a file is a list of arrays followed by a list of their names, little-endian. The functions
`load_mxnet_params` and `_Reader.array` show the layout. Sizes in the file are not trusted: each is
compared with the number of bytes that are left before anything is read.
"""

import math
import os
import struct
from typing import BinaryIO

import numpy as np

from tool.files.atomic import need_file
from tool.files.reading import open_file
from tool.run.errors import UserError

# First number of a file that holds a list of arrays.
_LIST = 0x112
# First number of an array in versions 1 to 3 of the format; version 0 has none.
_V1 = 0xF993FAC8
_V2 = 0xF993FAC9
_V3 = 0xF993FACA
# numpy's names of MXNet's data types 0, 1, 2, …
_DTYPES = ('<f4', '<f8', '<f2', 'u1', '<i4', 'i1', '<i8')
_MAX_DIMS = 32
# Bytes that an array and its name take at least: five u32, and the u64 of the name's length.
_SMALLEST = 28
# The end of every message: what the user can do.
_FIX = 'download the file again (--weights wants the MXNet ResNet-38 of README.md)'


class _Reader:
    """A file that knows how many bytes are left and refuses to read past them."""

    def __init__(self, file: BinaryIO, path: str):
        self.file = file
        self.path = path
        self.left = os.fstat(file.fileno()).st_size

    def fail(self, reason: str) -> UserError:
        """The error to raise."""
        return UserError(f'{self.path}: not a whole MXNet .params file ({reason}); {_FIX}')

    def bytes(self, count: int, what: str) -> bytes:
        """The next `count` bytes; `what` they are is for the message."""
        self.need(count, what)
        self.left -= count
        return self.file.read(count)

    def need(self, count: int, what: str) -> None:
        """UserError if fewer than `count` bytes are left."""
        if count > self.left:
            raise self.fail(f'it ends within {what}: {count} bytes wanted, {self.left} left')

    def numbers(self, code: str, count: int, what: str) -> tuple[int, ...]:
        """The next `count` integers, of the type that a code of `struct` names (I, i, q or Q)."""
        layout = f'<{count}{code}'
        return struct.unpack(layout, self.bytes(struct.calcsize(layout), what))

    def array(self, what: str) -> np.ndarray:
        """The next array.

        Its layout is: u32 magic number (versions 1 to 3), i32 storage type (versions 2 and 3), u32
        number of dimensions, the dimensions (u32 in version 0, else i64), i32 device type, i32
        device id, i32 data type, data.
        """
        (first,) = self.numbers('I', 1, what)
        if first in (_V2, _V3):
            (storage,) = self.numbers('i', 1, what)
            if storage != 0:
                raise self.fail(
                    f'{what} has storage type {storage}; only dense arrays (0) can be read'
                )
        if first in (_V1, _V2, _V3):
            (dims,) = self.numbers('I', 1, what)
            code = 'q'
        else:  # version 0
            dims = first
            code = 'I'
        # From version 3 on, an array may have 0 dimensions. Before, that was an array without data.
        never_filled = dims == 0 and first != _V3
        if dims > _MAX_DIMS or never_filled:
            raise self.fail(f'{what} has {dims} dimensions')
        shape = self.numbers(code, dims, what)
        _, _, number = self.numbers('i', 3, what)
        if not 0 <= number < len(_DTYPES):
            raise self.fail(f'{what} has data type {number}, known are 0…{len(_DTYPES) - 1}')
        return self.data(shape, np.dtype(_DTYPES[number]), what)

    def data(self, shape: tuple[int, ...], dtype: np.dtype, what: str) -> np.ndarray:
        """The data of an array."""
        if any(length <= 0 for length in shape):
            raise self.fail(f'{what} has shape {shape}')
        size = math.prod(shape)  # of Python integers, so it cannot overflow
        self.need(size * dtype.itemsize, what)
        self.left -= size * dtype.itemsize
        return np.fromfile(self.file, dtype, size).reshape(shape)


def load_mxnet_params(path: str) -> dict[str, np.ndarray]:
    """Read all arrays of a file that MXNet's `mx.nd.save` has written (versions 0 to 3).

    Args:
        path: the file. Its arrays are dense, of type f32, f64, f16, u8, i32, i8 or i64.
    Returns:
        {name: array} in the order of the file; a leading 'arg:' or 'aux:' of a name is removed.
    Raises:
        UserError: the file is missing or truncated, an array is sparse or has no name, or it is
            another kind of file.
    """
    need_file(path, _FIX)
    with open_file(path) as file:
        reader = _Reader(file, path)
        magic, _, count = reader.numbers('Q', 3, 'the header')
        if magic != _LIST:
            raise reader.fail(f'it starts with {magic:#x} instead of {_LIST:#x}')
        reader.need(count * _SMALLEST, f'its {count} arrays')
        arrays = [reader.array(f'array {index} of {count}') for index in range(count)]
        (names_count,) = reader.numbers('Q', 1, 'the number of names')
        if names_count != count:
            raise reader.fail(f'{count} arrays but {names_count} names')
        named = {}
        for index, array in enumerate(arrays):
            name = _name(reader, f'name {index} of {count}')
            if name in named:
                raise reader.fail(f'two arrays are called {name}')
            named[name] = array
        if reader.left:
            raise reader.fail(f'{reader.left} bytes follow its end')
    return named


def _name(reader: _Reader, what: str) -> str:
    """The next name: u64 length, text."""
    (length,) = reader.numbers('Q', 1, what)
    try:
        name = reader.bytes(length, what).decode()
    except UnicodeDecodeError:
        raise reader.fail(f'{what} is no text') from None
    return name[4:] if name.startswith(('arg:', 'aux:')) else name


# ---------------------------------------------------------------- ResNet-38

# {stage: number of its units}. MXNet calls the units of stage 2 2a, 2b1, 2b2.
_UNITS = {'2': 3, '3': 3, '4': 6, '5': 3, '6': 1, '7': 1}
# {name of a BatchNorm tensor in PyTorch: its possible names in MXNet}
_STATISTICS = {
    'weight': ('gamma',),
    'bias': ('beta',),
    'running_mean': ('moving_mean', 'mean'),
    'running_var': ('moving_var', 'var'),
}


def _norm(ours: str, theirs: str) -> dict[str, tuple[str, ...]]:
    """{key in PyTorch: possible names in MXNet} of the tensors of one BatchNorm layer."""
    table = {}
    for key, names in _STATISTICS.items():
        table[f'{ours}.{key}'] = tuple(f'{theirs}_{name}' for name in names)
    return table


def resnet38_names() -> dict[str, tuple[str, ...]]:
    """The names of the 191 tensors of ResNet-38 in MXNet.

    Returns:
        {key of the backbone's state dict: its possible names in MXNet}, in the order of the state
        dict.
    """
    table: dict[str, tuple[str, ...]] = {'conv1a.weight': ('conv1a_weight',)}
    for stage, count in _UNITS.items():
        branches = ['branch2a', 'branch2b1']
        if stage in ('6', '7'):  # these units have three convolutions
            branches.append('branch2b2')
        for index in range(count):
            ours = f'b{stage}_{index}' if index else f'b{stage}'
            theirs = f'{stage}b{index}' if index else f'{stage}a'
            for branch in branches:
                table.update(_norm(f'{ours}.bn_{branch}', f'bn{theirs}_{branch}'))
                table[f'{ours}.conv_{branch}.weight'] = (f'res{theirs}_{branch}_weight',)
            if index == 0:  # only the first unit of a stage changes the shape of the maps
                table[f'{ours}.conv_branch1.weight'] = (f'res{theirs}_branch1_weight',)
    return table | _norm('bn7', 'bn7')


def resnet38_from_mxnet(path: str) -> dict:
    """Read the ImageNet weights of ResNet-38 from MXNet's file.

    The classifier (linear1000_*) is left out. The shapes are not checked here, because they depend
    on the network's width; `load_state_dict` checks them.

    Returns:
        {key of the backbone's state dict: float32 tensor}, 191 entries.
    Raises:
        UserError: it is not an MXNet file, or its arrays are not exactly those of ResNet-38; the
            message names the first difference.
    """
    # imported here, so that looking into a file does not load torch
    import torch

    arrays = {}
    for name, array in load_mxnet_params(path).items():
        if not name.startswith('linear1000_'):
            arrays[name] = array
    state = {}
    for key, names in resnet38_names().items():
        found = [name for name in names if name in arrays]
        if not found:
            raise UserError(
                f'{path}: not the ResNet-38 (A1) weights, {names[0]} is missing; {_FIX}'
            )
        array = arrays.pop(found[0])
        dims = 4 if '.conv_' in key or key == 'conv1a.weight' else 1
        if array.ndim != dims or array.dtype.kind != 'f':
            raise UserError(
                f'{path}: {found[0]} is {array.dtype} {array.shape}, {dims} dimensions of floats '
                'expected'
            )
        state[key] = torch.from_numpy(array.astype(np.float32, copy=False))
    if arrays:
        raise UserError(
            f'{path}: not the ResNet-38 (A1) weights, {next(iter(arrays))} does not belong to it '
            f'({len(arrays)} left over); {_FIX}'
        )
    return state
