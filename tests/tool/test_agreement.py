"""tool.agreement: masks and CAMs against their own refinement by dense CRF."""

import json

import cv2
import numpy as np
import pytest

from mini import make_voc
from tool.files.npy import write_npy
from tool.files.pictures import read_image, read_mask, write_mask
from tool.method.agreement import agreement, refinement_confusions
from tool.method.metrics import cam_prediction
from voc12.classes import VOC


@pytest.fixture
def data(tmp_path):
    """(folder, names, {name: CAM}): pictures of boxes whose CAMs are the blurred boxes."""
    names = make_voc(tmp_path, 4)
    cams = {}
    for name in names:
        mask = read_mask(str(tmp_path / 'SegmentationClass' / f'{name}.png'), VOC)
        cams[name] = {}
        for class_id in set(np.unique(mask).tolist()) - {0}:
            blurred = cv2.GaussianBlur((mask == class_id).astype(np.float32), (0, 0), 6)
            cams[name][class_id - 1] = blurred
        write_npy(str(tmp_path / 'cam' / f'{name}.npy'), cams[name])
    return tmp_path, names, cams


def flags(folder, predict_dir, *more):
    return (
        '--list',
        folder / 'list.txt',
        '--voc12_root',
        folder,
        '--predict_dir',
        folder / predict_dir,
        '--jobs',
        0,
        *more,
    )


def expected(folder, masks, names):
    """The agreement of {name: masks}."""
    total = 0
    for name in names:
        image = np.asarray(read_image(str(folder / 'JPEGImages' / f'{name}.jpg')))
        present = np.unique(np.stack(masks[name])).tolist()
        total = total + refinement_confusions(image, masks[name], present, VOC.num_classes)
    return agreement(total)


def test_the_curve_of_cams(data, run):
    folder, names, cams = data
    code, out, _ = run(
        'tool.agreement', *flags(folder, 'cam', '--type', 'npy', '--curve', '--json', folder / 'a')
    )
    assert code == 0
    result = json.loads((folder / 'a').read_text())
    assert result['images'] == 4 and len(result['curve_t']) == 15
    best = int(np.argmax(result['curve_agreement']))
    assert result['t'] == result['curve_t'][best]
    assert result['agreement'] == result['curve_agreement'][best]
    assert f'best: background score {result["t"]:.2f}' in out
    assert 0 < best < 14  # neither everything nor nothing is foreground

    code, out, _ = run('tool.agreement', *flags(folder, 'cam', '--type', 'npy', '--t', 0.3))
    masks = {}
    for name in names:
        shape = next(iter(cams[name].values())).shape
        masks[name] = [cam_prediction(cams[name], shape, 0.3)]
    assert code == 0 and out.splitlines()[-1] == (
        f'{folder}/cam: agreement {expected(folder, masks, names)[0]:.3f}'
    )


def test_masks_of_some_pictures(data, run):
    folder, names, _ = data
    for name in names[:2]:
        mask = read_mask(str(folder / 'SegmentationClass' / f'{name}.png'), VOC)
        mask[0] = 255
        write_mask(str(folder / 'masks' / f'{name}.png'), mask)
    (folder / 'list.txt').write_text('\n'.join(names[:2]))
    assert run('tool.agreement', *flags(folder, 'masks', '--json', folder / 'a'))[0] == 0
    masks = {}
    for name in names[:2]:
        mask = read_mask(str(folder / 'masks' / f'{name}.png'), VOC)
        masks[name] = [np.where(mask == 255, 0, mask)]
    result = json.loads((folder / 'a').read_text())
    assert result['images'] == 2 and 't' not in result
    assert result['agreement'] == pytest.approx(expected(folder, masks, names[:2])[0])

    assert run('tool.agreement', *flags(folder, 'masks', '--pictures', 1))[0] == 0


def test_what_is_refused(data, refused):
    folder, names, _ = data
    for more, message in (
        (('--curve',), '--curve and --t need --type npy'),
        (('--type', 'npy'), '--type npy needs a background score'),
        (('--type', 'npy', '--t', 0.3, '--curve'), '--type npy needs a background score'),
    ):
        refused('tool.agreement', flags(folder, 'cam', *more), message)
    mask = read_mask(str(folder / 'SegmentationClass' / f'{names[0]}.png'), VOC)
    write_mask(str(folder / 'SegmentationClass' / f'{names[0]}.png'), mask + 60)
    refused('tool.agreement', flags(folder, 'SegmentationClass'), f'{names[0]}.png: holds value')
    write_mask(str(folder / 'SegmentationClass' / f'{names[0]}.png'), mask[1:])
    refused('tool.agreement', flags(folder, 'SegmentationClass'), 'the picture is 101x80')
    refused('tool.agreement', flags(folder, 'nothing'), f'{folder}/nothing: no such folder')
    (folder / 'cam' / f'{names[0]}.npy').unlink()
    refused(
        'tool.agreement', flags(folder, 'cam', '--type', 'npy', '--curve'), f'{names[0]}.npy: no'
    )
