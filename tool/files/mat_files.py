"""Reading the masks of SBD out of MATLAB's files of version 5, without trusting them.

A file is a header of 128 bytes and elements, one for each variable, which may be compressed. An
element is a tag (type, bytes that follow) and these bytes. A matrix is an element that holds
elements: flags with its class, its dimensions, its name, and its content.

General readers make arrays of the dimensions that a file claims, and unpack whatever is compressed:
a few bytes fill the memory. Here only the one field that is asked for is read. What is made of it
is not larger than what is there, and what is there is unpacked up to a limit.

Source: MATLAB MAT-File Format, The MathWorks, R2023a.
"""

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np

_HEADER = 128  # bytes
# types of elements
_INT8 = 1
_UINT8 = 2
_INT32 = 5
_UINT32 = 6
_MATRIX = 14
_COMPRESSED = 15
# classes of matrices
_STRUCT = 2
_CLASS_UINT8 = 9
# A file may unpack to so many times its own size, and to so many bytes more. A mask of 500 × 500
# pixels is 250 kB, of which a hundredth may be left when it is compressed.
_MOST_TIMES = 20
_SPARE = 8 << 20


def read_field(content: bytes, variable: str, field: str) -> np.ndarray:
    """A field of a struct in a MATLAB file: a matrix of uint8.

    Args:
        content: the file.
        variable: name of the variable, a struct of 1 × 1.
        field: name of the field.
    Returns:
        uint8 [H, W].
    Raises:
        ValueError: the file is damaged, of another kind or too large when unpacked, or it has no
            such field.
    """
    order = _byte_order(content)
    limit = _MOST_TIMES * len(content) + _SPARE
    for kind, data in _elements(content[_HEADER:], order):
        if kind == _COMPRESSED:
            data = _unpacked(data, limit)
            limit -= len(data)
            kind, data = _first(_elements(data, order))
        if kind != _MATRIX:
            continue
        parts = _elements(data, order)
        matrix_class, dimensions, name = _head(parts, order)
        if name == variable and matrix_class == _STRUCT:
            if math.prod(dimensions) != 1:
                raise ValueError(f'{variable} is not one struct')
            return _uint8_matrix(_field(parts, field, order), order)
    raise ValueError(f'no struct {variable}')


def _byte_order(content: bytes) -> str:
    """'<' or '>', as the module struct names the order of bytes.

    Raises:
        ValueError: the file is not of version 5.
    """
    orders = {b'\0\1IM': '<', b'\1\0MI': '>'}
    order = orders.get(content[_HEADER - 4 : _HEADER])
    if order is None:
        raise ValueError('no MATLAB file of version 5')
    return order


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield (type, bytes) of elements that follow each other.

    Raises:
        ValueError: one ends beyond the data.
    """
    start = 0
    while start + 8 <= len(data):
        kind, size = struct.unpack_from(f'{order}II', data, start)
        begin = start + 8
        if kind >> 16:  # an element of up to 4 bytes, which stand in the tag
            size = kind >> 16
            kind &= 0xFFFF
            begin = start + 4
            end = start + 8
            if size > 4:
                raise ValueError('a damaged tag')
        elif kind == _COMPRESSED:
            end = begin + size
        else:
            end = begin + (size + 7) // 8 * 8  # padded
        if begin + size > len(data):
            raise ValueError('it ends too early')
        yield kind, data[begin : begin + size]
        start = end


def _first(elements: Iterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    """The next element; ValueError where there is none."""
    for element in elements:
        return element
    raise ValueError('it ends too early')


def _unpacked(data: bytes, limit: int) -> bytes:
    """The content of a compressed element.

    Raises:
        ValueError: it is damaged, or larger than the limit.
    """
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(data, max(1, limit))
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if unpacker.unconsumed_tail:
        raise ValueError(f'it unpacks to more than {limit:,} bytes')
    return unpacked


def _head(parts: Iterator[tuple[int, bytes]], order: str) -> tuple[int, tuple[int, ...], str]:
    """The class, the dimensions and the name of a matrix, its first three elements.

    Raises:
        ValueError: they are something else.
    """
    kind, flags = _first(parts)
    if kind != _UINT32 or len(flags) != 8:
        raise ValueError('a matrix without flags')
    kind, sizes = _first(parts)
    if kind != _INT32 or len(sizes) % 4:
        raise ValueError('a matrix without dimensions')
    dimensions = struct.unpack(f'{order}{len(sizes) // 4}i', sizes)
    if min(dimensions, default=-1) < 0:
        raise ValueError('a negative dimension')
    _, name = _first(parts)
    matrix_class = struct.unpack_from(f'{order}I', flags)[0] & 0xFF
    return matrix_class, dimensions, name.decode('latin-1')


def _field(parts: Iterator[tuple[int, bytes]], field: str, order: str) -> bytes:
    """The content of a field of one struct, a matrix.

    Args:
        parts: the elements of the struct behind its name: how long the names of the fields are, the
            names, and a matrix for each field.
    Raises:
        ValueError: there is no such field.
    """
    kind, length = _first(parts)
    if kind != _INT32 or len(length) != 4:
        raise ValueError('a struct without fields')
    width = struct.unpack(f'{order}i', length)[0]
    _, names = _first(parts)
    if width < 1:
        raise ValueError('a struct without names of fields')
    for start in range(0, len(names), width):
        kind, data = _first(parts)
        name = names[start : start + width].partition(b'\0')[0].decode('latin-1')
        if name == field and kind == _MATRIX:
            return data
    raise ValueError(f'no field {field}')


def _uint8_matrix(data: bytes, order: str) -> np.ndarray:
    """A matrix of uint8, [H, W].

    Raises:
        ValueError: it is of another class, has other dimensions, or is not as large as it says.
    """
    parts = _elements(data, order)
    matrix_class, dimensions, _ = _head(parts, order)
    if matrix_class != _CLASS_UINT8 or len(dimensions) != 2:
        raise ValueError('no two-dimensional uint8 array')
    kind, values = _first(parts)
    if kind not in (_INT8, _UINT8) or len(values) != math.prod(dimensions):
        raise ValueError(f'not the {dimensions[0]} × {dimensions[1]} values that it claims')
    return np.frombuffer(values, np.uint8).reshape(dimensions, order='F').copy(order='C')
