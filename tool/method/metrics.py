"""mIoU: confusion matrices by one bincount, and the whole threshold curve of a CAM in one pass."""

from collections.abc import Sequence

import numpy as np

from tool.method.class_set import IGNORE

THRESHOLDS = np.arange(60) / 100  # the curve's background scores 0.00 … 0.59


def confusion(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Confusion matrix int64 [C, C + 1] of one picture: rows truth, columns prediction, the last
    column is 'no class' (255).

    Args:
        prediction, truth: uint8 [H, W]; pixels with truth 255 are not counted.
        num_classes: C, with the background (VOC: 21).
    """
    valid = truth != IGNORE
    columns = num_classes + 1
    cells = truth[valid].astype(np.int64) * columns + np.minimum(prediction[valid], num_classes)
    return np.bincount(cells, minlength=num_classes * columns).reshape(num_classes, columns)


def curve_histogram(cam: dict[int, np.ndarray], truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Joint histogram int64 [C truth, C winning class, 61] of one picture for the threshold
    curve.

    The winning foreground class of a pixel does not depend on the background threshold, only
    whether it beats it: the last index counts how many of THRESHOLDS lie strictly below the
    winner's score (ties go to the background).

    Args:
        cam: {class 0…K−1: float32 [H, W]}; empty means background everywhere.
        truth: uint8 [H, W].
        num_classes: C, with the background (VOC: 21).
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
    cells = (truth[valid].astype(np.int64) * num_classes + winner) * bins + beaten
    return np.bincount(cells, minlength=num_classes * num_classes * bins).reshape(
        num_classes, num_classes, bins
    )


def curve_confusions(histogram: np.ndarray) -> np.ndarray:
    """Confusion matrices int64 [60, C, C + 1], one a threshold, of a summed `curve_histogram`."""
    num_classes = len(histogram)
    # foreground at threshold i: pixels whose winner beats more than i thresholds
    kept = histogram[..., ::-1].cumsum(-1)[..., ::-1][..., 1:].transpose(2, 0, 1)
    confusions = np.zeros((len(THRESHOLDS), num_classes, num_classes + 1), np.int64)
    confusions[..., :num_classes] = kept
    confusions[..., 0] += histogram.sum((1, 2)) - kept.sum(-1)
    return confusions


def cam_prediction(
    cam: dict[int, np.ndarray], shape: tuple[int, int], threshold: float
) -> np.ndarray:
    """Class ids uint8 [H, W]: the highest of the background threshold and the CAMs; ties go to the
    background."""
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
    """Per-class IoU in percent, float64 [..., C], of confusion matrices [..., C, C + 1]; a class
    that never occurs has 0."""
    num_classes = matrix.shape[-2]
    hits = matrix[..., :num_classes].diagonal(axis1=-2, axis2=-1).astype(np.float64)
    union = matrix.sum(-1) + matrix[..., :num_classes].sum(-2) - hits
    return 100 * hits / np.maximum(union, 1)


def scores(
    matrix: np.ndarray, names: Sequence[str], classes: Sequence[str] | None = None
) -> dict[str, float]:
    """{class name: IoU %, …, 'mIoU': their mean over `classes`, None: all} of a confusion matrix
    [C, C + 1].

    `names` are those of all classes, the background first.
    """
    values = dict(zip(names, iou(matrix).tolist()))
    return {**values, 'mIoU': mean_iou(values, names if classes is None else classes)}


def mean_iou(values: dict[str, float], classes: Sequence[str]) -> float:
    """Mean of the named classes' IoU."""
    return sum(values[name] for name in classes) / len(classes)


def table(result: dict[str, float]) -> str:
    """The scores of `scores` as text, two classes a line and the mIoU last."""
    width = max(12, *map(len, result))
    cells = [f'{name:>{width}} {value:6.2f}' for name, value in result.items()]
    return '\n'.join('  '.join(cells[i : i + 2]) for i in range(0, len(cells), 2))
