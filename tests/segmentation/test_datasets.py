"""Training crops and test views: colours, geometry, checks before training."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from datasets import TestSet as Views  # pytest would collect a class named Test…
from datasets import generate_dataset
from datasets.voc import picture_views, shift_hsv
from segmentation_toy import config_of, make_devkit
from tool.run.errors import UserError
from utils.config import names_of
from voc12.classes import PALETTE

STILL = dict(
    DATA_RANDOM_H=0,
    DATA_RANDOM_S=0,
    DATA_RANDOM_V=0,
    DATA_RANDOMFLIP=0,
    DATA_RANDOMSCALE=[1, 1],
    DATA_RANDOMCROP=80,
)


@pytest.fixture(scope='module')
def devkit(tmp_path_factory):
    return make_devkit(tmp_path_factory.mktemp('voc') / 'VOC2012', train=4, val=0)


def dataset(devkit, **changes):
    config = config_of(
        'EPS_deeplabv1_resnet101',
        **{
            'DATA_ROOT': str(devkit),
            'DATA_PSEUDO_GT': str(devkit / 'SegmentationClass'),
            **changes,
        },
    )
    return generate_dataset(config, names_of(config, 'train'))


def test_hsv_shift_wraps_the_hue_and_clips_the_rest():
    red, grey = np.full((1, 1, 3), (255, 0, 0), np.uint8), np.full((1, 1, 3), 100, np.uint8)
    assert shift_hsv(red, (60, 0, 0)).tolist() == [[[0, 255, 0]]]  # 60 of 180: red becomes green
    assert shift_hsv(red, (-60, 0, 0)).tolist() == [[[0, 0, 255]]]  # and the other way round blue
    assert shift_hsv(red, (0, 10, 10)).tolist() == red.tolist()  # already saturated and bright
    assert shift_hsv(grey, (0, -10, 7)).tolist() == [[[107] * 3]]
    assert shift_hsv(grey, (0, 0, -200)).tolist() == [[[0] * 3]]


def test_without_augmentation_a_sample_is_the_normalised_picture_in_a_canvas(devkit):
    data = dataset(devkit, **STILL)
    sample = data[0, 0]
    mask = np.array(Image.open(devkit / 'SegmentationClass' / f'{data.names[0]}.png'))
    pixels = (
        np.asarray(Image.open(devkit / 'JPEGImages' / f'{data.names[0]}.jpg'), np.float32) / 255
    )
    rows, columns = torch.where(sample['mask'] != 255)
    inside = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    assert sample['mask'].shape == (80, 80) and (sample['mask'] != 255).sum() == mask.size
    np.testing.assert_array_equal(sample['mask'][inside], mask)
    expected = (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    np.testing.assert_allclose(
        sample['image'][:, inside[0], inside[1]].permute(1, 2, 0), expected, atol=1e-6
    )
    assert sample['image'][:, sample['mask'] == 255].abs().max() == 0


def test_picture_and_mask_stay_together(devkit):
    data = dataset(devkit, DATA_RANDOM_H=0, DATA_RANDOM_S=0, DATA_RANDOM_V=0, DATA_RANDOMCROP=48)
    for index in range(4):
        path = data.mask_path(data.names[index])
        mask = np.array(Image.open(path))
        image = np.repeat(mask[..., None] * 255, 3, -1)  # the picture is its own mask
        picture = devkit / 'JPEGImages' / f'{data.names[index]}.jpg'
        before = picture.read_bytes()
        try:
            Image.fromarray(image).save(picture, quality=100, subsampling=0)
            sample = data[3, index]
        finally:
            picture.write_bytes(before)
        labelled = sample['mask'] != 255
        white = sample['image'][0] > 0
        assert (white == (sample['mask'] == 1))[
            labelled
        ].float().mean() > 0.97  # all but the resampled edge


def test_a_sample_is_a_function_of_seed_epoch_and_index(devkit):
    data, again, other = dataset(devkit), dataset(devkit), dataset(devkit, TRAIN_SEED=1)
    assert torch.equal(data[2, 1]['image'], again[2, 1]['image']) and torch.equal(
        data[2, 1]['mask'], again[2, 1]['mask']
    )
    assert not torch.equal(data[2, 1]['image'], data[3, 1]['image'])
    assert not torch.equal(data[2, 1]['image'], other[2, 1]['image'])


def test_every_pseudo_mask_is_checked_before_training(devkit, tmp_path):
    masks = tmp_path / 'masks'
    masks.mkdir()
    for path in (devkit / 'SegmentationClass').iterdir():
        (masks / path.name).write_bytes(path.read_bytes())
    names = sorted(path.name for path in masks.iterdir())
    (masks / names[1]).unlink()
    config = config_of('EPS_deeplabv1_resnet101', DATA_ROOT=str(devkit), DATA_PSEUDO_GT=str(masks))
    with pytest.raises(UserError, match=f'{names[1]}: no such file; check DATA_PSEUDO_GT'):
        generate_dataset(config, names_of(config, 'train'))
    cv2.imwrite(str(masks / names[1]), np.zeros((64, 64), np.uint8))
    with pytest.raises(UserError, match=f'{names[1]}: the mask is 64x64, the picture is 72x64'):
        generate_dataset(config, names_of(config, 'train'))
    with pytest.raises(UserError, match='DATA_PSEUDO_GT'):
        generate_dataset(
            {**config, 'DATA_PSEUDO_GT': str(tmp_path / 'none')}, names_of(config, 'train')
        )
    with pytest.raises(UserError, match='DATA_NAME'):
        dataset(devkit, DATA_NAME='COCO')
    with pytest.raises(UserError, match='nothere.jpg.*DATA_ROOT'):
        generate_dataset(config, ['nothere'])


def test_masks_in_colours_are_refused_or_read_as_the_config_says(devkit, tmp_path):
    for path in (devkit / 'SegmentationClass').iterdir():
        Image.fromarray(PALETTE[np.array(Image.open(path))]).save(tmp_path / path.name)
    colours = {'DATA_PSEUDO_GT': str(tmp_path), **STILL}
    with pytest.raises(UserError, match='this one is RGB; .*DATA_MASK_COLOURS=voc'):
        dataset(devkit, **colours)
    sample = dataset(devkit, **colours, DATA_MASK_COLOURS='voc')[0, 0]
    assert torch.equal(sample['mask'], dataset(devkit, **STILL)[0, 0]['mask'])


def test_masks_that_teach_nothing_are_refused(devkit, tmp_path):
    for path in (devkit / 'SegmentationClass').iterdir():
        mask = np.array(Image.open(path))
        Image.fromarray(mask * 255).save(tmp_path / path.name)
    with pytest.raises(UserError, match='DATA_PSEUDO_GT = .*none of the 4 masks shows a class'):
        dataset(devkit, DATA_PSEUDO_GT=str(tmp_path))


def test_the_stage_of_the_masks_is_asked(devkit, tmp_path, capsys):
    dataset(devkit)
    assert f'no manifest in {devkit}/SegmentationClass: taken for masks' in capsys.readouterr().out
    (tmp_path / '.manifest.json').write_text('{"stage": "aff_prepare", "alpha": 4}')
    with pytest.raises(UserError, match='DATA_PSEUDO_GT .*: holds the output of aff_prepare'):
        dataset(devkit, DATA_PSEUDO_GT=str(tmp_path))


def test_views_are_all_scales_of_the_normalised_picture(devkit):
    config = config_of(
        'EPS_deeplabv1_resnet101', DATA_ROOT=str(devkit), TEST_MULTISCALE=[0.5, 1, 1.75]
    )
    item = Views(config, names_of(config, 'train'))[0]
    assert item['picture'].shape == (64, 72, 3) and item['picture'].dtype == np.uint8
    assert [tuple(view.shape) for view in item['views']] == [
        (3, 32, 36),
        (3, 64, 72),
        (3, 112, 126),
    ]
    expected = (item['picture'] / np.float32(255) - np.float32([0.485, 0.456, 0.406])) / np.float32(
        [0.229, 0.224, 0.225]
    )
    np.testing.assert_allclose(item['views'][1].permute(1, 2, 0), expected, atol=1e-6)
    cubic = cv2.resize(
        expected, (36, 32), interpolation=cv2.INTER_CUBIC
    )  # of the normalised picture
    np.testing.assert_allclose(item['views'][0].permute(1, 2, 0), cubic, atol=1e-5)


@pytest.mark.parametrize('size', [(1, 1), (1, 60), (60, 1), (2, 2)])
def test_views_of_a_picture_with_a_side_of_one_pixel(size):
    config = config_of('EPS_deeplabv1_resnet101')
    picture = np.full((*size, 3), 128, np.uint8)
    views = picture_views(picture, config)
    for scale, view in zip(config['TEST_MULTISCALE'], views):
        expected = [max(1, round(side * scale)) for side in size]
        assert view.shape == (3, *expected) and view.isfinite().all()


def test_every_loading_process_works_in_one_thread():
    assert cv2.getNumThreads() == 1
