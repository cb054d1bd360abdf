"""mIoU: confusion matrices by one bincount, and the whole threshold curve of a CAM in one pass."""
from collections.abc import Sequence

import numpy as np

from voc12.classes import CLASSES, IGNORE, NUM_CLASSES

THRESHOLDS = np.arange(60) / 100  # the curve's background scores 0.00 … 0.59
_OTHER = NUM_CLASSES              # extra column: a prediction that is no class (255)


def confusion(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Confusion matrix int64 [21, 22] of one picture: rows truth, columns prediction, the last column is 'no class'.

    Args:
        prediction, truth: uint8 [H, W]; pixels with truth 255 are not counted.
    """
    valid = truth != IGNORE
    columns = NUM_CLASSES + 1
    cells = truth[valid].astype(np.int64) * columns + np.minimum(prediction[valid], _OTHER)
    return np.bincount(cells, minlength=NUM_CLASSES * columns).reshape(NUM_CLASSES, columns)


def curve_histogram(cam: dict[int, np.ndarray], truth: np.ndarray) -> np.ndarray:
    """Joint histogram int64 [21 truth, 21 winning class, 61] of one picture for the threshold curve.

    The winning foreground class of a pixel does not depend on the background threshold, only whether it beats it: the last
    index counts how many of THRESHOLDS lie strictly below the winner's score (ties go to the background).

    Args:
        cam: {class 0…19: float32 [H, W]}; empty means background everywhere.
        truth: uint8 [H, W].
    """
    bins = len(THRESHOLDS) + 1
    valid = truth != IGNORE
    if cam:
        classes = np.array(sorted(cam))
        scores = np.stack([cam[key][valid] for key in classes])
        best = scores.argmax(0)
        winner = classes[best] + 1
        score = scores[best, np.arange(scores.shape[1])]
        beaten = np.searchsorted(THRESHOLDS.astype(np.float32), score, side='left')
    else:
        winner = beaten = np.zeros(valid.sum(), np.int64)
    cells = (truth[valid].astype(np.int64) * NUM_CLASSES + winner) * bins + beaten
    return np.bincount(cells, minlength=NUM_CLASSES * NUM_CLASSES * bins).reshape(NUM_CLASSES, NUM_CLASSES, bins)


def curve_confusions(histogram: np.ndarray) -> np.ndarray:
    """Confusion matrices int64 [60, 21, 22], one a threshold, of a summed `curve_histogram`."""
    # foreground at threshold i: pixels whose winner beats more than i thresholds
    kept = histogram[..., ::-1].cumsum(-1)[..., ::-1][..., 1:].transpose(2, 0, 1)
    confusions = np.zeros((len(THRESHOLDS), NUM_CLASSES, NUM_CLASSES + 1), np.int64)
    confusions[..., :NUM_CLASSES] = kept
    confusions[..., 0] += histogram.sum((1, 2)) - kept.sum(-1)
    return confusions


def cam_prediction(cam: dict[int, np.ndarray], shape: tuple[int, int], threshold: float) -> np.ndarray:
    """Class ids uint8 [H, W]: the highest of the background threshold and the CAMs; ties go to the background."""
    prediction = np.zeros(shape, np.uint8)
    best = np.full(shape, threshold, np.float32)
    for key in sorted(cam):
        wins = cam[key] > best
        prediction[wins] = key + 1
        best[wins] = cam[key][wins]
    return prediction


def occurring(pixels: dict[str, int]) -> list[str]:
    """The classes with more than 1,000 ground-truth pixels, of {class name: pixels}."""
    return [name for name, count in pixels.items() if count > 1000]


def iou(matrix: np.ndarray) -> np.ndarray:
    """Per-class IoU in percent, float64 [..., 21], of confusion matrices [..., 21, 22]; a class that never occurs has 0."""
    hits = matrix[..., :NUM_CLASSES].diagonal(axis1=-2, axis2=-1).astype(np.float64)
    union = matrix.sum(-1) + matrix[..., :NUM_CLASSES].sum(-2) - hits
    return 100 * hits / np.maximum(union, 1)


def scores(matrix: np.ndarray, classes: Sequence[str] = CLASSES) -> dict[str, float]:
    """{class name: IoU %, …, 'mIoU': their mean over `classes`} of a confusion matrix [21, 22]."""
    values = dict(zip(CLASSES, iou(matrix).tolist()))
    return {**values, 'mIoU': mean_iou(values, classes)}


def mean_iou(values: dict[str, float], classes: Sequence[str] = CLASSES) -> float:
    """Mean of the named classes' IoU."""
    return sum(values[name] for name in classes) / len(classes)


def table(result: dict[str, float]) -> str:
    """The scores of `scores` as text, two classes a line and the mIoU last."""
    cells = [f'{name:>12} {value:6.2f}' for name, value in result.items()]
    return '\n'.join('  '.join(cells[i:i + 2]) for i in range(0, len(cells), 2))
