"""tool/files/folder_locks.py: one run at a time writes into a folder."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from tool.files import folder_locks
from tool.files.folder_locks import FolderLocks
from tool.run.errors import UserError

HOLD = """
import sys, time
from tool.files.folder_locks import FolderLocks
locks = FolderLocks([sys.argv[1]], int(sys.argv[2]), int(sys.argv[3]))
locks.acquire()
locks.claimed()
print('held', flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """other(rank, world) starts a process that holds the locks of tmp_path."""
    started = []

    def start(rank=0, world=1):
        command = [sys.executable, '-c', HOLD, str(tmp_path), str(rank), str(world)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == 'held\n'
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_another_run_is_refused_until_the_first_has_ended(tmp_path, other):
    first = other()
    for world in (1, 2):
        with pytest.raises(UserError, match=f'^{tmp_path}: another run is writing there'):
            FolderLocks([str(tmp_path)], 0, world).acquire()
    first.send_signal(signal.SIGKILL)
    first.wait()
    with FolderLocks([str(tmp_path)]) as locks:
        assert not locks.is_shared


def test_processes_of_one_stage_share_a_folder(tmp_path, other):
    other(0, 2)
    with FolderLocks([str(tmp_path)], 1, 2) as locks:
        assert locks.is_shared and locks.others_at_work()
    with pytest.raises(UserError, match='another run'):
        FolderLocks([str(tmp_path)], 0, 2).acquire()  # this one is there already


def test_locks_are_released_and_taken_again(tmp_path):
    locks = FolderLocks([str(tmp_path / 'a'), str(tmp_path / 'b')])
    for _ in range(2):
        with locks:
            with pytest.raises(UserError, match='another run'):
                FolderLocks([str(tmp_path / 'b')]).acquire()


def test_a_claim_under_way_is_waited_for_with_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_locks, '_PATIENCE', 0.1)
    first = FolderLocks([str(tmp_path)], 0, 2)
    first.acquire()  # and does not say that it has claimed
    with pytest.raises(UserError, match='another run'):
        FolderLocks([str(tmp_path)], 1, 2).acquire()
    first.claimed()
    FolderLocks([str(tmp_path)], 1, 2).acquire()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='file/cam: cannot be written'):
        FolderLocks([str(tmp_path / 'file' / 'cam')]).acquire()


def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, capsys):
    class NoLocks(folder_locks.FileLock):
        def _acquire(self):
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(folder_locks, 'FileLock', NoLocks)
    with FolderLocks([str(tmp_path)]):
        pass
    assert 'its file system has no locks' in capsys.readouterr().out
