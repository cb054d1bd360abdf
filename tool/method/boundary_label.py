"""The label map that IRN's boundary head learns from (docs/method.md §10.13).

This module does not import torch, so that the worker processes of aff_prepare.py start quickly.
"""

import numpy as np

from tool.method.class_set import IGNORE
from tool.method.crf import BACKENDS, SEED_CRF, crf_from_labels

# The published background scores.
FG_SCORE = 0.30
BG_SCORE = 0.05


def boundary_label(
    image: np.ndarray,
    cam: dict[int, np.ndarray],
    fg_score: float = FG_SCORE,
    bg_score: float = BG_SCORE,
    iterations: int | None = None,
    backend: str = BACKENDS[0],
) -> np.ndarray:
    """Confident regions of a picture from its CAMs, at a high and at a low background score.

    At each of the two scores, the strongest label of each pixel is refined by dense CRF over the
    background and the picture's classes.

    Args:
        image: uint8 [H, W, 3], RGB.
        cam: seeds in [0, 1], {foreground class 0…K−1: float32 [H, W]}.
        fg_score: a class is sure where its CAM wins against this background score.
        bg_score: the background is sure where no CAM wins against this background score.
        iterations: mean-field steps; None takes those of the CRF of the seeds.
        backend: one of tool.method.crf.BACKENDS.
    Returns:
        uint8 [H, W]: class id k + 1 where the refined labels at `fg_score` have class k; 0 where
        both have the background; 255 (ignore) elsewhere.
    """
    size = image.shape[:2]
    if not cam:
        return np.zeros(size, np.uint8)
    classes = sorted(cam)
    ids = np.array([0] + [class_id + 1 for class_id in classes], np.uint8)
    maps = np.stack([cam[class_id] for class_id in classes])
    labels = []
    for score in (fg_score, bg_score):
        background = np.full((1, *size), score, np.float32)
        strongest = np.concatenate([background, maps]).argmax(0)
        labels.append(ids[strongest])
    probs = crf_from_labels(
        image, labels, ids.tolist(), SEED_CRF, iterations, backend=backend, num_labels=len(ids)
    )
    at_fg_score, at_bg_score = [ids[prob.argmax(0)] for prob in probs]
    label = at_fg_score.copy()
    label[at_fg_score == 0] = IGNORE
    label[(at_fg_score == 0) & (at_bg_score == 0)] = 0
    return label
