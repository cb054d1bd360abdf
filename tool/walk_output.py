"""What is written of a picture's random walk: npy, mask, dense CRF. Imports no torch, so worker processes start quickly."""
import os

import numpy as np

from tool.crf import AFFINITY_CRF, dense_crf, prob_unary
from tool.files import read_image, write_mask, write_npy


def write_walk(name: str, scores: np.ndarray, labels: list[int], mask_dir: str = None, prob_dir: str = None,
               crf_image: str = None) -> None:
    """Write <mask_dir>/<name>.png and <prob_dir>/<name>.npy, whichever is wanted.

    Args:
        scores: float32 [K, H, W] after the walk, one map for each of the K labels (background 0 first).
        crf_image: the picture; asks for dense CRF on the mask (not on the probabilities).
    """
    probs = np.maximum(scores, 0)
    probs /= np.maximum(probs.sum(0), 1e-12)
    if prob_dir:
        write_npy(os.path.join(prob_dir, name + '.npy'), dict(zip(labels, probs)))
    if mask_dir:
        if crf_image:
            scores, = dense_crf(np.asarray(read_image(crf_image)), [prob_unary(probs)], AFFINITY_CRF)
        write_mask(os.path.join(mask_dir, name + '.png'), np.asarray(labels, np.uint8)[scores.argmax(0)])
