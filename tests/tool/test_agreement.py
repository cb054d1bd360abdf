"""tool.agreement: masks against their own refinement by dense CRF."""

import json

import numpy as np
import pytest

from mini import make_voc
from tool.files.pictures import read_image, read_mask, write_mask
from tool.method.agreement import agreement, refinement_confusion
from voc12.classes import VOC


@pytest.fixture
def data(tmp_path):
    """(folder, names): four pictures with masks."""
    return tmp_path, make_voc(tmp_path, 4)


def flags(folder, predict_dir, *more):
    data = ('--list', folder / 'list.txt', '--voc12_root', folder, '--jobs', 0)
    return (*data, '--predict_dir', folder / predict_dir, *more)


def read(folder, predict_dir, name):
    return read_mask(str(folder / predict_dir / f'{name}.png'), VOC)


def expected(folder, masks):
    """The agreement of {name: mask}."""
    total = 0
    for name, mask in masks.items():
        image = np.asarray(read_image(str(folder / 'JPEGImages' / f'{name}.jpg')))
        total = total + refinement_confusion(image, mask, VOC.num_classes)
    return agreement(total)


def test_the_agreement_is_over_all_pictures(data, run):
    folder, names = data
    code, out, _ = run(
        'tool.agreement', *flags(folder, 'SegmentationClass', '--json', folder / 'a')
    )
    value = expected(folder, {name: read(folder, 'SegmentationClass', name) for name in names})
    assert code == 0 and out.splitlines()[-1] == (
        f'4 images of {folder}/list.txt, masks {folder}/SegmentationClass: agreement {value:.3f}'
    )
    result = json.loads((folder / 'a').read_text())
    assert result['images'] == 4 and result['agreement'] == pytest.approx(value)


def test_some_pictures_and_pixels_to_ignore(data, run):
    folder, names = data
    masks = {}
    for name in names[2:3]:
        masks[name] = read(folder, 'SegmentationClass', name)
        with_border = masks[name].copy()
        with_border[0] = 255  # background in masks[name]
        write_mask(str(folder / 'masks' / f'{name}.png'), with_border)
    code, out, _ = run('tool.agreement', *flags(folder, 'masks', '--pictures', 1))
    assert code == 0 and out.splitlines()[-1].startswith('1 images')
    assert out.split()[-1] == f'{expected(folder, masks):.3f}'


def test_what_is_refused(data, refused):
    folder, names = data
    mask = read(folder, 'SegmentationClass', names[0])
    path = str(folder / 'SegmentationClass' / f'{names[0]}.png')
    write_mask(path, mask + 60)
    refused('tool.agreement', flags(folder, 'SegmentationClass'), f'{names[0]}.png: holds value')
    write_mask(path, mask[1:])
    refused('tool.agreement', flags(folder, 'SegmentationClass'), 'the picture is 101x80')
    (folder / 'SegmentationClass' / f'{names[0]}.png').unlink()
    refused('tool.agreement', flags(folder, 'SegmentationClass'), f'{names[0]}.png: no such file')
    refused('tool.agreement', flags(folder, 'nothing'), f'{folder}/nothing: no such folder')
