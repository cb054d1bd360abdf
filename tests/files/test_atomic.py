"""tool/files/atomic.py: a file is there whole or not at all."""

import errno
from pathlib import Path

import pytest

from tool.files import atomic as atomic_module
from tool.files.atomic import atomic, cannot_be_written, check_writable, write_text
from tool.files.npy import write_npy
from tool.run.errors import OutputError, UserError


def test_atomic_leaves_nothing_when_the_writer_fails(tmp_path):
    path = tmp_path / 'out/a.txt'
    with pytest.raises(ZeroDivisionError), atomic(str(path)) as temporary:
        Path(temporary).write_text('half')
        _ = 1 / 0
    assert list(path.parent.iterdir()) == []
    write_text(str(path), 'old')
    with pytest.raises(KeyboardInterrupt), atomic(str(path)) as temporary:
        Path(temporary).write_text('half')
        raise KeyboardInterrupt
    assert [p.name for p in path.parent.iterdir()] == ['a.txt'] and path.read_text() == 'old'
    with pytest.raises(UserError, match='cannot be written'), atomic(str(path)):
        raise OSError(28, 'No space left on device')
    assert (
        path.read_text() == 'old' and path.stat().st_mode & 0o777 == 0o666 & ~atomic_module._UMASK
    )


def test_output_folder_that_cannot_be(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='file/a.npy: cannot be written'):
        write_npy(str(tmp_path / 'file/a.npy'), {})
    (tmp_path / 'b.npy').mkdir()
    with pytest.raises(UserError, match='b.npy: cannot be written'):
        write_npy(str(tmp_path / 'b.npy'), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ['b.npy', 'file']


def test_a_place_that_cannot_be_written_is_known_before_the_work(tmp_path):
    (tmp_path / 'file').write_text('')
    check_writable(str(tmp_path / 'new' / 'folders' / 'a.txt'))
    check_writable(str(tmp_path / 'file'))
    assert [path.name for path in tmp_path.iterdir()] == ['file']
    with pytest.raises(OutputError, match=f'^{tmp_path}: cannot be written .Is a directory'):
        check_writable(str(tmp_path))
    with pytest.raises(OutputError, match='file/a.txt: cannot be written .*/file is no folder'):
        check_writable(str(tmp_path / 'file' / 'a.txt'))


def test_a_full_disk_is_told_from_a_wrong_place():
    full = cannot_be_written('a', OSError(errno.ENOSPC, 'No space left on device'))
    assert str(full).endswith('make room and give the same command again')
    assert str(cannot_be_written('a', OSError(errno.EROFS, 'x'))).endswith('another output folder')
