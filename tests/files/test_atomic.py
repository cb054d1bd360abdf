"""tool/files/atomic.py: a file is there whole or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from full_disk import files_of_at_most
from mini import ROOT
from tool.files import atomic as atomic_module
from tool.files.atomic import (
    atomic,
    cannot_be_written,
    check_writable,
    empty_file,
    is_device,
    make_link,
    write_bytes,
    write_text,
)
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


# A process that writes a file and is killed before it is complete.
KILLED = """
import os, signal, sys
from tool.files.atomic import atomic
with atomic(sys.argv[1]) as temporary:
    open(temporary, 'w').write('half')
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_has_left_goes_when_the_file_is_written(tmp_path):
    for name in ('a.txt', 'b.txt'):
        subprocess.run([sys.executable, '-c', KILLED, str(tmp_path / name)], cwd=ROOT)
    (tmp_path / '.a.txt.tmp').write_text('of another program')
    assert len(list(tmp_path.glob('.?.txt.*.tmp'))) == 2
    write_text(str(tmp_path / 'a.txt'), 'whole')
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[0] == '.a.txt.tmp' and names[1].startswith('.b.txt.') and names[2:] == ['a.txt']


def test_what_another_process_writes_at_this_time_stays(tmp_path, monkeypatch):
    path = str(tmp_path / 'a.txt')
    with atomic(path) as temporary:
        monkeypatch.setattr(atomic_module, '_found', {})  # as in another process
        write_text(path, 'of the other')
        Path(temporary).write_text('of this one')
    assert Path(path).read_text() == 'of this one'
    assert os.listdir(tmp_path) == ['a.txt']


def test_a_link_replaces_what_was_there(tmp_path):
    path = tmp_path / 'a.jpg'
    path.write_text('old')
    (tmp_path / '.a.jpg.link.tmp').symlink_to('nowhere')  # of a process that was killed
    make_link('b.jpg', str(path))
    assert os.readlink(path) == 'b.jpg' and os.listdir(tmp_path) == ['a.jpg']


def test_a_file_is_emptied_where_its_link_leads_and_hard_links_keep_what_it_held(tmp_path):
    path = tmp_path / 'other disk' / 'a.log'
    path.parent.mkdir()
    path.write_text('old')
    os.link(path, tmp_path / 'backup.log')
    (tmp_path / 'a.log').symlink_to(path)
    empty_file(str(tmp_path / 'a.log'))
    assert (tmp_path / 'a.log').is_symlink() and path.read_bytes() == b''
    assert (tmp_path / 'backup.log').read_text() == 'old'
    path.unlink()
    empty_file(str(tmp_path / 'a.log'))  # the link leads nowhere
    assert path.read_bytes() == b''


@pytest.mark.parametrize('size', [0, 1, 4095, 4096, 9999])
def test_a_full_disk_leaves_the_old_file(tmp_path, size):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'old')
    with files_of_at_most(size), pytest.raises(OutputError, match='a.bin: cannot be .* make room'):
        write_bytes(str(path), bytes(10_000))
    with files_of_at_most(size), pytest.raises(OutputError, match='a.bin: cannot be .* make room'):
        write_npy(str(path), np.zeros(9_990, np.uint8))
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['a.bin']


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


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(OutputError, match='/pipe: cannot be written .a pipe, a socket'):
        check_writable(str(tmp_path / 'pipe'))
    with pytest.raises(OutputError, match='/pipe: cannot be written .a pipe, a socket'):
        write_text(str(tmp_path / 'pipe'), 'text')
    assert (tmp_path / 'pipe').is_fifo()
    check_writable('/dev/null')


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    # a terminal of its own: a mistake here must not replace a device of this machine
    keyboard, screen = os.openpty()
    link = tmp_path / 'screen'
    link.symlink_to(os.ttyname(screen))
    write_text(str(link), 'text')
    assert os.read(keyboard, 100) == b'text'
    assert link.is_symlink() and link.is_char_device()
    os.close(keyboard)
    os.close(screen)


@pytest.mark.parametrize('path', ['/dev/null', '/dev/stdout', '/dev/fd/1', '/proc/self/fd/1'])
def test_names_of_devices_and_of_open_files_are_known(path):
    assert is_device(path)


def test_files_and_folders_below_dev_are_no_devices(tmp_path):
    assert not is_device('/dev/shm/a.json')
    assert not is_device(str(tmp_path / 'new'))
    assert not is_device(str(tmp_path))


def test_a_full_disk_is_told_from_a_wrong_place():
    full = cannot_be_written('a', OSError(errno.ENOSPC, 'No space left on device'))
    assert str(full).endswith('make room and give the same command again')
    assert str(cannot_be_written('a', OSError(errno.EROFS, 'x'))).endswith('another output folder')
