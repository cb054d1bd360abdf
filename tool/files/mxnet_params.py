"""MXNet `.params` files, read without MXNet, and the ImageNet ResNet-38 weights in one of them
(method §1).

The file is a list of arrays followed by their names, little-endian; the layout stands in `_Reader`.
Sizes in it are never
trusted: each is checked against the bytes that are left before anything is read.
"""

import os
import struct
from typing import BinaryIO

import numpy as np

from tool.files.atomic import need_file
from tool.run.errors import UserError

_LIST = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DTYPES = ('<f4', '<f8', '<f2', 'u1', '<i4', 'i1', '<i8')
_MAX_DIMS = 32
_SMALLEST = (
    28  # bytes of an array and its name at the least: five u32 and the u64 of the name's length
)
_FIX = 'download the file again (--weights wants the MXNet ResNet-38 of README.md)'


class _Reader:
    """A file that knows how many bytes are left and refuses to read past them."""

    def __init__(self, file: BinaryIO, path: str):
        self.file, self.path = file, path
        self.left = os.fstat(file.fileno()).st_size

    def fail(self, reason: str) -> UserError:
        return UserError(f'{self.path}: not a whole MXNet .params file ({reason}); {_FIX}')

    def bytes(self, count: int, what: str) -> bytes:
        self.need(count, what)
        self.left -= count
        return self.file.read(count)

    def need(self, count: int, what: str) -> None:
        if count > self.left:
            raise self.fail(f'it ends within {what}: {count} bytes wanted, {self.left} left')

    def numbers(self, code: str, count: int, what: str) -> tuple[int, ...]:
        """`count` integers of a struct code (I, i, q or Q)."""
        layout = f'<{count}{code}'
        return struct.unpack(layout, self.bytes(struct.calcsize(layout), what))

    def array(self, what: str) -> np.ndarray:
        """u32 magic [, i32 storage type], shape, i32 device type, i32 device id, i32 dtype,
        data."""
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
        else:  # V0 has no magic number: its first word is the number of dimensions
            dims, code = first, 'I'
        never_filled = dims == 0 and first != _V3  # from V3 on, an array may have 0 dimensions
        if dims > _MAX_DIMS or never_filled:
            raise self.fail(f'{what} has {dims} dimensions')
        shape = self.numbers(code, dims, what)
        _, _, number = self.numbers('i', 3, what)
        if not 0 <= number < len(_DTYPES):
            raise self.fail(f'{what} has data type {number}, known are 0…{len(_DTYPES) - 1}')
        return self.data(shape, np.dtype(_DTYPES[number]), what)

    def data(self, shape: tuple[int, ...], dtype: np.dtype, what: str) -> np.ndarray:
        size = 1
        for length in shape:  # Python integers: the product cannot overflow
            size *= length
        if any(length <= 0 for length in shape):
            raise self.fail(f'{what} has shape {shape}')
        self.need(size * dtype.itemsize, what)
        self.left -= size * dtype.itemsize
        return np.fromfile(self.file, dtype, size).reshape(shape)


def load_mxnet_params(path: str) -> dict[str, np.ndarray]:
    """All arrays of an MXNet list file (`mx.nd.save`, `.params`; array versions V0…V3) by name.

    Args:
        path: the file; dense arrays of f32, f64, f16, u8, i32, i8 or i64.
    Returns:
        {name: array} in the file's order; the names without a leading 'arg:' or 'aux:'.
    Raises:
        UserError: missing, truncated, sparse, without names, or not such a file.
    """
    need_file(path, _FIX)
    with open(path, 'rb') as file:
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
    (length,) = reader.numbers('Q', 1, what)
    try:
        name = reader.bytes(length, what).decode()
    except UnicodeDecodeError:
        raise reader.fail(f'{what} is no text') from None
    return name[4:] if name.startswith(('arg:', 'aux:')) else name


# ---------------------------------------------------------------- ResNet-38

_UNITS = {'2': 3, '3': 3, '4': 6, '5': 3, '6': 1, '7': 1}  # units of a stage: a, b1, b2, …
_STATISTICS = {
    'weight': ('gamma',),
    'bias': ('beta',),
    'running_mean': ('moving_mean', 'mean'),
    'running_var': ('moving_var', 'var'),
}


def _norm(ours: str, theirs: str) -> dict[str, tuple[str, ...]]:
    return {
        f'{ours}.{key}': tuple(f'{theirs}_{name}' for name in names)
        for key, names in _STATISTICS.items()
    }


def resnet38_names() -> dict[str, tuple[str, ...]]:
    """{key of the backbone's state dict: its possible MXNet names}, 191 entries in the state dict's
    order."""
    table: dict[str, tuple[str, ...]] = {'conv1a.weight': ('conv1a_weight',)}
    for stage, count in _UNITS.items():
        bottleneck = stage in '67'
        for index in range(count):
            ours = f'b{stage}_{index}' if index else f'b{stage}'
            theirs = f'{stage}b{index}' if index else f'{stage}a'
            for branch in ('branch2a', 'branch2b1') + ('branch2b2',) * bottleneck:
                table.update(_norm(f'{ours}.bn_{branch}', f'bn{theirs}_{branch}'))
                table[f'{ours}.conv_{branch}.weight'] = (f'res{theirs}_{branch}_weight',)
            if index == 0:  # only a stage's first unit changes the shape
                table[f'{ours}.conv_branch1.weight'] = (f'res{theirs}_branch1_weight',)
    return table | _norm('bn7', 'bn7')


def resnet38_from_mxnet(path: str) -> dict:
    """State dict {key: float32 tensor} of the ResNet-38 backbone out of the MXNet ImageNet weights,
    191 tensors.

    The classifier (linear1000_*) is dropped. Shapes are left to `load_state_dict`, which knows the
    network's width.

    Raises:
        UserError: not an MXNet file, or its arrays are not exactly those of ResNet-38; names the
            first that differs.
    """
    import torch  # here, so that looking into a file does not load torch

    arrays = {
        name: array
        for name, array in load_mxnet_params(path).items()
        if not name.startswith('linear1000_')
    }
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
