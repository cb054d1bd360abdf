"""tool/files/reading.py: only regular files are read, and JSON of any depth is refused well."""

import os
import tracemalloc

import numpy as np
import pytest

from tool.files.reading import open_file, open_text, parse_json, read_json


@pytest.mark.parametrize('read', [open_file, open_text, read_json])
def test_pipes_devices_and_folders_are_refused_without_being_opened(tmp_path, read):
    pipe = str(tmp_path / 'pipe')
    os.mkfifo(pipe)
    link = str(tmp_path / 'link')
    os.symlink(pipe, link)
    for path in (pipe, link, '/dev/zero', str(tmp_path)):
        with pytest.raises(OSError, match='a pipe, a device or a folder, not a file'):
            read(path)
    with pytest.raises(FileNotFoundError):
        read(str(tmp_path / 'absent'))


def test_a_file_and_a_link_to_it_are_read(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('{"a": "ä"}', encoding='utf-8')
    os.symlink(path, tmp_path / 'link.json')
    assert read_json(str(path)) == read_json(str(tmp_path / 'link.json')) == {'a': 'ä'}
    with open_file(str(path)) as file:
        assert file.read(6) == b'{"a": '


@pytest.mark.parametrize(
    'text', ['[' * 200_000, '[' * 200_000 + ']' * 200_000, '{"a":' * 200_000, '9' * 10_000, '', '{']
)
def test_json_that_cannot_be_read_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_asking_for_more_than_there_is_allocates_nothing(tmp_path):
    path = tmp_path / 'a'
    path.write_bytes(b'abc' * 1000)
    tracemalloc.start()
    with open_file(str(path)) as file:
        assert file.read(10) == b'abcabcabca'
        assert len(file.read(1 << 32)) == 2990 and file.read(1 << 32) == b''
        file.seek(5000)
        assert file.read(1 << 32) == b''
        file.seek(0)
        assert len(file.read()) == len(file.read(None)) + 3000
        file.seek(0)
        assert np.fromfile(file, np.uint8, 3).tobytes() == file.read(3) == b'abc'
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
