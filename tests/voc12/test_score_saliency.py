"""Scores of a folder of saliency maps."""

import json

import numpy as np
import pytest
from PIL import Image

from mini import make_voc
from tool.files.pictures import read_mask
from voc12.classes import VOC


@pytest.fixture
def flags(tmp_path):
    """The flags of the command for four pictures, whose maps are as exact as the masks."""
    make_voc(tmp_path)
    return (
        '--saliency_dir',
        tmp_path / 'SALImages',
        '--gt_dir',
        tmp_path / 'SegmentationClass',
        '--list',
        tmp_path / 'list.txt',
        '--json',
        tmp_path / 'scores.json',
    )


def test_exact_maps_are_perfect(flags, tmp_path, run):
    code, out, _ = run('voc12.score_saliency', *flags)
    assert code == 0 and 'IoU of objects 100.0 %, mean absolute error 0.000' in out
    scores = json.loads((tmp_path / 'scores.json').read_text())
    assert (scores['IoU'], scores['MAE'], scores['images']) == (100, 0, 4)


def test_half_of_every_object(flags, tmp_path, run):
    error = []
    for path in sorted((tmp_path / 'SALImages').glob('*.png')):
        mask = read_mask(str(tmp_path / 'SegmentationClass' / path.name), VOC)
        half = np.where(mask > 0, 255, 0).astype(np.uint8)
        half[35:] = 0  # the objects are in rows 20…49
        Image.fromarray(half).save(path)
        error.append((mask[35:] > 0).sum() / mask.size)
    assert run('voc12.score_saliency', *flags)[0] == 0
    scores = json.loads((tmp_path / 'scores.json').read_text())
    assert scores['IoU'] == pytest.approx(50)
    assert scores['MAE'] == pytest.approx(100 * np.mean(error))


def test_wrong_inputs_are_one_line(flags, tmp_path, refused):
    maps = sorted((tmp_path / 'SALImages').glob('*.png'))
    Image.new('L', (7, 9)).save(maps[0])
    refused('voc12.score_saliency', flags, f'{maps[0].name}: saliency map is 7x9')
    maps[0].unlink()
    refused('voc12.score_saliency', flags, f'{maps[0].name}: no such file')
    over_list = (*flags[:-1], tmp_path / 'list.txt')
    refused('voc12.score_saliency', over_list, '--json', '--list')
