"""Scores of saliency maps against the objects of ground-truth masks, whatever their classes.

The paper scores no saliency maps. They decide what EPS can learn, so it is good to know how right
they are.
"""

import math
from dataclasses import dataclass

import numpy as np

from tool.method.class_set import IGNORE

# A pixel counts as salient if its value is above this half of 0…255.
HALF = 127.5


@dataclass(frozen=True)
class SaliencyScore:
    """Counts of the map of one picture and its ground truth, pixels to ignore left out.

    An object is any class but the background.
    """

    # pixels that are salient and of an object
    intersection: int
    # pixels that are salient or of an object
    union: int
    # mean of |s − g| over the pixels; s in 0…1 is the map, g is 1 on objects and 0 elsewhere
    error: float


def saliency_score(saliency: np.ndarray, truth: np.ndarray) -> SaliencyScore:
    """Compare the map of a picture with its ground truth.

    Args:
        saliency: uint8 [H, W], 0…255.
        truth: uint8 [H, W], class ids, 0 for the background; 255 (ignore) is not counted.
    """
    valid = truth != IGNORE
    values = saliency[valid]
    is_object = truth[valid] != 0
    is_salient = values > HALF
    intersection = int(np.count_nonzero(is_salient & is_object))
    union = int(np.count_nonzero(is_salient | is_object))
    distance = np.abs(values / 255 - is_object)
    error = float(distance.mean()) if distance.size else 0.0
    return SaliencyScore(intersection, union, error)


def mean_scores(scores: list[SaliencyScore]) -> tuple[float, float]:
    """The scores of several pictures together.

    Args:
        scores: at least one.
    Returns:
        The IoU of objects, whose pixels are counted over all pictures, in 0…1 (0 where there is
        nothing to find and nothing was found); and the mean absolute error, the mean of the
        pictures' errors, in 0…1.
    """
    intersection = sum(score.intersection for score in scores)
    union = sum(score.union for score in scores)
    iou = intersection / union if union else 0.0
    # exact whatever the order of the pictures
    error = math.fsum(score.error for score in scores) / len(scores)
    return iou, error
