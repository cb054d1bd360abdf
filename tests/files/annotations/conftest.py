"""Masks that are hard for annotation formats, and how they become annotated pictures."""

import numpy as np
import pytest

from tool.files.annotations.objects import AnnotatedPicture, objects_of
from tool.method.class_set import IGNORE

HEIGHT, WIDTH = 24, 31


def empty():
    return np.zeros((HEIGHT, WIDTH), np.uint8)


def border():
    """A frame along all four borders, and an object in it."""
    mask = np.full((HEIGHT, WIDTH), 2, np.uint8)
    mask[1:-1, 1:-1] = 0
    mask[5:9, 4:20] = 1
    return mask


def holes():
    """Holes with background, with ignored pixels and with objects; one object fills its hole."""
    mask = empty()
    mask[1:20, 1:12] = 3
    mask[2:19, 2:11] = 1  # of more pixels than the ring around it
    mask[5:7, 4:6] = 0
    mask[12, 7] = IGNORE
    mask[8:15, 16:28] = 2
    mask[10:12, 18:21] = 0
    mask[11, 19] = 1
    return mask


def two_of_a_class():
    """Two objects of a class, of which one consists of two squares that touch at a corner."""
    mask = empty()
    mask[2:6, 2:6] = 1
    mask[6:9, 6:9] = 1
    mask[2:6, 20:24] = 1
    return mask


def pixels():
    """Objects of one pixel, in corners too, of two pixels, and lines of one pixel's width."""
    mask = empty()
    mask[0, 0] = 1
    mask[0, -1] = 2
    mask[-1, 0] = 3
    mask[-1, -1] = 1
    mask[10, 10] = 2
    mask[14, 14:16] = 1
    mask[3:20, 20] = 3
    mask[12, 16:26] = 3
    return mask


def ignored():
    """Ignored pixels around an object and between two classes."""
    mask = empty()
    mask[4:16, 4:26] = IGNORE
    mask[6:14, 6:14] = 1
    mask[6:14, 15:24] = 3
    return mask


def noise():
    """Every pixel is another one: of three classes, background or ignored."""
    values = np.array([0, 1, 2, 3, IGNORE], np.uint8)
    return np.random.default_rng(0).choice(values, (HEIGHT, WIDTH))


def one_pixel_picture():
    return np.ones((1, 1), np.uint8)


def large():
    """One object, with more pixels than fit into the longest run of Label Studio's encoding."""
    return np.full((150, 160), 2, np.uint8)


CASES = (
    empty,
    border,
    holes,
    two_of_a_class,
    pixels,
    ignored,
    noise,
    one_pixel_picture,
    large,
)


@pytest.fixture(params=CASES, ids=lambda case: case.__name__)
def mask(request):
    """One of the masks, uint8 [H, W], of three classes."""
    return request.param()


@pytest.fixture
def case():
    """case('holes') is the mask of this name."""
    masks = {function.__name__: function for function in CASES}

    def make(name):
        return masks[name]()

    return make


@pytest.fixture
def annotate():
    """annotate(mask, path) is the annotated picture of a mask."""

    def make(mask, path='pictures/a b.jpg'):
        name = path.rpartition('/')[2].rpartition('.')[0]
        return AnnotatedPicture(name, path, mask.shape, tuple(objects_of(mask)))

    return make


@pytest.fixture
def exported():
    """exported(mask) is the mask that an exact reader gives: ignored pixels are background."""

    def make(mask):
        return np.where(mask == IGNORE, 0, mask)

    return make
