"""Probabilities for the tests of the dense CRF."""

import cv2
import numpy as np


def smooth_probabilities(labels, height, width, seed=0):
    """Probabilities [labels, height, width] that change over the picture as a network's do."""
    noise = np.random.default_rng(seed).random((labels, 6, 8), np.float32)
    maps = np.stack(
        [cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC) for cells in noise]
    ).clip(1e-3)
    maps **= 6
    return maps / maps.sum(0)


def network_output(weak, strength, size, seed=0):
    """Probabilities of 21 labels for a picture of `size` (H, W); the labels `weak` are `strength`
    at most."""
    probs = smooth_probabilities(21, *size, seed)
    strong = [label for label in range(21) if label not in weak]
    probs[weak] *= strength / probs[weak].max()
    probs[strong] *= (1 - probs[weak].sum(0)) / probs[strong].sum(0)
    return probs
