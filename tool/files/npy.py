"""What a `.npy` of a stranger may hold, read without running its code and without trusting its
sizes.

`header`, `numeric_array`, `dict_of_arrays` and `first_shape` raise some exception, mostly
ValueError, on anything else; `open_npy` turns it into a UserError that names the file.
"""

import contextlib
import io
import math
import os
import pickle
import pickletools
import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from tool.files.atomic import atomic, need_file
from tool.run.errors import UserError

_NUMBERS = ('BININT', 'BININT1', 'BININT2', 'LONG1')  # opcodes


def header(file: BinaryIO) -> tuple[tuple, np.dtype]:
    """Shape and dtype of an open .npy; the file is left at the start of the data."""
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(file)
    return shape, dtype


def numeric_array(file: BinaryIO) -> np.ndarray:
    """The array of an open .npy without pickle in it."""
    shape, dtype = header(file)
    if dtype.kind not in 'biuf':
        raise ValueError(f'an array of {dtype}, not of numbers')
    # the sizes are compared before anything is allocated
    claimed = math.prod(shape) * dtype.itemsize
    available = os.fstat(file.fileno()).st_size - file.tell()
    if claimed > available:
        raise ValueError(f'too short for an array of shape {shape}')
    file.seek(0)
    return np.load(file, allow_pickle=False)


class _Dtype:
    """What a pickle says about a dtype: its name ('f4'), led by its byte order once the state is
    known."""

    def __init__(self, name: str):
        self.name = name

    def __setstate__(self, state: tuple):
        self.name = state[1] + self.name


class _Array:
    """What a pickle says about an array.

    numpy's own unpickling trusts the pickle (a dtype whose flags are forged makes its bytes pass
    for addresses of objects), so the claims are collected here and numpy is given plain bytes and
    the name of a numeric type.
    """

    content = None

    def __setstate__(self, state: tuple):
        _, shape, dtype, fortran, data = state
        if dtype.name.endswith('O8'):
            # the file's outermost array, with the dict as its one element
            self.content = data[0] if isinstance(data, list) and shape == () else None
        else:
            self.fill(data, dtype, shape, bool(fortran))

    def fill(self, data: bytes | str, dtype: _Dtype, shape: tuple, fortran: bool) -> '_Array':
        if not re.fullmatch('[<>=|]?[biuf][0-9]+', dtype.name):
            raise pickle.UnpicklingError(f'it carries an array of {dtype.name}')
        data = data.encode('latin1') if isinstance(data, str) else data  # str: written by Python 2
        flat = np.frombuffer(data, dtype.name)
        self.content = flat.reshape(shape, order='F' if fortran else 'C').copy()
        return self


class _NumpyOnly(pickle.Unpickler):
    """Unpickler that knows arrays and builtin containers, and nothing that could run code."""

    def find_class(self, module, name):
        # functions made anew each time, because a pickle can set attributes of what it is given
        def reconstruct(*_):
            return _Array()

        def scalar(dtype, data):
            return _Array().fill(data, dtype, (), fortran=False).content.item()

        def frombuffer(data, dtype, shape, order, *_):
            return _Array().fill(data, dtype, shape, fortran=order == 'F')

        def make_dtype(name, *_):
            return _Dtype(name)

        def encode(text, encoding='latin1'):  # how protocol 2 carries bytes
            return text.encode('latin1')

        known = {
            'numpy._core.multiarray._reconstruct': reconstruct,
            'numpy._core.multiarray.scalar': scalar,
            'numpy._core.numeric._frombuffer': frombuffer,
            'numpy.dtype': make_dtype,
            'numpy.ndarray': None,  # only ever an argument of _reconstruct: None cannot be called
            '_codecs.encode': encode,
        }
        entry = f'{module.replace("numpy.core", "numpy._core")}.{name}'
        if entry not in known:
            raise pickle.UnpicklingError(f'it carries {module}.{name}, which is not data')
        return known[entry]


def dict_of_arrays(body: bytes) -> dict[str | int, np.ndarray]:
    """The dict of str/int keys to numeric arrays in a pickle."""
    # genops fails where a length points past the end; load() would allocate both that and the memo
    for opcode, argument, _ in pickletools.genops(body):
        if 'PUT' in opcode.name and int(argument or 0) > len(body):
            raise pickle.UnpicklingError('its memo is larger than the file')
    loaded = _NumpyOnly(io.BytesIO(body), encoding='latin1').load()
    value = loaded.content if isinstance(loaded, _Array) else None
    if not isinstance(value, dict):
        raise pickle.UnpicklingError(
            f'holds {"an array" if isinstance(value, np.ndarray) else "something else"}'
        )
    for key, array in value.items():
        if not isinstance(key, (str, int)) or isinstance(key, bool):
            raise pickle.UnpicklingError(
                f'a key is neither text nor a whole number but {type(key).__name__}'
            )
        if not isinstance(array, _Array) or not isinstance(array.content, np.ndarray):
            raise pickle.UnpicklingError(f'entry {key!r} is not a numeric array')
    return {key: array.content for key, array in value.items()}


def first_shape(head: bytes) -> tuple[int, int] | None:
    """Shape of the first two-dimensional array in a pickle, from its first bytes; None where they
    do not tell."""
    numbers: list[int] = []  # whole numbers in a row; those before a TUPLE2 are a shape
    with contextlib.suppress(ValueError):  # the head ends in the middle of the data
        for opcode, argument, _ in pickletools.genops(head):
            if opcode.name == 'TUPLE2' and len(numbers) >= 2:
                return numbers[-2], numbers[-1]
            if opcode.name in _NUMBERS:
                numbers.append(int(argument or 0))
            elif opcode.name not in ('MEMOIZE', 'BINPUT', 'LONG_BINPUT'):
                numbers.clear()
    return None


def read_npy(path: str) -> dict | np.ndarray:
    """A `.npy` that holds a plain numeric array, or a dict of str/int keys to numeric arrays.

    Raises:
        UserError: missing, truncated, or it carries anything else (its code is not run).
    """
    with open_npy(path) as (file, _, dtype):
        if dtype.hasobject:
            return dict_of_arrays(file.read())
        file.seek(0)
        return numeric_array(file)


@contextlib.contextmanager
def open_npy(path: str) -> Iterator[tuple[BinaryIO, tuple, np.dtype]]:
    """(file at the start of its data, shape, dtype); whatever goes wrong while it is open is a
    UserError."""
    need_file(path, 'run the stage that writes it first')
    try:
        with open(path, 'rb') as file:
            yield file, *header(file)
    except UserError:
        raise
    except Exception as error:  # a damaged or hostile file can raise anything
        raise UserError(
            f'{path}: refused, not an array or a plain dict of arrays ({error}); write it again'
        ) from None


def write_npy(path: str, value: dict | np.ndarray) -> None:
    """np.save of an array or a dict of arrays, atomically."""
    with atomic(path) as temporary, open(temporary, 'wb') as file:
        np.save(file, value)  # type: ignore[arg-type]  # a dict becomes an object array
