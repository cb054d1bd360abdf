"""A background score for CAMs without ground truth: Otsu's threshold of the winning scores.

This is an addition of this project, not of the paper (docs/method.md §10.10). The method is that of
Otsu, A threshold selection method from gray-level histograms, 1979.
"""

import numpy as np

BINS = 100  # of the histogram, from 0 to 1; thresholds lie between them


def winning_histogram(cam: dict[int, np.ndarray]) -> np.ndarray:
    """The histogram of the strongest class's score, over the pixels of one picture.

    Args:
        cam: seeds in [0, 1], {foreground class 0…K−1: float32 [H, W]}. Without a class there is
            nothing to separate, and nothing is counted.
    Returns:
        int64 [BINS], the numbers of pixels with a score in [i / BINS, (i + 1) / BINS); 1 is in the
        last bin.
    """
    if not cam:
        return np.zeros(BINS, np.int64)
    winning = np.max(list(cam.values()), axis=0)
    bins = np.clip((winning * BINS).astype(np.int64), 0, BINS - 1)
    return np.bincount(bins.ravel(), minlength=BINS)


def separation(histogram: np.ndarray) -> np.ndarray:
    """How well each threshold separates the scores below it from those above.

        σ²(t) = ω₀ ω₁ (μ₁ − μ₀)²

    ω₀ and ω₁ are the shares of the pixels below and above t, and μ₀ and μ₁ the means of their
    scores. Otsu's threshold is where the between-class variance σ² is the highest.

    Args:
        histogram: [BINS], the sum of the pictures' `winning_histogram`; not all zeros.
    Returns:
        σ² as a share of the variance of all scores, float64 [BINS − 1] in [0, 1], of the thresholds
        1 / BINS, 2 / BINS, …. All 0 where all scores are alike.
    """
    counts = histogram.astype(np.float64)
    scores = (np.arange(BINS) + 0.5) / BINS
    share_below = counts.cumsum()[:-1] / counts.sum()
    share_above = 1 - share_below
    mean = (counts * scores).sum() / counts.sum()
    moment_below = (counts * scores).cumsum()[:-1] / counts.sum()
    # ω₀ ω₁ (μ₁ − μ₀)² = (mean · ω₀ − moment₀)² / (ω₀ ω₁)
    product = share_below * share_above
    difference = mean * share_below - moment_below
    is_split = product > 1e-12
    between = np.zeros(BINS - 1)
    between[is_split] = difference[is_split] ** 2 / product[is_split]
    variance = (counts * (scores - mean) ** 2).sum() / counts.sum()
    return between / max(variance, 1e-12)


def otsu_threshold(histogram: np.ndarray) -> float:
    """Otsu's threshold, a multiple of 1 / BINS; the arguments are those of `separation`."""
    return (int(separation(histogram).argmax()) + 1) / BINS
