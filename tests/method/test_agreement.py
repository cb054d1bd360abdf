"""tool/method/agreement.py: the agreement of masks with their refinement."""

import numpy as np
import pytest

from tool.method.agreement import agreement, refinement_confusion
from tool.method.crf import refine_mask
from tool.method.metrics import confusion


def picture():
    """A dark square on a bright ground with some noise."""
    rng = np.random.default_rng(0)
    image = np.full((60, 80, 3), 200, np.uint8)
    image[20:44, 30:60] = 60
    return image + rng.integers(0, 12, image.shape, dtype=np.uint8)


def mask_of_square(margin=0):
    """The mask of the square, class 2; with a margin it is larger on all sides, or smaller."""
    mask = np.zeros((60, 80), np.uint8)
    mask[20 - margin : 44 + margin, 30 - margin : 60 + margin] = 2
    return mask


def test_refinement_confusion():
    mask = mask_of_square(5)
    refined = refine_mask(picture(), mask, [2], num_labels=4)
    expected = confusion(mask, refined, 4)
    assert np.array_equal(refinement_confusion(picture(), mask, num_classes=4), expected)
    assert not np.array_equal(refined, mask)


def test_the_mask_that_follows_the_edges_agrees_most():
    values = []
    for margin in (-6, -3, 0, 3, 6):
        matrix = refinement_confusion(picture(), mask_of_square(margin), num_classes=4)
        values.append(agreement(matrix))
    assert values[2] > 99
    assert values[0] < values[1] < values[2] > values[3] > values[4]


def test_agreement_is_the_mean_over_classes_that_occur():
    matrix = np.zeros((4, 5), np.int64)
    matrix[0, 0] = 90  # background in both
    matrix[2, 2] = 6
    matrix[2, 0] = 2  # class 2 in the refinement only
    matrix[0, 2] = 2  # class 2 in the mask only
    assert agreement(matrix) == pytest.approx((100 * 90 / 94 + 60) / 2)  # 1 and 3 do not occur
    matrix[0, 3] = 1  # class 3 in a mask, gone in its refinement
    assert agreement(matrix) == pytest.approx((100 * 90 / 95 + 60 + 0) / 3)
