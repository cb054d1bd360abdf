"""A background score for CAMs without ground truth: where the tail of the background's scores ends.

This is an addition of this project, not of the paper (docs/method.md §10.10).
"""

import numpy as np

BINS = 100  # of the histogram of scores, from 0 to 1
SMOOTHING = 5  # bins of the moving mean
PLATEAU = slice(30, 80)  # bins in which objects give most of the scores: 0.3 … 0.8
TOLERANCE = 1.1  # the tail has ended where the histogram is below this multiple of its plateau


def winning_histogram(cam: dict[int, np.ndarray]) -> np.ndarray:
    """The histogram of the strongest class's score, over the pixels of one picture.

    Args:
        cam: seeds in [0, 1], {foreground class 0…K−1: float32 [H, W]}. Without a class nothing is
            counted.
    Returns:
        int64 [BINS], the numbers of pixels with a score in [i / BINS, (i + 1) / BINS); 1 is in the
        last bin.
    """
    if not cam:
        return np.zeros(BINS, np.int64)
    winning = np.max(list(cam.values()), axis=0)
    bins = np.clip((winning * BINS).astype(np.int64), 0, BINS - 1)
    return np.bincount(bins.ravel(), minlength=BINS)


def relative_density(histogram: np.ndarray) -> np.ndarray:
    """The smoothed histogram of winning scores as a multiple of its plateau.

        d̃_i = mean of d_{i−2} … d_{i+2}        d̃_i / median of d_30 … d_79

    Args:
        histogram: [BINS], the sum of the pictures' `winning_histogram`; not all zeros.
    Returns:
        float64 [BINS]; infinite where there is no plateau, because it has no pixels.
    """
    density = histogram / histogram.sum()
    smoothed = np.convolve(density, np.ones(SMOOTHING) / SMOOTHING, mode='same')
    plateau = np.median(density[PLATEAU])
    return smoothed / plateau if plateau > 0 else np.full(BINS, np.inf)


def end_of_tail(histogram: np.ndarray) -> float:
    """The score at which the tail of the background's scores ends: a background score for masks.

        t* = min {t : d̃_t <= 1.1 · plateau}

    The background's scores decay from 0 on, and the scores of objects are spread evenly over the
    range above. Where the histogram has come down to its plateau, most pixels are of objects.

    Args:
        histogram: [BINS], the sum of the pictures' `winning_histogram`; not all zeros.
    Returns:
        A multiple of 1 / BINS. Where the histogram never comes down, the score in the range of the
        plateau at which it is the lowest.
    """
    relative = relative_density(histogram)
    is_down = np.flatnonzero(relative[: PLATEAU.stop] <= TOLERANCE)
    if len(is_down):
        return int(is_down[0]) / BINS
    lowest = np.argmin(histogram[PLATEAU])
    return (PLATEAU.start + int(lowest)) / BINS
