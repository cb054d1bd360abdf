"""Mean IoU of masks, and of CAMs at every background threshold (docs/method.md §9).

C is the number of classes with the background, K = C − 1 without it (VOC: 21 and 20).
"""

from collections.abc import Sequence

import numpy as np

from tool.method.class_set import IGNORE

# The background scores of the threshold curve: 0.00, 0.01, …, 0.59.
THRESHOLDS = np.arange(60) / 100


def confusion(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Confusion matrix of one picture.

    Args:
        prediction: uint8 [H, W], class ids, or 255 where no class is predicted.
        truth: uint8 [H, W], class ids; pixels with 255 (ignore) are not counted.
        num_classes: C.
    Returns:
        int64 [C, C + 1], numbers of pixels. Row: the true class. Column: the predicted class; the
        last column counts the pixels for which no class is predicted.
    """
    valid = truth != IGNORE
    rows = truth[valid].astype(np.int64)
    columns = np.minimum(prediction[valid], num_classes)
    num_columns = num_classes + 1
    cells = rows * num_columns + columns
    counts = np.bincount(cells, minlength=num_classes * num_columns)
    return counts.reshape(num_classes, num_columns)


def curve_histogram(cam: dict[int, np.ndarray], truth: np.ndarray, num_classes: int) -> np.ndarray:
    """The histogram of one picture from which the threshold curve is computed.

    The strongest foreground class of a pixel does not depend on the background threshold; the
    threshold only decides whether that class beats the background. So one histogram serves all
    thresholds, and the histograms of several pictures can be added.

    Args:
        cam: {foreground class 0…K−1: float32 [H, W]}; empty means background everywhere.
        truth: uint8 [H, W], class ids; pixels with 255 (ignore) are not counted.
        num_classes: C.
    Returns:
        int64 [C, C, 61], numbers of pixels, by true class, by strongest class, and by how many of
        the 60 thresholds lie strictly below the score of the strongest class (in a tie the
        background wins).
    """
    num_bins = len(THRESHOLDS) + 1
    valid = truth != IGNORE
    rows = truth[valid].astype(np.int64)
    if cam:
        classes = np.array(sorted(cam))
        scores = np.stack([cam[key][valid] for key in classes])
        best = scores.argmax(0)
        strongest = classes[best] + 1  # class id in masks
        thresholds_beaten = np.searchsorted(
            THRESHOLDS.astype(np.float32), scores.max(0), side='left'
        )
    else:
        strongest = np.zeros_like(rows)
        thresholds_beaten = np.zeros_like(rows)
    cells = (rows * num_classes + strongest) * num_bins + thresholds_beaten
    counts = np.bincount(cells, minlength=num_classes * num_classes * num_bins)
    return counts.reshape(num_classes, num_classes, num_bins)


def curve_confusions(histogram: np.ndarray) -> np.ndarray:
    """The confusion matrix of every threshold.

    Args:
        histogram: int64 [C, C, 61], the sum of the pictures' `curve_histogram`.
    Returns:
        int64 [60, C, C + 1], one matrix (see `confusion`) for each threshold.
    """
    num_classes = len(histogram)
    # at_least[…, n]: pixels whose strongest class beats n thresholds or more, [C, C, 61]
    reversed_sum = histogram[..., ::-1].cumsum(-1)
    at_least = reversed_sum[..., ::-1]
    # At threshold i, counted from 0, the strongest class is predicted where it beats at least i + 1
    # thresholds.
    foreground = at_least[..., 1:].transpose(2, 0, 1)  # [60, C, C]
    pixels_of_class = histogram.sum((1, 2))  # [C]
    confusions = np.zeros((len(THRESHOLDS), num_classes, num_classes + 1), np.int64)
    confusions[..., :num_classes] = foreground
    # all other pixels are predicted as background
    confusions[..., 0] += pixels_of_class - foreground.sum(-1)
    return confusions


def cam_prediction(
    cam: dict[int, np.ndarray], shape: tuple[int, int], threshold: float
) -> np.ndarray:
    """The mask of a picture's CAMs: the strongest class of each pixel.

    Args:
        cam: {foreground class 0…K−1: float32 [H, W]}.
        shape: (H, W).
        threshold: score of the background; in a tie the background wins.
    Returns:
        uint8 [H, W], class ids.
    """
    prediction = np.zeros(shape, np.uint8)
    best = np.full(shape, threshold, np.float32)
    for key in sorted(cam):
        wins = cam[key] > best
        prediction[wins] = key + 1
        best[wins] = cam[key][wins]
    return prediction


def occurring(pixels: dict[str, int]) -> list[str]:
    """The classes with more than 1,000 ground-truth pixels; `pixels` is {class name: number}."""
    return [name for name, count in pixels.items() if count > 1000]


def iou(matrix: np.ndarray) -> np.ndarray:
    """IoU of each class in percent; a class that never occurs has 0.

    Args:
        matrix: [..., C, C + 1], confusion matrices.
    Returns:
        float64 [..., C].
    """
    num_classes = matrix.shape[-2]
    square = matrix[..., :num_classes]  # without the pixels for which no class is predicted
    hits = square.diagonal(axis1=-2, axis2=-1).astype(np.float64)
    of_class = matrix.sum(-1)
    predicted = square.sum(-2)
    union = of_class + predicted - hits
    return 100 * hits / np.maximum(union, 1)


def scores(
    matrix: np.ndarray, names: Sequence[str], classes: Sequence[str] | None = None
) -> dict[str, float]:
    """The IoU of each class and their mean, in percent.

    Args:
        matrix: [C, C + 1], a confusion matrix.
        names: the names of all classes, the background first.
        classes: the names of the classes to average over; None averages over all.
    Returns:
        {class name: IoU, …, 'mIoU': mean}.
    """
    values = dict(zip(names, iou(matrix).tolist()))
    averaged = names if classes is None else classes
    return {**values, 'mIoU': mean_iou(values, averaged)}


def mean_iou(values: dict[str, float], classes: Sequence[str]) -> float:
    """Mean IoU of the named classes; `values` is {class name: IoU}."""
    return sum(values[name] for name in classes) / len(classes)


def table(result: dict[str, float]) -> str:
    """The result of `scores` as text: two classes on each line, the mIoU last."""
    width = max(12, *map(len, result))
    cells = [f'{name:>{width}} {value:6.2f}' for name, value in result.items()]
    lines = ['  '.join(cells[first : first + 2]) for first in range(0, len(cells), 2)]
    return '\n'.join(lines)
