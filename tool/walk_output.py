"""What is written of a picture's random walk: npy, mask, dense CRF. Imports no torch, so worker processes start quickly."""
import os

import numpy as np

from tool.files import read_image, write_mask, write_npy
from tool.method.crf import BACKENDS, refine_mask


def write_walk(name: str, scores: np.ndarray, labels: list[int], num_classes: int, mask_dir: str = None, prob_dir: str = None,
               crf_dir: str = None, image_path: str = None, crf_backend: str = BACKENDS[0]) -> None:
    """Write <mask_dir>/<name>.png, <prob_dir>/<name>.npy and <crf_dir>/<name>.png (after dense CRF), whichever is wanted.

    The CRF is the seeds', from labels (method Q5 names none): the walk levels its scores, so that as probabilities with
    aff_prepare's wide kernel most of a picture became background.

    Args:
        scores: float32 [K, H, W] after the walk, one map for each of the K labels (background 0 first).
        num_classes: labels of the CRF, background included.
        image_path: the picture, for the CRF.
        crf_backend: one of tool.method.crf.BACKENDS.
    """
    ids = np.asarray(labels, np.uint8)
    mask = ids[scores.argmax(0)]
    if prob_dir:
        probs = np.maximum(scores, 0)
        probs /= np.maximum(probs.sum(0), 1e-12)
        write_npy(os.path.join(prob_dir, name + '.npy'), dict(zip(labels, probs)))
    if mask_dir:
        write_mask(os.path.join(mask_dir, name + '.png'), mask)
    if crf_dir:
        refined = refine_mask(np.asarray(read_image(image_path)), mask, np.unique(mask),
                              backend=crf_backend, num_labels=num_classes)
        write_mask(os.path.join(crf_dir, name + '.png'), refined)
