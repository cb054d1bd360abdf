"""tool/files/mat_files.py: scipy's files are read as scipy reads them, hostile ones are refused."""

import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import loadmat, savemat
from scipy.sparse import csc_matrix

from tool.files.mat_files import read_field

MASK = np.arange(12, dtype=np.uint8).reshape(3, 4)


def mat(compressed=True, mask=MASK, **fields):
    """A file as SBD has them: a struct of the mask, sparse boundaries of the classes, and which
    classes there are."""
    boundaries = np.empty((20, 1), object)
    for index in range(20):
        boundaries[index, 0] = csc_matrix(np.eye(5, 7, index))
    record = {
        'Boundaries': boundaries,
        'Segmentation': mask,
        'CategoriesPresent': np.array([[3.0, 7.0]]),
        **fields,
    }
    file = io.BytesIO()
    savemat(file, {'other': np.ones((2, 2)), 'GTcls': record}, do_compression=compressed)
    return file.getvalue()


@pytest.mark.parametrize('compressed', [False, True])
@pytest.mark.parametrize('shape', [(3, 4), (1, 1), (1, 3), (500, 375), (0, 0)])
def test_the_values_are_those_that_scipy_reads(compressed, shape):
    mask = np.random.default_rng(1).integers(0, 21, shape, dtype=np.uint8)
    content = mat(compressed, mask)
    of_scipy = loadmat(io.BytesIO(content))['GTcls'][0]['Segmentation'][0]
    found = read_field(content, 'GTcls', 'Segmentation')
    assert found.dtype == np.uint8 and found.flags.writeable
    assert np.array_equal(found, of_scipy) and np.array_equal(found, mask)


def test_a_mask_of_one_value_is_not_taken_for_a_bomb():
    mask = np.zeros((500, 500), np.uint8)
    assert np.array_equal(read_field(mat(mask=mask), 'GTcls', 'Segmentation'), mask)


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'no MATLAB file of version 5'),
        (b'x' * 500, 'no MATLAB file of version 5'),
        (mat(mask=np.ones((2, 2))), 'no two-dimensional uint8 array'),
        (mat(mask=np.ones((2, 2, 2), np.uint8)), 'no two-dimensional uint8 array'),
        (mat()[:-20], 'it ends too early'),
    ],
)
def test_what_is_no_mask_is_a_value_error(content, message):
    with pytest.raises(ValueError, match=message):
        read_field(content, 'GTcls', 'Segmentation')


def test_what_is_not_there_is_named():
    with pytest.raises(ValueError, match='no struct GTinst'):
        read_field(mat(), 'GTinst', 'Segmentation')
    with pytest.raises(ValueError, match='no field Instances'):
        read_field(mat(), 'GTcls', 'Instances')


def element(kind, data):
    return struct.pack('<II', kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(matrix_class, dimensions, name, *content):
    head = element(6, struct.pack('<II', matrix_class, 0))
    sizes = element(5, struct.pack(f'<{len(dimensions)}i', *dimensions))
    return element(14, head + sizes + element(1, name) + b''.join(content))


def struct_of(segmentation):
    """A file with a struct of one field."""
    names = element(5, struct.pack('<i', 16)) + element(1, b'Segmentation'.ljust(16, b'\0'))
    header = b'MATLAB 5.0 MAT-file'.ljust(124) + b'\0\1IM'
    return header + matrix(2, (1, 1), b'GTcls', names, segmentation)


def packed(content):
    data = zlib.compress(content[128:], 9)
    return content[:128] + struct.pack('<II', 15, len(data)) + data


HOSTILE = {
    'dimensions': struct_of(matrix(9, (2**31 - 1, 2**31 - 1), b'', element(2, b'abc'))),
    'cells': struct_of(matrix(1, (2**31 - 1, 1), b'')),
    'negative': struct_of(matrix(9, (-1, -3), b'', element(2, b'abc'))),
    'bomb': packed(struct_of(matrix(9, (1, 2**28), b'', element(2, bytes(2**28))))),
}


def test_the_hostile_files_are_built_as_scipy_reads_them():
    content = struct_of(matrix(9, (3, 4), b'', element(2, MASK.tobytes(order='F'))))
    for file in (content, packed(content)):
        found = loadmat(io.BytesIO(file))['GTcls'][0]['Segmentation'][0]
        assert np.array_equal(found, MASK)
        assert np.array_equal(read_field(file, 'GTcls', 'Segmentation'), MASK)


@pytest.mark.parametrize('kind', HOSTILE)
def test_a_small_file_takes_little_time_and_memory(kind):
    assert len(HOSTILE[kind]) < 300_000
    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(ValueError):
        read_field(HOSTILE[kind], 'GTcls', 'Segmentation')
    assert time.process_time() - begin < 2
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 << 20


@given(data=st.data(), compressed=st.booleans())
def test_a_damaged_file_is_another_mask_or_one_clean_error(data, compressed):
    content = bytearray(mat(compressed))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    try:
        found = read_field(bytes(content[:end]), 'GTcls', 'Segmentation')
    except ValueError:
        return
    assert found.dtype == np.uint8 and found.ndim == 2
