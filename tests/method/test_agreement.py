"""tool/method/agreement.py: the agreement of masks with their refinement."""

import numpy as np
import pytest

from tool.method.agreement import agreement, refinement_confusions
from tool.method.crf import refine_mask
from tool.method.metrics import confusion


def picture():
    """A dark square on a bright ground with some noise, and the mask of the square (class 2)."""
    rng = np.random.default_rng(0)
    image = np.full((60, 80, 3), 200, np.uint8)
    mask = np.zeros((60, 80), np.uint8)
    image[20:44, 30:60] = 60
    mask[20:44, 30:60] = 2
    noise = rng.integers(0, 12, image.shape, dtype=np.uint8)
    return image + noise, mask


def grown(mask, pixels):
    """The mask with its square larger by some pixels on each side, or smaller."""
    other = np.zeros_like(mask)
    other[20 - pixels : 44 + pixels, 30 - pixels : 60 + pixels] = 2
    return other


def test_confusions_are_those_of_each_mask_and_its_refinement():
    image, mask = picture()
    masks = [grown(mask, 5), mask]
    matrices = refinement_confusions(image, masks, [2], num_classes=4)
    assert matrices.shape == (2, 4, 5)
    for one, matrix in zip(masks, matrices):
        refined = refine_mask(image, one, [2], num_labels=4)
        assert np.array_equal(matrix, confusion(one, refined, 4))


def test_the_mask_that_follows_the_edges_agrees_most():
    image, mask = picture()
    masks = [grown(mask, pixels) for pixels in (-6, -3, 0, 3, 6)]
    values = agreement(refinement_confusions(image, masks, [2], num_classes=4))
    assert values.argmax() == 2 and values[2] > 99
    assert (np.diff(values[:3]) > 0).all() and (np.diff(values[2:]) < 0).all()


def test_agreement_is_the_mean_over_classes_that_occur():
    matrix = np.zeros((2, 3, 4), np.int64)
    matrix[0, 0, 0] = 90  # background in both
    matrix[0, 2, 2] = 6
    matrix[0, 2, 0] = 2  # of class 2 in the refinement only
    matrix[0, 0, 2] = 2
    matrix[1, 0, 0] = 100
    values = agreement(matrix)
    # class 1 occurs nowhere; class 2 occurs in the first matrix, and counts as 0 in the second
    assert values == pytest.approx([(100 * 90 / 94 + 60) / 2, 50])
    assert agreement(matrix[1]) == 100
