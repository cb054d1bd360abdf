"""tool/presets/path_states.py: what has changed since a stage was complete."""

import os
import shutil

import pytest

from tool.files.records import Inputs, RecordFile, made_from, state_of
from tool.presets.path_states import PathStates, possible_paths


@pytest.fixture
def state(tmp_path):
    """state(path): the state of a path below tmp_path, computed anew."""

    def of(path):
        return PathStates(str(tmp_path)).of(path)

    return of


def test_a_command_names_its_files_and_folders():
    command = ['eval.py', '--list', 'lists/val.txt', '--t', '0.2', '--set', 'DATA_ROOT=a/b', 'x']
    assert possible_paths(command) == ['lists/val.txt', '0.2', 'a/b']
    assert PathStates('/').of_all(['0.2', 'no/such/file']) == {}


def test_the_content_of_a_file_counts_and_not_its_time(tmp_path, state):
    path = tmp_path / 'val.txt'
    path.write_text('a\n')
    before = state('val.txt')
    os.utime(path, ns=(1, 1))
    assert state('val.txt') == before != ''
    path.write_text('b\n')
    assert state('val.txt') != before


def test_a_removed_or_another_file_of_a_folder_is_noticed(tmp_path, state):
    folder = tmp_path / 'masks' / 'below'
    folder.mkdir(parents=True)
    for name in ('a', 'b'):
        (folder / f'{name}.png').write_text(name)
    before = state('masks')
    (folder / '.lock').write_text('')
    (folder / 'events.out.tfevents.1').write_text('')
    assert state('masks') == before
    (folder / 'a.png').write_text('longer')
    changed = state('masks')
    (folder / 'b.png').unlink()
    assert len({before, changed, state('masks')}) == 3


def test_maps_of_the_same_size_differ_by_their_records(tmp_path, state):
    folder = tmp_path / 'cam'
    folder.mkdir()
    path = folder / 'a.npy'
    path.write_text('first')
    (made,) = made_from(Inputs(()), [], [str(path)])
    RecordFile(str(folder), 0).complete('a', made)
    before = state('cam')
    shutil.copytree(folder, tmp_path / 'copy', copy_function=shutil.copyfile)
    assert state('copy') == before
    path.write_text('other')
    assert state_of(str(path)).size == made.output.size and state('cam') != before


def test_links_that_lead_back_are_followed_once(tmp_path, state):
    (tmp_path / 'voc').mkdir()
    (tmp_path / 'voc' / 'back').symlink_to(tmp_path)
    assert state('voc') == state('voc') != ''


def test_states_are_kept_until_a_stage_has_run(tmp_path):
    states = PathStates(str(tmp_path))
    (tmp_path / 'a.txt').write_text('a')
    before = states.of('a.txt')
    (tmp_path / 'a.txt').write_text('b')
    assert states.of('a.txt') == before
    states.forget()
    assert states.of('a.txt') != before
