"""tool/method/background_score.py: Otsu's threshold of the winning scores."""

import cv2
import numpy as np
import pytest

from tool.method.background_score import (
    BINS,
    otsu_threshold,
    separation,
    winning_histogram,
)


def two_hills(seed, low, high):
    """Scores of many background and some foreground pixels around two means."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(low, 0.06, 8000), rng.normal(high, 0.1, 3000)])
    return scores.clip(0, 1).astype(np.float32)


def test_the_histogram_is_that_of_the_strongest_class():
    cam = {
        3: np.float32([[0, 0.256, 0.5], [1, 0.999, 0.015]]),
        7: np.float32([[0.004, 0.1, 0.7], [0, 0, 0.2]]),
    }
    expected = np.zeros(BINS, int)
    for index in (0, 25, 70, 99, 99, 20):
        expected[index] += 1
    assert winning_histogram(cam).tolist() == expected.tolist()
    assert winning_histogram({}).tolist() == [0] * BINS


def test_separation_is_the_between_class_variance():
    scores = two_hills(0, 0.1, 0.6)
    histogram = winning_histogram({0: scores[None]})
    centres = (np.floor(scores.clip(0, 0.999) * BINS) + 0.5) / BINS
    values = separation(histogram)
    for place in (5, 30, 60):
        above = centres > (place + 1) / BINS
        share = above.mean()
        gap = centres[above].mean() - centres[~above].mean()
        expected = share * (1 - share) * gap**2 / centres.var()
        assert values[place] == pytest.approx(expected)
    assert values.shape == (BINS - 1,) and 0 <= values.min() and values.max() <= 1


@pytest.mark.parametrize('seed, low, high', [(0, 0.1, 0.6), (1, 0.2, 0.5), (2, 0.05, 0.9)])
def test_the_threshold_is_that_of_opencv(seed, low, high):
    scores = two_hills(seed, low, high)
    bins = np.minimum((scores * BINS).astype(np.uint8), BINS - 1)
    level, _ = cv2.threshold(bins[None], 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    threshold = otsu_threshold(winning_histogram({0: scores[None]}))
    # OpenCV's level is the last bin below the threshold
    assert threshold == pytest.approx((level + 1) / BINS)
    assert low < threshold < high


def test_scores_that_are_all_alike_separate_nothing():
    histogram = winning_histogram({0: np.full((4, 4), 0.3, np.float32)})
    assert separation(histogram).max() == 0
