"""`.npy` files from strangers, read without running their code or trusting their sizes.

Time and memory are bounded by a small multiple of the file's size (see also `tool.files.pickles`).
A file may hold a numeric array, or a pickled dict of numeric arrays with str or int keys. On
anything else `header`, `numeric_array`, `dict_of_arrays` and `first_shape` raise some exception,
mostly a ValueError, and `open_npy` turns it into a UserError that names the file.
"""

import contextlib
import io
import math
import os
import pickle
import pickletools
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from tool.files.atomic import need_file, write_bytes
from tool.files.pickles import scan
from tool.files.reading import open_file
from tool.run.errors import UserError

# {version of the format: struct's code of the length of its header}
_LENGTHS = {(1, 0): '<H', (2, 0): '<I', (3, 0): '<I'}
# Bytes that a header has at most; numpy refuses longer ones, too.
_LONGEST_HEADER = 10_000
# The opcodes of a pickle that push a whole number.
_NUMBERS = ('BININT', 'BININT1', 'BININT2', 'LONG1')
# The opcodes of a pickle that store the topmost value in the memo; they change no value.
_MEMO = ('MEMOIZE', 'BINPUT', 'LONG_BINPUT')


def header(file: BinaryIO) -> tuple[tuple, np.dtype]:
    """Shape and dtype of an open .npy file, which is then at the start of its data."""
    version = np.lib.format.read_magic(file)
    if version not in _LENGTHS:
        raise ValueError(f'version {version} of the format')
    # numpy makes room for a header as long as the file says, before it looks how long that is
    start = file.tell()
    code = _LENGTHS[version]
    (length,) = struct.unpack(code, file.read(struct.calcsize(code)))
    if length > _LONGEST_HEADER:
        raise ValueError(f'a header of {length:,} bytes')
    file.seek(start)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    # who reads the header only would take it for a size
    if any(length < 0 for length in shape):
        raise ValueError(f'an array of shape {shape}')
    return shape, dtype


def numeric_array(file: BinaryIO) -> np.ndarray:
    """The array of an open .npy file that holds no pickle."""
    shape, dtype = header(file)
    if dtype.kind not in 'biuf':
        raise ValueError(f'an array of {dtype}, not of numbers')
    # Compare the sizes before anything is allocated.
    claimed = math.prod(shape) * dtype.itemsize
    available = os.fstat(file.fileno()).st_size - file.tell()
    if claimed > available:
        raise ValueError(f'too short for an array of shape {shape}')
    file.seek(0)
    return np.load(file, allow_pickle=False)


class _Dtype:
    """A dtype as a pickle describes it: its name, e.g. 'f4', or '<f4' once the state is known."""

    def __init__(self, name: str):
        # 'O8' is that of the file's outermost array, whose one element is the dict. 'U12' is that
        # of a text that numpy has made, such as a name that np.loadtxt has read.
        if not re.fullmatch('[biuf][0-9]{1,2}|O8|U[0-9]{1,4}', name):
            raise pickle.UnpicklingError(f'it carries an array of {name}')
        self.kind = name
        self.order = ''

    @property
    def name(self) -> str:
        return self.order + self.kind

    @property
    def is_text(self) -> bool:
        return self.kind.startswith('U')

    def __setstate__(self, state: tuple):
        order = state[1]
        if order not in ('<', '>', '=', '|'):
            raise pickle.UnpicklingError(f'it carries an array of byte order {order}')
        self.order = order


class _Array:
    """An array as a pickle describes it.

    numpy's own unpickling trusts the pickle: a dtype with forged flags makes numpy take bytes for
    addresses of objects. So this class only collects what the pickle says, and numpy is given plain
    bytes and the name of a numeric type.

    Args:
        budget: how much may be made.
    Attributes:
        content: the array, once its state is known; of the file's outermost array, its one element.
    """

    content: Any = None

    def __init__(self, budget: '_Budget'):
        self._budget = budget

    def __setstate__(self, state: tuple):
        _, shape, dtype, fortran, data = state
        if dtype.kind != 'O8':
            self.fill(data, dtype, shape, bool(fortran))
        elif isinstance(data, list) and shape == ():
            # An array of objects is the file's outermost one; its one element is the dict.
            self.content = data[0]
        else:
            self.content = None

    def fill(self, data: bytes | str, dtype: _Dtype, shape: tuple, fortran: bool) -> '_Array':
        """Make the array; UnpicklingError unless it is one of numbers."""
        if dtype.kind == 'O8':
            raise pickle.UnpicklingError('it carries an array of objects')
        if dtype.is_text:
            raise pickle.UnpicklingError(f'it carries an array of texts ({dtype.kind})')
        self._budget.take(len(data))
        if isinstance(data, str):  # as Python 2 wrote bytes
            data = data.encode('latin1')
        flat = np.frombuffer(data, dtype.name)
        self.content = flat.reshape(shape, order='F' if fortran else 'C').copy()
        return self


def _text(data: bytes | str, dtype: _Dtype) -> str:
    """A text that numpy has made, from its bytes.

    numpy itself would take any four bytes for a character.

    Raises:
        UnpicklingError: the bytes are no text.
    """
    if isinstance(data, str):  # as Python 2 wrote bytes
        data = data.encode('latin1')
    encoding = 'utf-32-be' if dtype.order == '>' else 'utf-32-le'
    try:
        return data.decode(encoding).rstrip('\0')
    except UnicodeDecodeError:
        raise pickle.UnpicklingError('it carries a damaged text') from None


class _Budget:
    """The number of bytes that may still be made from a pickle.

    One bytes object of the pickle, used for a thousand arrays, would make a thousand copies.
    """

    def __init__(self, size: int):
        self.left = size

    def take(self, size: int) -> None:
        """Count bytes that are made; UnpicklingError if they are too many."""
        self.left -= size
        if self.left < 0:
            raise pickle.UnpicklingError('its arrays are larger than the file')


class _NumpyOnly(pickle.Unpickler):
    """Unpickler that knows arrays and builtin containers, and nothing that could run code.

    Args:
        body: the pickle, which `scan` has been through.
    """

    def __init__(self, body: bytes):
        super().__init__(io.BytesIO(body), encoding='latin1')
        # the numbers of an array are copied once, and once more where they are stored as text
        self._budget = _Budget(2 * len(body))

    def find_class(self, module: str, name: str) -> Any:
        """The function or class that stands for a name in the pickle.

        A name that is not data raises UnpicklingError.

        The functions are made anew in each call, because a pickle can set attributes of what it is
        given.
        """
        budget = self._budget

        def reconstruct(*_):
            return _Array(budget)

        def scalar(dtype, data):
            if dtype.is_text:
                budget.take(len(data))
                return _text(data, dtype)
            return _Array(budget).fill(data, dtype, (), fortran=False).content.item()

        def frombuffer(data, dtype, shape, order, *_):
            return _Array(budget).fill(data, dtype, shape, fortran=order == 'F')

        def make_dtype(name, *_):
            return _Dtype(name)

        def encode(text, encoding='latin1'):  # protocol 2 stores bytes as text
            budget.take(len(text))
            return text.encode('latin1')

        known = {
            'numpy._core.multiarray._reconstruct': reconstruct,
            'numpy._core.multiarray.scalar': scalar,
            'numpy._core.numeric._frombuffer': frombuffer,
            'numpy.dtype': make_dtype,
            'numpy.ndarray': None,  # an argument of _reconstruct only: None cannot be called
            '_codecs.encode': encode,
        }
        entry = f'{module.replace("numpy.core", "numpy._core")}.{name}'
        if entry not in known:
            raise pickle.UnpicklingError(f'it carries {module}.{name}, which is not data')
        return known[entry]


def dict_of_arrays(body: bytes) -> dict[str | int, np.ndarray]:
    """The dict in a pickle: {str or int: numeric array}.

    Keys of the pickle that share an array share it in the dict, too.
    """
    scan(io.BytesIO(body))
    loaded = _NumpyOnly(body).load()
    value = loaded.content if isinstance(loaded, _Array) else None
    if not isinstance(value, dict):
        what = 'an array' if isinstance(value, np.ndarray) else 'something else'
        raise pickle.UnpicklingError(f'holds {what}')
    for key, array in value.items():
        if not isinstance(key, (str, int)) or isinstance(key, bool):
            raise pickle.UnpicklingError(
                f'a key is neither text nor a whole number but {type(key).__name__}'
            )
        if not isinstance(array, _Array) or not isinstance(array.content, np.ndarray):
            raise pickle.UnpicklingError(f'entry {key!r} is not a numeric array')
    return {key: array.content for key, array in value.items()}


def first_shape(head: bytes) -> tuple[int, int] | None:
    """Shape of the first two-dimensional array in a pickle; None if it is not in `head`.

    Args:
        head: the first bytes of the pickle.
    """
    # The whole numbers that follow each other directly. If a pair (opcode TUPLE2) is made of them,
    # it is a shape.
    numbers: list[int] = []
    with contextlib.suppress(ValueError):  # raised where the head ends within the data
        for opcode, argument, _ in pickletools.genops(head):
            if opcode.name == 'TUPLE2' and len(numbers) >= 2:
                return numbers[-2], numbers[-1]
            if opcode.name in _NUMBERS:
                numbers.append(int(argument or 0))
            elif opcode.name not in _MEMO:
                numbers.clear()
    return None


def read_npy(path: str) -> dict | np.ndarray:
    """Read a `.npy` file: a numeric array, or a dict of them with str or int keys.

    Raises:
        UserError: the file is missing, truncated, or holds anything else. Its code is not run.
    """
    with open_npy(path) as (file, _, dtype):
        if dtype.hasobject:
            return dict_of_arrays(file.read())
        file.seek(0)
        return numeric_array(file)


@contextlib.contextmanager
def open_npy(path: str) -> Iterator[tuple[BinaryIO, tuple, np.dtype]]:
    """Open a `.npy` file.

    Yields:
        The file, at the start of its data; the shape and the dtype that its header says.
    Raises:
        UserError: the file is missing, or anything goes wrong while it is open.
    """
    need_file(path, 'run the stage that writes it first')
    try:
        with open_file(path) as file:
            yield file, *header(file)
    except UserError:
        raise
    except Exception as error:  # a damaged or hostile file can raise anything
        raise UserError(
            f'{path}: refused, not an array or a plain dict of arrays ({error}); write it again'
        ) from None


def write_npy(path: str, value: dict | np.ndarray) -> None:
    """Write an array or a dict of arrays atomically, as np.save does.

    Raises:
        OutputError: the file cannot be written; the one that was there is left as it was.
    """
    buffer = io.BytesIO()
    np.save(buffer, value)  # type: ignore[arg-type]  # a dict becomes an object array
    write_bytes(path, buffer.getbuffer())
