"""Writes the predictions of pictures, with dense CRF where wanted, and scores them.

This module does not import torch, so that worker processes start quickly.
"""

import functools
import os
from dataclasses import dataclass

import numpy as np

from tool.files.pictures import check_size, read_mask, write_mask
from tool.method.class_set import MASK_COLOURS, ClassSet
from tool.method.crf import CrfPreset, crf_from_probs
from tool.method.metrics import confusion, scores
from tool.run.pool import pool_map


@dataclass(frozen=True)
class PredictionOutputs:
    """Folders for the predictions, and the settings of the dense CRF."""

    # folder for the predictions without dense CRF; None: not wanted
    plain: str | None
    # folder for the predictions after dense CRF; None: not wanted
    crf: str | None
    # constants of the CRF; None where there is no CRF
    preset: CrfPreset | None
    # implementation of the CRF, one of tool.method.crf.TEST_BACKENDS
    backend: str


def write_prediction(
    name: str,
    picture: np.ndarray,
    labels: np.ndarray | None,
    probs: np.ndarray | None,
    outputs: PredictionOutputs,
) -> None:
    """Refine the prediction of one picture where that is wanted, and write it as palette PNGs.

    Args:
        name: the picture.
        picture: uint8 [H, W, 3].
        labels: predicted classes, uint8 [H, W]; only needed for the folder without dense CRF.
        probs: class probabilities, float32 [C, H, W]; only needed for the dense CRF.
        outputs: the folders to write into.
    """
    refined = None
    if outputs.crf:
        refined = crf_from_probs(picture, probs, outputs.preset, outputs.backend)
    write_masks(name, labels, refined, outputs)


def write_masks(
    name: str, labels: np.ndarray | None, refined: np.ndarray | None, outputs: PredictionOutputs
) -> None:
    """Write the predictions of one picture as palette PNGs.

    Args:
        name: the picture.
        labels: predicted classes, uint8 [H, W]; only needed for the folder without dense CRF.
        refined: those after dense CRF; only needed for the folder with it.
        outputs: the folders to write into.
    """
    if outputs.plain:
        write_mask(os.path.join(outputs.plain, name + '.png'), labels)
    if outputs.crf:
        write_mask(os.path.join(outputs.crf, name + '.png'), refined)


def _confusion(classes: ClassSet, colours: str, paths: tuple[str, str]) -> np.ndarray:
    """Confusion matrix [C, C + 1] of one picture, from the paths of prediction and ground truth."""
    prediction_path, truth_path = paths
    prediction = read_mask(prediction_path, classes)
    truth = read_mask(truth_path, classes, colours)
    check_size(
        prediction_path,
        prediction.shape,
        truth.shape,
        of=f'its ground truth {truth_path}',
        fix='use --overwrite',
    )
    return confusion(prediction, truth, classes.num_classes)


def evaluate(
    out_dir: str,
    truth_dir: str,
    names: list[str],
    jobs: int,
    classes: ClassSet,
    colours: str = MASK_COLOURS[0],
) -> dict[str, float]:
    """Score the predictions out_dir/<name>.png against the masks truth_dir/<name>.png.

    Args:
        names: names of the pictures.
        jobs: number of processes.
        classes: classes of the masks.
        colours: one of MASK_COLOURS, how the ground truth is read.
    Returns:
        {class: IoU in percent, …, 'mIoU': …}.
    Raises:
        UserError: a mask is missing, damaged or of another size.
    """
    paths = []
    for name in names:
        file = name + '.png'
        paths.append((os.path.join(out_dir, file), os.path.join(truth_dir, file)))
    total = sum(pool_map(functools.partial(_confusion, classes, colours), paths, jobs))
    return scores(total, classes.names)
