"""voc12/hue.py: the hue shift, equal to torchvision's through Pillow."""

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional

from voc12.hue import shift_hue


def every_colour(step=1):
    """A picture of the colours whose channels are multiples of `step`."""
    levels = np.arange(0, 256, step, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing='ij'), -1)
    return Image.fromarray(colours.reshape(len(levels), -1, 3))


def assert_equal(picture, shift):
    ours = np.asarray(shift_hue(picture, shift))
    theirs = np.asarray(functional.adjust_hue(picture, shift))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('shift', [-0.1, 0.0, 0.07])
def test_every_colour_is_shifted_as_by_torchvision(shift):
    assert_equal(every_colour(), shift)


def test_every_shift_is_the_one_of_torchvision():
    colours = every_colour(step=5)
    for shift in np.linspace(-0.5, 0.5, 256):
        assert_equal(colours, shift)


def test_a_shift_by_a_third_of_a_turn_exchanges_the_channels():
    red = Image.new('RGB', (1, 1), (255, 0, 0))
    # a hue of 8 bits has no step of exactly a third: up to 6 of 255 levels are left
    assert np.abs(np.subtract(shift_hue(red, 1 / 3).getpixel((0, 0)), (0, 255, 0))).max() <= 6
    assert np.abs(np.subtract(shift_hue(red, -1 / 3).getpixel((0, 0)), (0, 0, 255))).max() <= 6


def test_the_picture_itself_is_left_as_it_is():
    picture = every_colour(step=51)
    before = picture.tobytes()
    shift_hue(picture, 0.1)
    assert picture.tobytes() == before
