"""The disk gets full in the middle of every stage: one line, exit code 2, no truncated file under
a final name; after room was made the same command ends with the files of an undisturbed run.

The disk is a small tmpfs where one may be mounted (root on Linux), else a limit on the size of
files stands for it.
"""

import os
import random
import subprocess

import pytest

from faults.stages import STAGES, results, temporary_files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, 'fork'), reason='stages are forked'),
]
PAGE = 4096  # bytes in which a tmpfs counts


class SmallDisk:
    """A tmpfs of a few pages that grows on demand."""

    def __init__(self, folder, size):
        self.folder = folder
        # a limit for the stages that run before there is room; none
        self.file_limit = 0
        folder.mkdir()
        options = ['-o', f'size={size}']
        subprocess.run(['mount', '-t', 'tmpfs', *options, 'tmpfs', folder], check=True)

    def make_room(self):
        subprocess.run(['mount', '-o', 'remount,size=1g', self.folder], check=True)

    def close(self):
        subprocess.run(['umount', '-l', self.folder], check=True)


class LimitedFiles:
    """A folder in which no file may exceed a size, until there is room."""

    def __init__(self, folder, size):
        self.folder = folder
        self.file_limit = size
        folder.mkdir()

    def make_room(self):
        self.file_limit = 0

    def close(self):
        pass


@pytest.fixture(scope='module')
def can_mount(tmp_path_factory):
    """Whether a tmpfs can be mounted here."""
    try:
        disk = SmallDisk(tmp_path_factory.mktemp('mount') / 'disk', PAGE)
    except (OSError, subprocess.CalledProcessError):
        return False
    disk.close()
    return True


def disk_for(folder, whole, share, can_mount):
    """A disk with room for a share of an undisturbed run's results, or of its largest file."""
    if can_mount:
        pages = sum(len(content) // PAGE + 1 for content in whole.values())
        return SmallDisk(folder, max(1, int(share * pages)) * PAGE)
    return LimitedFiles(folder, int(share * max(map(len, whole.values()))))


@pytest.mark.parametrize('name', STAGES)
def test_a_full_disk_is_one_line_and_the_run_goes_on(world, tmp_path, name, can_mount):
    stage = STAGES[name]
    whole = results(world.out(name))
    share = random.Random(name).uniform(0, 0.8)
    disk = disk_for(tmp_path / 'disk', whole, share, can_mount)
    out = disk.folder / 'out'
    command = stage.command(world, out)
    try:
        ended = world.server.run(command, cwd=stage.cwd, file_limit=disk.file_limit)
        assert ended.code == 2 and 'Traceback' not in ended.text, ended.text
        (line,) = ended.messages()
        assert 'make room and give the same command again' in line
        assert temporary_files(out) == []
        if not stage.trains:  # the states of a training are not among the results
            found = results(out)
            assert [path for path in found if found[path] != whole.get(path)] == []

        disk.make_room()
        ended = world.server.run(command, cwd=stage.cwd, file_limit=disk.file_limit)
        assert ended.code == 0, ended.text
        assert results(out) == whole
        assert temporary_files(out) == []
    finally:
        disk.close()
