"""tool/files/torch_files.py: equal values give equal files; flipped bytes and full disks."""

import random
import zipfile

import pytest
import torch

from full_disk import files_of_at_most
from tool.files.torch_files import check_checksums, read_torch, write_torch
from tool.run.errors import OutputError


def value():
    return {'a': torch.arange(300.0), 'b': torch.arange(5), 'step': 3}


def test_equal_values_give_equal_bytes_under_any_name(tmp_path):
    for name in ('net.pth', 'other.state-3.pth'):
        write_torch(str(tmp_path / name), value())
    first, second = (path.read_bytes() for path in tmp_path.iterdir())
    assert first == second
    again = read_torch(str(tmp_path / 'net.pth'))
    assert torch.equal(again['a'], value()['a']) and again['step'] == 3


def test_no_flipped_bit_gives_another_value(tmp_path):
    path = tmp_path / 'net.pth'
    write_torch(str(path), value())
    whole = path.read_bytes()
    draw = random.Random(4)
    refused = 0
    for _ in range(400):
        changed = bytearray(whole)
        changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            again = read_torch(str(path))
        except Exception:  # a damaged file can raise anything
            refused += 1
            continue
        assert all(torch.equal(again[key], value()[key]) for key in 'ab') and again['step'] == 3
    assert refused > 200  # two thirds of the bytes are in an entry or in a checksum


def test_an_entry_marked_as_a_folder_is_refused(tmp_path):
    path = tmp_path / 'net.pth'
    write_torch(str(path), value())
    changed = bytearray(path.read_bytes())
    # the entry's place in the directory at the end; its attributes are 8 bytes before its name
    changed[changed.rindex(b'archive/data/0') - 8] ^= 0x10
    path.write_bytes(changed)
    # torch alone would read numbers that are not in the file
    with pytest.raises(ValueError, match='marked as a folder'):
        read_torch(str(path))


def test_the_entry_that_changed_is_named(tmp_path):
    path = tmp_path / 'net.pth'
    write_torch(str(path), value())
    whole = path.read_bytes()
    weights = value()['a'].numpy().tobytes()
    path.write_bytes(whole.replace(weights, weights[:-1] + b'\x00'))
    with pytest.raises(ValueError, match='checksum of archive/data/0 is another one'):
        read_torch(str(path))


def test_files_without_checksums_are_taken_as_they_are(tmp_path):
    path = str(tmp_path / 'net.pth')
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(value(), path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_torch(path)['step'] == 3
    torch.save(value(), path, _use_new_zipfile_serialization=False)
    assert read_torch(path)['step'] == 3


def test_an_archive_that_would_grow_is_refused_unread(tmp_path):
    path = str(tmp_path / 'net.pth')
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data/0', bytes(10**6))
    with pytest.raises(ValueError, match='compressed'):
        check_checksums(path)


@pytest.mark.parametrize('limit', [100, 3000, 4096, 100_000, 300_000])
def test_a_full_disk_is_one_error_and_leaves_the_earlier_file(tmp_path, limit):
    path = tmp_path / 'net.pth'
    write_torch(str(path), value())
    before = path.read_bytes()
    with files_of_at_most(limit), pytest.raises(OutputError, match='net.pth: cannot be written'):
        write_torch(str(path), {'a': torch.ones(100_000)})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ['net.pth']


def test_what_is_no_full_disk_is_raised_as_it_is(tmp_path):
    class Bad:
        def __reduce__(self):
            raise RuntimeError('not the disk')

    with pytest.raises(RuntimeError, match='not the disk'):
        write_torch(str(tmp_path / 'net.pth'), Bad())
    assert list(tmp_path.iterdir()) == []
