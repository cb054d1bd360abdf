"""network/views.py: views of pictures, made on the device of the network."""

import numpy as np
import pytest
import torch
from PIL import Image

from network import views
from tool.method import plain
from voc12.data import scaled_pictures
from voc12.normalisation import IMAGENET

CPU = torch.device('cpu')
SCALES = (0.5, 1, 1.5, 2)
OTHER = ((0.5, 0.4, 0.3), (0.5, 1.0, 0.1))


def some_picture(seed=0, size=(47, 62)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


@pytest.mark.parametrize('normalisation', [IMAGENET, OTHER], ids=['imagenet', 'other'])
def test_views_have_the_bits_of_the_plain_formulation(normalisation):
    picture = some_picture()
    expected = plain.views(picture, SCALES, *normalisation)
    for pixels, view in zip(scaled_pictures(picture, SCALES), expected):
        images = views.images_of([pixels], normalisation, CPU)
        made = views.with_mirror_images(images)
        assert pixels.dtype == torch.uint8 and made.is_contiguous() and torch.equal(made, view)


def test_pictures_of_a_group_come_before_their_mirror_images():
    pictures = [some_picture(seed) for seed in range(3)]
    of_scale_1 = [scaled_pictures(picture, [1])[0] for picture in pictures]
    made = views.with_mirror_images(views.images_of(of_scale_1, IMAGENET, CPU))
    assert made.shape == (6, 3, 47, 62)
    for number, picture in enumerate(pictures):
        [view] = plain.views(picture, [1], *IMAGENET)
        assert torch.equal(made[[number, number + 3]], view)


def test_maps_of_mirror_images_are_mirrored_back():
    images = torch.rand(3, 2, 4, 5)
    maps = torch.cat([images, images.flip(3)])
    torch.testing.assert_close(views.add_mirrored_back(maps), 2 * images)


@pytest.mark.parametrize(
    'count, size, least, parts',
    [
        (8, (188, 250), 2, [8]),  # a group of four pictures at scale 0.5
        (8, (375, 500), 2, [8]),
        (8, (562, 750), 2, [4, 4]),
        (8, (750, 1000), 2, [2, 2, 2, 2]),
        (2, (3000, 4000), 2, [2]),  # however large, with its mirror image
        (3, (1400, 1400), 1, [1, 1, 1]),
    ],
)
def test_a_pass_has_a_limited_number_of_pixels(count, size, least, parts):
    images = torch.empty(1, 1, 1, 1).expand(count, 3, *size)
    assert [len(part) for part in views.passes(images, least)] == parts
