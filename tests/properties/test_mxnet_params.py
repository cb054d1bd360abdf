"""tool/files/mxnet_params.py: any `.params` file, written and read again, damaged or cut."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from damage import one_byte_changed, peak_memory, several_bytes_changed, shorter
from tool.files.mxnet_params import load_mxnet_params
from tool.run.errors import UserError

DTYPES = ['<f4', '<f8', '<f2', 'u1', '<i4', 'i1', '<i8']
MAGIC = {1: 0xF993FAC8, 2: 0xF993FAC9, 3: 0xF993FACA}
MEMORY = 1 << 20  # bytes that reading one of the small files here may take

NAMES = st.text(st.characters(exclude_categories=['Cs']), max_size=8).filter(
    lambda name: not name.startswith(('arg:', 'aux:'))
)
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: st_numpy.arrays(np.dtype(dtype), st_numpy.array_shapes(max_dims=4, max_side=3))
)
LISTS = st.dictionaries(NAMES, ARRAYS, max_size=4)
VERSIONS = st.integers(0, 3)


def array_bytes(array, version):
    """An array as a version of MXNet writes it."""
    if version == 0:
        shape = struct.pack(f'<I{array.ndim}I', array.ndim, *array.shape)
    else:
        shape = struct.pack(f'<I{array.ndim}q', array.ndim, *array.shape)
    magic = struct.pack('<I', MAGIC[version]) if version else b''
    storage = struct.pack('<i', 0) if version > 1 else b''
    number = DTYPES.index(array.dtype.str.replace('|', ''))
    device_and_type = struct.pack('<3i', 1, 0, number)
    return magic + storage + shape + device_and_type + array.tobytes()


def params_bytes(arrays, version, prefix=''):
    """The file that a version of MXNet writes of {name: array}."""
    parts = [struct.pack('<3Q', 0x112, 0, len(arrays))]
    for array in arrays.values():
        parts.append(array_bytes(array, version))
    parts.append(struct.pack('<Q', len(arrays)))
    for name in arrays:
        text = (prefix + name).encode()
        parts.append(struct.pack('<Q', len(text)) + text)
    return b''.join(parts)


FILES = st.builds(params_bytes, LISTS, VERSIONS)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'net.params')


def write(path, content):
    with open(path, 'wb') as file:
        file.write(content)


def load_or_error(path, content):
    """The arrays of a file with this content, or the UserError, for little memory."""
    write(path, content)
    result, peak = peak_memory(lambda: load_mxnet_params(path))
    assert peak < MEMORY
    if isinstance(result, Exception):
        assert isinstance(result, UserError), repr(result)
        assert 'net.params: ' in str(result)  # of a long path the start is left out
    return result


@given(arrays=LISTS, version=VERSIONS, prefix=st.sampled_from(['', 'arg:', 'aux:']))
def test_arrays_are_read_as_they_were_written(path, arrays, version, prefix):
    loaded = load_or_error(path, params_bytes(arrays, version, prefix))
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


@given(content=FILES.flatmap(shorter))
def test_a_file_that_is_cut_anywhere_is_refused(path, content):
    assert isinstance(load_or_error(path, content), UserError)


@given(content=FILES, more=st.binary(min_size=1, max_size=9))
def test_a_file_that_goes_on_is_refused(path, content, more):
    assert isinstance(load_or_error(path, content + more), UserError)


@given(content=FILES.flatmap(lambda file: several_bytes_changed(file) | one_byte_changed(file)))
def test_a_damaged_file_is_still_arrays_or_one_clean_error(path, content):
    """The format has no checksum, so other numbers, names and shapes are believed if they fill the
    file exactly."""
    loaded = load_or_error(path, content)
    if isinstance(loaded, UserError):
        return
    version_0_size = 24 + 8  # of the header and of the number of names
    stored = version_0_size + sum(array.nbytes + len(name) for name, array in loaded.items())
    assert stored <= len(content)
    for array in loaded.values():
        assert array.dtype.str.replace('|', '') in DTYPES


@given(data=st.data(), array=ARRAYS, version=VERSIONS)
def test_a_changed_byte_of_the_numbers_changes_one_number(path, data, array, version):
    content = params_bytes({'first': array, 'second': array}, version)
    end = content.index(array_bytes(array, version)) + len(array_bytes(array, version))
    loaded = load_or_error(path, data.draw(one_byte_changed(content, end - array.nbytes, end)))
    assert list(loaded) == ['first', 'second']
    assert loaded['first'].shape == array.shape and loaded['first'].dtype == array.dtype
    changed = loaded['first'].reshape(-1, 1).view(np.uint8) != array.reshape(-1, 1).view(np.uint8)
    assert changed.sum() <= 1
    np.testing.assert_array_equal(loaded['second'], array)
