"""tool/files/fingerprints.py: the contents of many files as one short text."""

import os
import shutil

import pytest

from tool.files.fingerprints import BLOCK, BLOCKS, of_bytes, of_files
from tool.run.errors import UserError


@pytest.fixture
def files(tmp_path):
    """A small, a middle and a large file."""
    folder = tmp_path / 'data'
    folder.mkdir()
    for name, size in (('a', 10), ('b', BLOCKS * BLOCK), ('c', 20 * BLOCK)):
        (folder / name).write_bytes(os.urandom(size))
    return [folder / name for name in 'abc']


def test_a_copy_of_a_folder_has_the_same_fingerprint(files, tmp_path):
    before = of_files(map(str, files))
    assert len(before) == 16
    shutil.copytree(tmp_path / 'data', tmp_path / 'copy', copy_function=shutil.copyfile)
    os.utime(tmp_path / 'copy' / 'b', (1, 1))
    assert of_files(str(tmp_path / 'copy' / name) for name in 'abc') == before


@pytest.mark.parametrize('number, place', [(0, 4), (1, 5 * BLOCK), (2, 0), (2, 20 * BLOCK - 1)])
def test_one_changed_byte_is_seen(files, number, place):
    before = of_files(map(str, files))
    content = bytearray(files[number].read_bytes())
    content[place] ^= 1
    files[number].write_bytes(content)
    assert of_files(map(str, files)) != before


def test_another_size_and_another_order_are_seen(files):
    paths = [str(path) for path in files]
    before = of_files(paths)
    assert of_files([paths[1], paths[0], paths[2]]) != before
    with open(paths[2], 'ab') as file:
        file.write(b'x')
    assert of_files(paths) != before


def test_one_file_cannot_pass_for_two(tmp_path):
    for name, content in (('ab', b'ab'), ('a', b'a'), ('b', b'b')):
        (tmp_path / name).write_bytes(content)
    assert of_files([f'{tmp_path}/ab']) != of_files([f'{tmp_path}/a', f'{tmp_path}/b'])


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(UserError, match='gone.png: cannot be read'):
        of_files([str(tmp_path / 'gone.png')])


def test_bytes():
    assert of_bytes(b'abc') == 'ba7816bf8f01cfea'  # SHA-256 of 'abc', FIPS 180-2
