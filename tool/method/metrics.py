"""Mean IoU of masks, and of CAMs at every background threshold (docs/method.md §9).

Also precision and recall of predicted image-level classes (docs/method.md §10.9).

C is the number of classes with the background, K = C − 1 without it (VOC: 21 and 20).
"""

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class ClassAgreement:
    """The agreement of predicted image-level classes with known ones, in percent.

    A number that does not exist is nan: the precision of a class that is never predicted, the
    recall of one that no picture shows, a mean of nothing.
    """

    # number of pictures that show each class, int64 [K]
    known: np.ndarray
    # number of pictures for which each class is predicted, int64 [K]
    predicted: np.ndarray
    # precision of each class, float64 [K]
    precision: np.ndarray
    # recall of each class, float64 [K]
    recall: np.ndarray
    # means over the classes that occur; that of the precision leaves out those never predicted
    macro_precision: float
    macro_recall: float
    # of all decisions together
    micro_precision: float
    micro_recall: float


def class_agreement(predicted: np.ndarray, known: np.ndarray) -> ClassAgreement:
    """Precision and recall of predicted image-level classes (docs/method.md §10.9).

        precision_k = 100 · Σ_n p_{n,k} y_{n,k} / Σ_n p_{n,k}
        recall_k = 100 · Σ_n p_{n,k} y_{n,k} / Σ_n y_{n,k}

    macro: their means over the classes k that occur (Σ_n y_{n,k} > 0).
    micro: the same ratios with sums over n and k, all N · K decisions as if of one class.

    Args:
        predicted: p, bool [N, K], the predicted classes of N pictures.
        known: y, bool [N, K], the classes that the pictures show.
    """
    hits = (predicted & known).sum(0)  # [K]
    num_predicted = predicted.sum(0)
    num_known = known.sum(0)
    precision = _percent(hits, num_predicted)
    recall = _percent(hits, num_known)
    occurs = num_known > 0
    return ClassAgreement(
        known=num_known,
        predicted=num_predicted,
        precision=precision,
        recall=recall,
        macro_precision=_mean_of_numbers(precision[occurs]),
        macro_recall=_mean_of_numbers(recall[occurs]),
        micro_precision=float(_percent(hits.sum(), num_predicted.sum())),
        micro_recall=float(_percent(hits.sum(), num_known.sum())),
    )


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """100 · part / whole, float64; nan where the whole is 0."""
    percent = np.full(np.shape(part), np.nan)
    np.divide(100 * part, whole, out=percent, where=whole > 0)
    return percent


def _mean_of_numbers(values: np.ndarray) -> float:
    """The mean of the values that are not nan; nan if there is none."""
    numbers = values[~np.isnan(values)]
    if len(numbers) == 0:
        return float('nan')
    return float(numbers.mean())


def class_table(agreement: ClassAgreement, names: Sequence[str]) -> str:
    """A `ClassAgreement` as text: a line for each class, then macro and micro means.

    Args:
        agreement: the result of `class_agreement`.
        names: the names of the K foreground classes.
    Returns:
        The lines; '-' stands for a number that does not exist.
    """
    of_classes = zip(
        names, agreement.known, agreement.predicted, agreement.precision, agreement.recall
    )
    rows = [('class', 'known', 'predicted', 'precision', 'recall')]
    for name, known, predicted, precision, recall in of_classes:
        rows.append((name, str(known), str(predicted), _decimals(precision), _decimals(recall)))
    macro_precision = _decimals(agreement.macro_precision)
    macro_recall = _decimals(agreement.macro_recall)
    rows.append(('mean of classes (macro)', '', '', macro_precision, macro_recall))
    all_known = str(agreement.known.sum())
    all_predicted = str(agreement.predicted.sum())
    micro_precision = _decimals(agreement.micro_precision)
    micro_recall = _decimals(agreement.micro_recall)
    rows.append(('all decisions (micro)', all_known, all_predicted, micro_precision, micro_recall))
    width = max(len(name) for name, *_ in rows)
    lines = []
    for name, *cells in rows:
        numbers = [f'{cell:>9}' for cell in cells]
        lines.append(' '.join([f'{name:>{width}}', *numbers]))
    return '\n'.join(lines)


def _decimals(percent: float) -> str:
    """A percentage with two decimals; '-' for nan."""
    if np.isnan(percent):
        return '-'
    return f'{percent:.2f}'
