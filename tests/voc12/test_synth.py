"""voc12/synth.py: VOC's layout, pictures that depend on seed and name alone, parts and bodies as
designed."""

import json
import sys

import numpy as np
import pytest
from scipy import ndimage

from tool.files.lists import read_labels, read_list
from tool.files.pictures import image_size, read_gray, read_image, read_mask, write_mask
from voc12 import synth
from voc12.classes import VOC
from voc12.data import check_saliency
from voc12.layout import check_images, class_set

IMAGES = 24


def flags(out, *more):
    return '--out', out, '--images', IMAGES, '--val', 6, '--seed', 3, '--jobs', 0, *more


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('synth')
    sys.argv = ['synth.py', *map(str, flags(folder))]
    synth.main(synth.parse_args())
    return folder


def everything(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()
    }


def test_without_other_classes_the_folder_is_of_voc(root):
    assert not (root / 'classes.txt').exists()
    manifest = json.loads((root / 'SegmentationClass' / '.manifest.json').read_text())
    assert manifest == {'stage': 'synth', 'version': 5, 'seed': 3, 'train': IMAGES, 'val': 6}


@pytest.mark.parametrize('count', [1, 80])
def test_any_number_of_classes(tmp_path, count, run, refused):
    assert run('voc12.synth', *flags(tmp_path, '--classes', count))[0] == 0
    classes = class_set(str(tmp_path))
    assert classes.foreground[-1] == f'class{count:02d}' and classes.num_foreground == count
    labels = read_labels(str(tmp_path / 'lists' / 'cls_labels.npy'), classes)
    assert len(labels) == IMAGES + 6 and all(label.shape == (count,) for label in labels.values())
    for name, label in labels.items():
        mask = read_mask(str(tmp_path / 'SegmentationClass' / f'{name}.png'), classes)
        assert set(np.unique(mask)) - {0, 255} == set(np.flatnonzero(label) + 1)
    assert sum(labels.values()).sum() > IMAGES and (count == 1 or sum(labels.values()).max() < 10)
    refused('voc12.synth', flags(tmp_path), f'classes = {count}, now classes = None')
    assert run('voc12.synth', *flags(tmp_path, '--overwrite'))[0] == 0
    assert class_set(str(tmp_path)) is VOC


def test_a_hundred_classes_look_different():
    looks = {(c % 5, tuple(map(tuple, synth.PAIRS[c].tolist()))) for c in range(100)}
    assert len(looks) == 100


def test_layout_is_that_of_voc(root):
    names = {
        name: read_list(str(root / 'lists' / f'{name}.txt'))
        for name in ('train', 'train_aug', 'val')
    }
    for name, same in (
        ('train', 'train'),
        ('train_aug', 'train'),
        ('trainaug', 'train'),
        ('val', 'val'),
    ):
        assert read_list(str(root / 'ImageSets' / 'Segmentation' / f'{name}.txt')) == names[same]
    assert (
        names['train'] == names['train_aug']
        and len(names['train']) == IMAGES
        and len(names['val']) == 6
    )
    assert not set(names['train']) & set(names['val'])
    listed = names['train'] + names['val']
    check_images(str(root), listed)
    check_saliency(str(root / 'SALImages'), str(root), listed)
    labels = read_labels(str(root / 'lists' / 'cls_labels.npy'), VOC)
    assert set(labels) == set(listed) and len({tuple(label) for label in labels.values()}) > 10
    for name in listed:
        mask = read_mask(str(root / 'SegmentationClass' / f'{name}.png'), VOC)
        assert (mask == read_mask(str(root / 'SegmentationClassAug' / f'{name}.png'), VOC)).all()
        assert set(np.unique(mask)) - {0, 255} == set(np.flatnonzero(labels[name]) + 1)
        assert image_size(str(root / 'JPEGImages' / f'{name}.jpg')) == mask.shape
        assert 160 <= min(mask.shape) <= max(mask.shape) <= 200
        objects = (mask > 0) & (mask < 255)
        assert 0.12 < objects.mean() < 0.6 and 0.005 < (mask == 255).mean() < 0.15
        assert not (
            ndimage.binary_dilation(objects) & (mask == 0)
        ).any()  # every outline is a line of 255
        saliency = read_gray(str(root / 'SALImages' / f'{name}.png'), '')
        assert saliency[ndimage.binary_erosion(objects, iterations=8)].min(initial=255) > 200


def test_pictures_depend_on_seed_and_name_alone(root, tmp_path, run):
    assert (
        run('voc12.synth', *flags(tmp_path / 'more', '--images', IMAGES + 2, '--jobs', 2))[0] == 0
    )
    more = everything(tmp_path / 'more')
    pictures = {
        path: data for path, data in everything(root).items() if path.suffix in ('.jpg', '.png')
    }
    assert pictures and all(more[path] == data for path, data in pictures.items())
    assert (
        run('voc12.synth', *flags(tmp_path / 'other', '--seed', 4, '--images', 2, '--val', 1))[0]
        == 0
    )
    other = everything(tmp_path / 'other')
    assert all(other[path] != pictures[path] for path in other if path in pictures)


def test_what_is_there_stays(root, run, refused):
    before = everything(root)
    (root / 'JPEGImages' / 'val_000003.jpg').unlink()
    assert run('voc12.synth', *flags(root))[0] == 0 and everything(root) == before
    refused(
        'voc12.synth',
        flags(root, '--seed', 4),
        'was made with seed = 3, now seed = 4',
        '--overwrite',
    )
    assert everything(root) == before


def test_a_devkit_is_never_overwritten(tmp_path, run, refused):
    write_mask(str(tmp_path / 'SegmentationClass' / '2007_000032.png'), np.ones((4, 4), np.uint8))
    before = everything(tmp_path)
    refused(
        'voc12.synth',
        flags(tmp_path, '--overwrite'),
        'SegmentationClass: holds files',
        'choose another folder',
    )
    assert everything(tmp_path) == before


def test_overwrite_replaces_what_other_settings_made(tmp_path, run):
    flags_of = ('--images', 2, '--val', 1)
    assert run('voc12.synth', *flags(tmp_path / 'a', '--seed', 4, *flags_of))[0] == 0
    assert run('voc12.synth', *flags(tmp_path / 'a', '--overwrite', *flags_of))[0] == 0
    assert run('voc12.synth', *flags(tmp_path / 'b', *flags_of))[0] == 0
    assert everything(tmp_path / 'a') == everything(tmp_path / 'b')


def test_masks_score_100_against_themselves(root, run):
    masks = root / 'SegmentationClass'
    code, out, _ = run(
        'eval',
        '--list',
        root / 'lists' / 'train.txt',
        '--predict_dir',
        root / 'SegmentationClassAug',
        '--gt_dir',
        masks,
        '--classes',
        'occurring',
        '--jobs',
        0,
    )
    assert code == 0 and out.rstrip().splitlines()[-1].split()[-1] == '100.00'


def test_a_part_is_two_fifths_of_its_object_and_bodies_look_like_clutter():
    shares, contrast = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        objects = synth.place_objects(rng, (170, 180), 2)
        for number in (1, 2):
            shares.append(synth.cut_part(rng, objects == number).sum() / (objects == number).sum())
        image, objects, _ = synth.scene(np.random.default_rng(seed))
        inside, outside = (
            image[ndimage.binary_erosion(region, iterations=3)].mean(0)
            for region in (objects > 0, objects == 0)
        )
        contrast.append(np.abs(inside - outside).mean())
    assert 0.34 < min(shares) and max(shares) < 0.43
    assert np.median(contrast) < 40  # grey levels between the mean colours


def test_pictures_are_colour_pictures(root):
    image = np.asarray(read_image(str(root / 'JPEGImages' / 'train_000000.jpg')), np.float32)
    assert (
        image.shape[2] == 3
        and image.std() > 15
        and np.abs(image[..., 0] - image[..., 2]).mean() > 3
    )
