"""Masks that an image editor has saved: refused, or read by their colours, by every command that
scores against masks or learns from them."""

import json

import numpy as np
import pytest
from PIL import Image

from mini import make_voc
from tool.files.lists import read_labels, read_list
from tool.files.pictures import read_gray, read_mask, write_mask
from voc12.classes import PALETTE, VOC

KINDS = ('palette', 'RGB')


def save_colours(path, mask, kind):
    """Write a mask as RGB, or with a palette of the colours that it shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(PALETTE[mask])
    if kind == 'palette':
        image = image.convert('P', palette=Image.Palette.ADAPTIVE, colors=256)
    image.save(path)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A VOC2012 folder, and a folder of its masks for each of KINDS; one pixel is to ignore."""
    root = tmp_path_factory.mktemp('data') / 'VOC2012'
    for name in make_voc(root):
        path = root / 'SegmentationClass' / f'{name}.png'
        mask = read_mask(str(path), VOC)
        mask[0, 0] = 255
        write_mask(str(path), mask)
        for kind in KINDS:
            save_colours(root / kind / f'{name}.png', mask, kind)
    return root


def names_of(data):
    return read_list(str(data / 'list.txt'))


@pytest.mark.parametrize('kind', KINDS)
def test_eval(data, tmp_path, run, refused, kind):
    truth = data / 'SegmentationClass'
    listed = ('--list', data / 'list.txt', '--jobs', 0, '--json', tmp_path / 'score')
    as_truth = (*listed, '--gt_dir', data / kind, '--predict_dir', truth)
    as_prediction = (*listed, '--gt_dir', truth, '--predict_dir', data / kind)
    for flags in (as_truth, as_prediction):
        refused('eval', flags, '2007_000000.png', '--mask_colours voc')
        assert run('eval', *flags, '--classes', 'occurring', '--mask_colours', 'voc')[0] == 0
        assert json.loads((tmp_path / 'score').read_text())['mIoU'] == 100


@pytest.mark.parametrize('kind', KINDS)
def test_labels_of_masks(data, tmp_path, run, refused, kind):
    (tmp_path / 'ImageSets' / 'Segmentation').mkdir(parents=True)
    (tmp_path / 'ImageSets' / 'Segmentation' / 'train.txt').write_text(
        (data / 'list.txt').read_text()
    )
    (tmp_path / 'SegmentationClass').symlink_to(data / kind)
    flags = ('--voc12_root', tmp_path, '--out_dir', tmp_path / 'lists', '--jobs', 0)
    refused('voc12.make_lists', flags, '2007_000000.png', '--mask_colours voc')
    assert not (tmp_path / 'lists').exists()
    assert run('voc12.make_lists', *flags, '--mask_colours', 'voc')[0] == 0
    labels = read_labels(str(tmp_path / 'lists' / 'cls_labels.npy'), VOC)
    expected = read_labels(str(data / 'cls_labels.npy'), VOC)
    assert labels.keys() == expected.keys()
    for name, label in labels.items():
        assert label.tolist() == expected[name].tolist()


@pytest.mark.parametrize('kind', KINDS)
def test_saliency_maps(data, tmp_path, run, refused, kind):
    flags = ('--list', data / 'list.txt', '--out_dir', tmp_path / 'out', '--mask_dir')
    refused('voc12.make_saliency', (*flags, data / kind), '2007_000000.png', '--mask_colours voc')
    assert run('voc12.make_saliency', *flags, data / kind, '--mask_colours', 'voc')[0] == 0
    read = ('--list', data / 'list.txt', '--out_dir', tmp_path / 'expected')
    run('voc12.make_saliency', *read, '--mask_dir', data / 'SegmentationClass')
    for name in names_of(data):
        out, expected = (tmp_path / folder / f'{name}.png' for folder in ('out', 'expected'))
        assert (read_gray(str(out), '') == read_gray(str(expected), '')).all()


@pytest.mark.parametrize('kind', KINDS)
def test_a_data_folder_gets_class_ids(data, tmp_path, run, kind):
    table = ''.join(f'{name},{name[-1]}\n' for name in names_of(data))
    (tmp_path / 'labels.csv').write_text('file,labels\n' + table)
    (tmp_path / 'classes.txt').write_text('\n'.join(str(index) for index in range(20)))
    flags = (
        *('--images', data / 'JPEGImages', '--labels', tmp_path / 'labels.csv', '--jobs', 0),
        *('--classes_txt', tmp_path / 'classes.txt', '--masks', data / kind, '--val', 0),
        *('--out', tmp_path / 'out'),
    )
    code, _, err = run('voc12.from_folder', *flags)
    assert code == 2 and 'bad_files.txt: names 4 files' in err
    assert run('voc12.from_folder', *flags, '--mask_colours', 'voc')[0] == 0
    for name in names_of(data):
        expected = read_mask(str(data / 'SegmentationClass' / f'{name}.png'), VOC)
        for folder in ('SegmentationClass', 'SegmentationClassAug'):
            path = tmp_path / 'out' / folder / f'{name}.png'
            assert not path.is_symlink()
            assert (read_mask(str(path), VOC) == expected).all()


# ---------------------------------------------------------------- masks of no class


@pytest.fixture(scope='module')
def black_and_white(data):
    """A folder of masks of 0 and 255."""
    folder = data / 'binary'
    folder.mkdir()
    for name in names_of(data):
        mask = read_mask(str(data / 'SegmentationClass' / f'{name}.png'), VOC)
        Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8)).save(folder / f'{name}.png')
    return folder


def test_ground_truth_of_no_class_is_refused(data, black_and_white, tmp_path, refused):
    message = 'none of the 4 masks shows a class'
    listed = ('--list', data / 'list.txt')
    scored = (*listed, '--predict_dir', data / 'SegmentationClass', '--gt_dir', black_and_white)
    refused('eval', scored, f'--gt_dir {black_and_white}: {message}')
    saliency = (*listed, '--mask_dir', black_and_white, '--out_dir', tmp_path / 'out')
    refused('voc12.make_saliency', saliency, f'--mask_dir {black_and_white}: {message}')
    pictures = tmp_path / 'pictures' / 'thing'
    pictures.parent.mkdir()
    pictures.symlink_to(data / 'JPEGImages')
    images = ('--images', pictures.parent, '--by_folder', '--out', tmp_path / 'data', '--jobs', 0)
    refused('voc12.from_folder', (*images, '--masks', black_and_white), '--masks', message)
    assert not (tmp_path / 'out').exists() and not (tmp_path / 'data').exists()


def test_labels_that_are_all_empty_are_refused(data, black_and_white, tmp_path, refused):
    (tmp_path / 'ImageSets' / 'Segmentation').mkdir(parents=True)
    (tmp_path / 'ImageSets' / 'Segmentation' / 'train.txt').write_text(
        (data / 'list.txt').read_text()
    )
    (tmp_path / 'SegmentationClass').symlink_to(black_and_white)
    flags = ('--voc12_root', tmp_path, '--out_dir', tmp_path / 'lists', '--jobs', 0)
    refused('voc12.make_lists', flags, 'no picture of its lists shows a class')
    assert not (tmp_path / 'lists').exists()


def test_one_picture_without_an_object_is_scored(tmp_path, run):
    (tmp_path / 'list.txt').write_text('a\n')
    write_mask(str(tmp_path / 'gt' / 'a.png'), np.zeros((4, 5), np.uint8))
    flags = ('--gt_dir', tmp_path / 'gt', '--predict_dir', tmp_path / 'gt', '--jobs', 0)
    assert run('eval', '--list', tmp_path / 'list.txt', *flags)[0] == 0
