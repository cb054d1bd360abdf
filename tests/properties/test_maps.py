"""tool/files/maps.py: any CAM or CRF file, written and read again, damaged or cut."""

import io
import pickle
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from damage import one_byte_changed, peak_memory, several_bytes_changed, shorter
from tool.files.maps import maps_size, read_maps
from tool.files.npy import write_npy
from tool.run.errors import UserError
from voc12.classes import VOC

CLASSES = VOC.num_classes
# Bytes that reading one of the small files here may take. The modules that a first call imports
# take more than the arrays.
MEMORY = 1 << 20


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'file.npy')


@st.composite
def map_arrays(draw, number, dtype=np.float32):
    """This number of maps of one size, [number, H, W], with scores in 0…1."""
    height = draw(st.integers(1, 5))
    width = draw(st.integers(1, 5))
    scores = st.floats(0, 1, width=16)  # they are exact in each of the types
    shape = (number, height, width)
    return draw(st_numpy.arrays(np.dtype(dtype), shape, elements=scores))


@st.composite
def map_dicts(draw):
    """What stages write: {class id: map}, of any classes, also of none."""
    keys = draw(st.lists(st.integers(0, CLASSES - 1), max_size=4, unique=True))
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64, '>f4']))
    maps = draw(map_arrays(len(keys), dtype))
    key_type = draw(st.sampled_from([int, np.int64, np.uint8]))
    return {key_type(key): values for key, values in zip(keys, maps)}


def npy_bytes(value, protocol):
    """The file that np.save writes, its dict pickled by this protocol; an array as it is."""
    file = io.BytesIO()
    if isinstance(value, np.ndarray):
        np.save(file, value)
    else:
        header = {'descr': '|O', 'fortran_order': False, 'shape': ()}
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(np.array(value, dtype=object), file, protocol)
    return file.getvalue()


def map_files():
    """The bytes of files in both layouts, and of dicts by every protocol that holds arrays well."""
    dicts = st.builds(npy_bytes, map_dicts(), st.sampled_from([2, 3, 4, 5]))
    arrays = st.builds(npy_bytes, map_arrays(CLASSES), st.none())
    return dicts | arrays


def write(path, content):
    with open(path, 'wb') as file:
        file.write(content)


def read_or_error(path, read):
    """What `read` gives of a file, or the UserError that it raises, for little memory."""
    result, peak = peak_memory(lambda: read(path, VOC))
    assert peak < MEMORY
    if isinstance(result, Exception):
        assert isinstance(result, UserError), repr(result)
        assert 'file.npy: ' in str(result)  # of a long path the start is left out
    return result


@given(maps=map_dicts())
def test_maps_are_read_as_they_were_written(path, maps):
    write_npy(path, maps)
    read = read_maps(path, VOC)
    assert list(read) == list(maps)
    for key, values in read.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, maps[key].astype(np.float32))
    size = next(iter(maps.values())).shape if maps else None
    assert maps_size(path, VOC) == (size, 'dict')


@given(maps=map_arrays(CLASSES))
def test_an_array_is_read_as_it_was_written(path, maps):
    write_npy(path, maps)
    np.testing.assert_array_equal(np.stack(list(read_maps(path, VOC).values())), maps)
    assert maps_size(path, VOC) == (maps.shape[1:], 'array')


@given(content=map_files().flatmap(shorter))
def test_a_file_that_is_cut_anywhere_is_refused(path, content):
    write(path, content)
    assert isinstance(read_or_error(path, read_maps), UserError)
    read_or_error(path, maps_size)


@pytest.mark.filterwarnings('ignore')  # numpy and Python warn of strange headers
@given(
    content=map_files().flatmap(lambda file: several_bytes_changed(file) | one_byte_changed(file))
)
def test_a_damaged_file_is_still_maps_or_one_clean_error(path, content):
    """The format has no checksum, so other numbers, class ids and sizes are believed if they can
    be those of maps."""
    write(path, content)
    maps = read_or_error(path, read_maps)
    read_or_error(path, maps_size)
    if isinstance(maps, UserError):
        return
    assert len({values.shape for values in maps.values()}) <= 1
    for key, values in maps.items():
        assert type(key) is int and 0 <= key < CLASSES
        assert values.dtype == np.float32 and values.ndim == 2
        assert values.size <= len(content)
        assert np.isfinite(values).all() and (values <= 2).all()


@given(data=st.data(), maps=map_arrays(CLASSES))
def test_a_changed_byte_of_the_numbers_changes_one_number(path, data, maps):
    content = npy_bytes(maps, None)
    start = len(content) - maps.nbytes
    write(path, data.draw(one_byte_changed(content, start)))
    read = read_or_error(path, read_maps)
    if not isinstance(read, UserError):  # the number is no score now
        assert list(read) == list(range(CLASSES))
        assert (np.stack(list(read.values())) != maps).sum() <= 1


@given(
    shape=st.lists(st.integers(-1, 50) | st.integers(0, 1 << 62), max_size=4).map(tuple),
    descr=st.sampled_from(['<f4', '>f8', '<f2', '|u1', '<i8', '|b1', '|O', '<c8', '<U9', '|V9']),
    version=st.sampled_from([(1, 0), (2, 0), (3, 0)]),
    content=st.binary(max_size=400),
)
@example(shape=(21, -1, -1), descr='|u1', version=(1, 0), content=bytes(21))
def test_the_size_that_a_header_says_is_not_believed(path, shape, descr, version, content):
    header = str({'descr': descr, 'fortran_order': False, 'shape': shape}).encode()
    length = struct.pack('<H' if version == (1, 0) else '<I', len(header))
    write(path, b'\x93NUMPY' + bytes(version) + length + header + content)
    maps = read_or_error(path, read_maps)
    size = read_or_error(path, maps_size)
    if any(side < 0 for side in shape):
        assert isinstance(maps, UserError) and isinstance(size, UserError)
    if not isinstance(maps, UserError):
        assert sum(values.size for values in maps.values()) <= len(content)
