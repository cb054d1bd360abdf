"""Data sets of the affinity stage on pictures made here."""

import numpy as np
import pytest
import torch
from PIL import Image

from tool.files.npy import write_npy
from tool.files.pictures import write_mask
from tool.run.errors import UserError
from voc12.aff_data import AffinityTrainSet, BoundaryTrainSet, WalkSet, mean_pool, padded
from voc12.normalisation import MEAN, STD

SIZE = 48, 72  # height, width


@pytest.fixture
def folder(tmp_path):
    """One picture, black left and white right, whose maps say class 4 on the left, background on
    the right."""
    (tmp_path / 'JPEGImages').mkdir()
    left = np.zeros(SIZE, np.float32)
    left[:, :40] = 1
    pixels = np.repeat(((1 - left) * 255).astype(np.uint8)[..., None], 3, 2)
    Image.fromarray(pixels).save(tmp_path / 'JPEGImages' / 'a.jpg', quality=100)
    for name in ('la', 'ha'):
        write_npy(str(tmp_path / name / 'a.npy'), {0: 1 - left, 5: left})
    maps = np.zeros((21, *SIZE), np.float32)
    maps[0], maps[5] = 1 - left, left
    write_npy(str(tmp_path / 'array' / 'a.npy'), maps)
    return tmp_path


def train_set(folder, la='la', ha='ha', crop=32, seed=0):
    return AffinityTrainSet(str(folder), ['a'], str(folder / la), str(folder / ha), crop, seed)


def test_mean_pool():
    pooled = mean_pool(np.arange(2 * 16 * 24, dtype=np.float32).reshape(2, 16, 24))
    assert pooled.shape == (2, 2, 3)
    assert pooled[0, 0, 0] == np.mean([24 * y + x for y in range(8) for x in range(8)])


@pytest.mark.parametrize('crop', [32, 96])
def test_maps_travel_with_the_picture(folder, crop):
    right, total = {0: 0, 1: 0}, {0: 0, 1: 0}
    for epoch in range(40):
        sample = train_set(folder, crop=crop)[epoch, 0]
        image, label = sample['image'], sample['label']
        assert (
            image.shape == (3, crop, crop)
            and label.shape == (crop // 8, crop // 8)
            and label.dtype == torch.uint8
        )
        # colour jitter keeps black dark and white bright; outside the picture the canvas is exactly
        # 0
        brightness = (
            image * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        ).mean(0)
        inside = (image != 0).any(0)
        labels = label.repeat_interleave(8, 0).repeat_interleave(8, 1)
        for value in right:
            pixels = brightness[(labels == value) & inside]
            right[value] += int(((pixels < 0.3) == (value == 1)).sum())
            total[value] += pixels.numel()
        if crop == 96:
            outside = ~torch.nn.functional.max_pool2d(inside.float()[None, None], 8)[0, 0].bool()
            assert outside.any() and (label[outside] == 255).all()
    assert (
        right[1] > 0.9 * total[1] > 0 and right[0] > 0.9 * total[0] > 0
    )  # only cells on the edge are mixed


def test_both_layouts_give_the_same_sample(folder):
    for epoch in range(4):
        dicts, mixed, arrays = (
            train_set(folder, la, ha)[epoch, 0]
            for la, ha in (('la', 'ha'), ('array', 'ha'), ('array', 'array'))
        )
        assert torch.equal(dicts['image'], arrays['image']) and torch.equal(
            dicts['image'], mixed['image']
        )
        foreground = torch.where(
            arrays['label'] == 5, 1, arrays['label']
        )  # the 5th map there, the first here
        assert torch.equal(dicts['label'], foreground)
        assert torch.equal(mixed['label'], torch.where(dicts['label'] == 1, 5, dicts['label']))


def test_a_sample_is_decided_by_seed_epoch_and_index(folder):
    first, again = train_set(folder)[3, 0], train_set(folder)[3, 0]
    assert torch.equal(first['image'], again['image']) and torch.equal(
        first['label'], again['label']
    )
    assert not torch.equal(first['image'], train_set(folder)[4, 0]['image'])
    assert not torch.equal(first['image'], train_set(folder, seed=1)[3, 0]['image'])


def test_half_of_the_samples_are_mirrored(folder):
    mirrored = 0
    for epoch in range(200):
        label = train_set(folder, crop=80)[epoch, 0]['label']
        columns = [torch.nonzero((label == value).any(0)).float().mean().item() for value in (1, 0)]
        mirrored += columns[0] > columns[1]  # the class lies left in the picture
    assert 70 < mirrored < 130


def test_images_are_padded_to_whole_features_after_they_are_normalised(folder):
    images = padded(torch.ones(2, 3, 45, 70))
    assert images.shape == (2, 3, 48, 72)
    assert (images[..., :45, :70] == 1).all() and images.sum() == 2 * 3 * 45 * 70
    assert padded(images).shape == images.shape


def test_walk_set_pads_and_pools(folder):
    cam = np.full((45, 70), 0.5, np.float32)
    Image.new('RGB', (70, 45), 'white').save(folder / 'JPEGImages' / 'b.png')
    (folder / 'JPEGImages' / 'b.png').rename(folder / 'JPEGImages' / 'b.jpg')
    write_npy(str(folder / 'cam' / 'b.npy'), {14: cam * 2, 4: cam})
    sample = WalkSet(str(folder), ['b'], str(folder / 'cam'), 0.27)[0]
    assert sample['labels'] == [0, 5, 15] and sample['size'] == (45, 70)
    assert sample['picture'].shape == (45, 70, 3) and sample['cam'].shape == (3, 6, 9)
    assert sample['picture'].dtype == torch.uint8 and (sample['picture'] == 255).all()
    np.testing.assert_allclose(sample['cam'][:, 0, 0], [0.27, 0.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(
        sample['cam'][:, 5, 0], np.float32([0.27, 0.5, 1.0]) * 5 / 8, rtol=1e-6
    )  # 5 of 8 rows
    np.testing.assert_allclose(
        sample['cam'][:, 5, 8], np.float32([0.27, 0.5, 1.0]) * 5 / 8 * 6 / 8, rtol=1e-6
    )


def test_maps_of_another_size_are_refused(folder):
    write_npy(str(folder / 'other' / 'a.npy'), {0: np.zeros((48, 71), np.float32)})
    with pytest.raises(UserError, match='other/a.npy: maps are 71x48, the picture is 72x48'):
        train_set(folder, la='other')[0, 0]
    with pytest.raises(UserError, match='other/a.npy: maps are 71x48'):
        WalkSet(str(folder), ['a'], str(folder / 'other'), 0.27)[0]


# ---------------------------------------------------------------- of IRN's boundary head


def boundary_set(folder, crop, seed=0):
    """The picture of `folder` with its label map: 5 on the black left, 0 on the right, and 255 in a
    strip between them."""
    label = np.zeros(SIZE, np.uint8)
    label[:, :40] = 5
    label[:, 36:44] = 255
    write_mask(str(folder / 'label' / 'a.png'), label)
    return BoundaryTrainSet(str(folder), ['a'], str(folder / 'label'), crop, seed)


@pytest.mark.parametrize('crop', [32, 128])
def test_label_maps_travel_with_the_picture(folder, crop):
    train_set = boundary_set(folder, crop)
    classes_left = 0
    both = 0
    for epoch in range(40):
        sample = train_set[epoch, 0]
        image = sample['image']
        label = sample['label']
        assert image.shape == (3, crop, crop)
        assert label.shape == (crop // 4, crop // 4) and label.dtype == torch.uint8
        std = torch.tensor(STD)[:, None, None]
        mean = torch.tensor(MEAN)[:, None, None]
        brightness = (image * std + mean).mean(0)[2::4, 2::4]
        inside = (image != 0).any(0)[2::4, 2::4]
        assert (label[~inside] == 255).all()
        assert (brightness[label == 5] < 0.1).all()
        assert (brightness[inside & (label == 0)] > 0.9).all()
        if (label == 5).any() and (label == 0).any():
            both += 1
            first_class = (label == 5).any(0).nonzero().min()
            first_background = (label == 0).any(0).nonzero().min()
            classes_left += int(first_class < first_background)
    assert 0.25 * both < classes_left < 0.75 * both  # half of them are mirrored


def test_crops_of_the_boundary_head_are_scaled_at_random(folder):
    train_set = boundary_set(folder, 128)
    areas = []
    for epoch in range(60):
        inside = (train_set[epoch, 0]['image'] != 0).any(0)
        areas.append(float(inside.float().mean()) * 128**2)
    sides = np.sqrt(np.array(areas) / (SIZE[0] * SIZE[1]))
    assert 0.48 < sides.min() < 0.65 and 1.35 < sides.max() < 1.52
    assert torch.equal(train_set[7, 0]['image'], boundary_set(folder, 128)[7, 0]['image'])
    assert not torch.equal(train_set[7, 0]['image'], boundary_set(folder, 128, 1)[7, 0]['image'])


def test_walk_set_of_stride_4_has_no_map_of_the_background(folder):
    cam = np.zeros(SIZE, np.float32)
    cam[:, :40] = 0.5
    write_npy(str(folder / 'cam' / 'a.npy'), {4: cam})
    sample = WalkSet(str(folder), ['a'], str(folder / 'cam'), None, stride=4)[0]
    assert sample['labels'] == [0, 5] and sample['cam'].shape == (1, 12, 18)
    assert (sample['cam'][0, :, :10] == 0.5).all() and (sample['cam'][0, :, 10:] == 0).all()
    write_npy(str(folder / 'cam' / 'a.npy'), {})
    sample = WalkSet(str(folder), ['a'], str(folder / 'cam'), None, stride=4)[0]
    assert sample['labels'] == [0] and sample['cam'].shape == (0, 12, 18)
