"""Masks and dense-CRF masks from CAM files."""

import numpy as np
import pytest

from mini import make_voc
from recipe import uniform
from tool.files.npy import write_npy
from tool.files.pictures import read_image, read_mask
from tool.files.stage_outputs import SeedOutputs, write_seed
from tool.method.metrics import cam_prediction
from voc12.classes import VOC


@pytest.fixture
def data(tmp_path):
    """(folder, names, {name: CAM}): two pictures with the CAMs of one and two classes."""
    names, cams = make_voc(tmp_path, 3)[1:], {}
    for name, classes in zip(names, ((1,), (0, 11))):
        size = read_image(str(tmp_path / 'JPEGImages' / f'{name}.jpg')).size[::-1]
        cams[name] = {
            key: uniform(f'{name}{key}', *size).numpy().astype(np.float32) for key in classes
        }
        write_npy(str(tmp_path / 'cam' / f'{name}.npy'), cams[name])
    (tmp_path / 'two.txt').write_text('\n'.join(names))
    return tmp_path, names, cams


def flags(folder, *more):
    return (
        '--cam_dir',
        folder / 'cam',
        '--list',
        folder / 'two.txt',
        '--voc12_root',
        folder,
        '--jobs',
        0,
        *more,
    )


def test_masks_are_those_of_contrast_infer(data, run):
    folder, names, cams = data
    out = ('--out_png', folder / 'png', '--out_crf', folder / 'crf')
    assert run('tool.seed_masks', *flags(folder, '--t', 0.6, *out))[0] == 0
    there = SeedOutputs(None, str(folder / 'png2'), str(folder / 'crf2'), 0.6, 10, 'numba', 21)
    for name in names:
        mask = read_mask(str(folder / 'png' / f'{name}.png'), VOC)
        assert (mask == cam_prediction(cams[name], mask.shape, 0.6)).all() and 0 < (
            mask == 0
        ).mean() < 1
        write_seed(name, cams[name], mask.shape, str(folder / 'JPEGImages' / f'{name}.jpg'), there)
        for kind in ('png', 'crf'):
            assert (folder / kind / f'{name}.png').read_bytes() == (
                folder / f'{kind}2' / f'{name}.png'
            ).read_bytes()


def test_complete_is_skipped_and_other_settings_are_refused(data, run, refused):
    folder, names, _ = data
    first = flags(folder, '--t', 0.6, '--out_png', folder / 'png')
    run('tool.seed_masks', *first)
    assert (
        '2 pictures' in (out := run('tool.seed_masks', *first)[1]) and '0 made, 2 were there' in out
    )
    other = flags(folder, '--t', 0.3, '--out_png', folder / 'png')
    refused('tool.seed_masks', other, 'png', 't = 0.6, now t = 0.3', '--overwrite')
    before = (read_mask(str(folder / 'png' / f'{names[0]}.png'), VOC) > 0).mean()
    assert run('tool.seed_masks', *other, '--overwrite')[0] == 0
    assert (read_mask(str(folder / 'png' / f'{names[0]}.png'), VOC) > 0).mean() > before + 0.2


def test_bad_input(data, refused):
    folder, names, _ = data
    refused('tool.seed_masks', flags(folder, '--t', 0.3), 'nothing to write')
    out = ('--out_crf', folder / 'crf', '--t', 0.3)
    write_npy(str(folder / 'cam' / f'{names[0]}.npy'), {1: np.zeros((3, 4), np.float32)})
    refused('tool.seed_masks', flags(folder, *out), f'{names[0]}.npy', '4x3')
    (folder / 'cam' / f'{names[0]}.npy').unlink()
    refused(
        'tool.seed_masks', flags(folder, *out), f'{names[0]}.npy: no such file', 'contrast_infer.py'
    )
    assert not list((folder / 'crf').glob('*.png'))
