"""No output of a command is one of its inputs."""

import os

import pytest

from tool.files.manifest import claim_all
from tool.files.places import keep_apart
from tool.run.errors import UserError


def refuse(output, *inputs, match):
    with pytest.raises(UserError, match=match):
        keep_apart([('--out', str(output))], [('--in', str(path)) for path in inputs])


def test_an_output_that_is_an_input_is_refused_with_both_flags(tmp_path):
    path = tmp_path / 'list.txt'
    refuse(path, path, match=f'^--out {path}: is the same as the input --in {path}; ')


def test_places_need_not_exist_and_are_compared_as_places(tmp_path):
    refuse(tmp_path / 'a' / '..' / 'masks', tmp_path / 'masks', match='choose another --out')


def test_a_relative_path_and_a_slash_at_the_end_hide_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'masks').mkdir()
    refuse('masks/', tmp_path / 'masks', match='is the same as')


def test_links_are_followed(tmp_path):
    (tmp_path / 'masks').mkdir()
    (tmp_path / 'link').symlink_to('masks')
    refuse(tmp_path / 'link', tmp_path / 'masks', match='is the same as')
    refuse(tmp_path / 'masks' / 'new', tmp_path / 'link' / 'new', match='is the same as')


def test_a_hard_link_of_an_input_is_refused(tmp_path):
    (tmp_path / 'list.txt').write_text('a\n')
    os.link(tmp_path / 'list.txt', tmp_path / 'other.txt')
    refuse(tmp_path / 'other.txt', tmp_path / 'list.txt', match='is the same as')


def test_an_output_in_an_input_folder_is_allowed(tmp_path):
    keep_apart([('--out', f'{tmp_path}/data/masks')], [('--voc12_root', f'{tmp_path}/data')])


def test_a_file_of_maps_or_a_picture_among_the_inputs_is_refused(tmp_path, monkeypatch):
    (tmp_path / 'cam').mkdir()
    (tmp_path / 'link').symlink_to('cam')
    refuse(tmp_path / 'cam' / 'sheet.PNG', tmp_path / 'link', match='whose files are inputs')
    refuse(tmp_path / 'cam' / 'a.npy', tmp_path / 'cam', match='whose files are inputs')
    keep_apart([('--out', f'{tmp_path}/cam/threshold.json')], [('--in', f'{tmp_path}/cam')])
    monkeypatch.chdir(tmp_path / 'cam')
    refuse('sheet.png', tmp_path / 'cam', match='whose files are inputs')


def test_a_picture_among_the_files_of_a_stage_is_refused(tmp_path):
    """eval.py --plot masks/a.png, where other masks are scored."""
    claim_all([(str(tmp_path / 'masks'), {'stage': 'aff_infer'})])
    (tmp_path / 'link').symlink_to('masks')
    for folder in ('masks', 'link'):
        for name in ('a.png', 'new.npy'):
            refuse(tmp_path / folder / name, match='whose files a stage has made; choose another')
    keep_apart([('--json', f'{tmp_path}/masks/scores.json')], [])
    keep_apart([('--out_dir', f'{tmp_path}/masks')], [])


def test_two_outputs_of_one_place_are_refused(tmp_path):
    path = f'{tmp_path}/result'
    with pytest.raises(UserError, match='--plot .*: is the same as the output --json '):
        keep_apart([('--json', path), ('--plot', path)], [])


def test_flags_that_are_not_given_and_devices_are_left_out(tmp_path):
    keep_apart([('--out', None), ('--json', '')], [('--list', None), ('--in', '')])
    keep_apart([('--json', '/dev/null'), ('--logfile', '/dev/null')], [('--list', '/dev/null')])
