"""tool/method/background_score.py: the histogram of winning scores, and where its tail ends."""

import numpy as np
import pytest

from tool.method.background_score import (
    BINS,
    end_of_tail,
    relative_density,
    winning_histogram,
)


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


def tail_and_plateau(scale, level=100.0):
    """A histogram of objects, `level` pixels in every bin, and an exponential tail of background
    that is as high as the objects at 3 · scale."""
    centres = (np.arange(BINS) + 0.5) / BINS
    return level + level * np.exp(3 - centres / scale)


def test_relative_density():
    histogram = np.full(BINS, 10.0)
    histogram[0] = 60
    relative = relative_density(histogram)
    # the mean of five bins: two of them lie outside at the ends
    assert relative[:4] == pytest.approx([1.6, 1.8, 2.0, 1.0])
    assert relative[50] == pytest.approx(1)


@pytest.mark.parametrize('scale', [0.02, 0.05, 0.08])
def test_the_tail_ends_where_a_tenth_of_the_plateau_is_left_of_it(scale):
    # exp(3 − t / scale) = 0.1
    expected = scale * (3 - np.log(0.1))
    assert end_of_tail(tail_and_plateau(scale)) == pytest.approx(expected, abs=0.015)


def test_the_number_of_pixels_does_not_matter():
    histogram = tail_and_plateau(0.05)
    assert end_of_tail(histogram) == end_of_tail(1000 * histogram)


def test_a_histogram_that_never_comes_down():
    falling = np.arange(BINS, 0, -1.0) ** 3
    falling[:80] += 1e7  # up to the end of the plateau's range
    assert end_of_tail(tail_and_plateau(0.05) + falling) <= 0.8
    only_zeros_and_ones = np.zeros(BINS)
    only_zeros_and_ones[[0, -1]] = 50
    assert end_of_tail(only_zeros_and_ones) == 0.3  # anywhere between
