"""voc12/transforms.py: crops, sizes and colours."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from voc12 import transforms
from voc12.normalisation import IMAGENET


def test_normalise():
    image = Image.fromarray(np.full((2, 3, 3), 255, np.uint8))
    np.testing.assert_allclose(
        transforms.normalise(image)[0, 0], [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225], rtol=1e-6
    )


@pytest.mark.parametrize('shape', [(30, 70), (70, 30), (20, 20), (64, 64), (90, 100)])
def test_crop_of_any_picture_keeps_pixels_and_fills_the_rest(shape):
    picture = np.arange(1, shape[0] * shape[1] + 1, dtype=np.float32).reshape(shape)
    for seed in range(5):
        window = transforms.crop_window(*shape, 64, np.random.default_rng(seed))
        crop = transforms.cut(picture, 64, window)
        rows, columns = min(64, shape[0]), min(64, shape[1])
        assert crop.shape == (64, 64) and (crop > 0).sum() == rows * columns
        inside = crop[window[0], window[1]]
        assert (np.diff(inside, axis=1) == 1).all() and (np.diff(inside, axis=0) == shape[1]).all()


def test_crops_reach_every_offset():
    starts = {
        transforms.crop_window(66, 66, 64, np.random.default_rng(seed))[2].start
        for seed in range(50)
    }
    assert starts == {0, 1, 2}


def test_long_side_is_in_range():
    sizes = [
        transforms.random_long_side((500, 375), 448, 768, np.random.default_rng(seed))
        for seed in range(300)
    ]
    assert min(map(max, sizes)) >= 448 and max(map(max, sizes)) <= 768 and len(set(sizes)) > 100
    assert all(abs(h / w - 0.75) < 0.002 for w, h in sizes)


def test_jitter_order_and_strength_are_random():
    image = Image.fromarray((np.random.default_rng(0).random((8, 8, 3)) * 255).astype(np.uint8))
    results = {
        transforms.color_jitter(image, np.random.default_rng(seed)).tobytes() for seed in range(10)
    }
    assert len(results) == 10
    still = transforms.color_jitter(image, np.random.default_rng(0), 0, 0, 0, 0)
    np.testing.assert_allclose(
        np.asarray(still, int), np.asarray(functional.adjust_hue(image, 0), int), atol=2
    )


@pytest.mark.parametrize('normalisation', [IMAGENET, ((0.5, 0.4, 0.3), (0.5, 1.0, 0.1))])
def test_pixels_are_normalised_to_the_same_bits_as_pictures(normalisation):
    levels = np.arange(256, dtype=np.uint8)
    pixels = np.stack([levels, levels[::-1], np.roll(levels, 77)], -1).reshape(8, 32, 3)
    expected = transforms.to_tensor(transforms.normalise(pixels, *normalisation))
    made = transforms.normalise_pixels(torch.from_numpy(pixels), *normalisation)
    assert made.is_contiguous() and torch.equal(made, expected)
    pair = torch.from_numpy(np.stack([pixels, pixels[::-1]]))
    assert torch.equal(transforms.normalise_pixels(pair, *normalisation)[1], expected.flip(1))


@pytest.mark.parametrize('shape', [(30, 70), (70, 30), (20, 20), (64, 64), (90, 100)])
def test_a_normalised_crop_is_the_crop_of_the_normalised_picture(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    for seed in range(5):
        window = transforms.crop_window(*shape, 64, np.random.default_rng(seed))
        whole = transforms.normalise(pixels)
        expected = transforms.to_tensor(transforms.cut(whole, 64, window))
        made = transforms.normalised_crop(pixels, 64, window, IMAGENET)
        assert made.is_contiguous() and torch.equal(made, expected)


def test_the_jitter_equals_the_functions_of_torchvision():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))
    for seed in range(12):
        rng = np.random.default_rng(seed)
        steps = [
            (functional.adjust_brightness, rng.uniform(0.7, 1.3)),
            (functional.adjust_contrast, rng.uniform(0.7, 1.3)),
            (functional.adjust_saturation, rng.uniform(0.7, 1.3)),
            (functional.adjust_hue, rng.uniform(-0.1, 0.1)),
        ]
        expected = picture
        for index in rng.permutation(4):
            adjust, value = steps[index]
            expected = adjust(expected, value)
        made = transforms.color_jitter(picture, np.random.default_rng(seed))
        assert made.tobytes() == expected.tobytes()
