"""What is done with a picture's class probabilities: dense CRF, scores. No torch here: worker
processes start quickly."""

import functools
import os
from dataclasses import dataclass

import numpy as np

from tool.files.pictures import check_size, read_mask, write_mask
from tool.method.class_set import ClassSet
from tool.method.crf import CrfPreset, crf_from_probs
from tool.method.metrics import confusion, scores
from tool.run.pool import pool_map


@dataclass(frozen=True)
class PredictionOutputs:
    """Folders to write predictions into, and how."""

    # of the labels as the network gives them; None: not wanted
    plain: str | None
    # of the labels after dense CRF; None: not wanted
    crf: str | None
    # constants of the CRF; None where there is none
    preset: CrfPreset | None
    # one of tool.method.crf.BACKENDS
    backend: str


def write_prediction(
    name: str,
    picture: np.ndarray,
    labels: np.ndarray | None,
    probs: np.ndarray | None,
    outputs: PredictionOutputs,
) -> None:
    """Write the wanted palette PNGs of one picture.

    Args:
        picture: uint8 [H, W, 3].
        labels: uint8 [H, W], where they are wanted.
        probs: float32 [C, H, W], where the labels after dense CRF are wanted.
    """
    if outputs.plain:
        write_mask(os.path.join(outputs.plain, name + '.png'), labels)
    if outputs.crf:
        refined = crf_from_probs(picture, probs, outputs.preset, outputs.backend)
        write_mask(os.path.join(outputs.crf, name + '.png'), refined)


def _confusion(classes: ClassSet, paths: tuple[str, str]) -> np.ndarray:
    prediction, truth = (read_mask(path, classes) for path in paths)
    check_size(
        paths[0],
        prediction.shape,
        truth.shape,
        of=f'its ground truth {paths[1]}',
        fix='use --overwrite',
    )
    return confusion(prediction, truth, classes.num_classes)


def evaluate(
    out_dir: str, truth_dir: str, names: list[str], jobs: int, classes: ClassSet
) -> dict[str, float]:
    """{class: IoU %, …, 'mIoU': …} of out_dir/<name>.png against truth_dir/<name>.png.

    Raises:
        UserError: a mask is missing, damaged or of another size.
    """
    paths = (
        (os.path.join(out_dir, name + '.png'), os.path.join(truth_dir, name + '.png'))
        for name in names
    )
    total = sum(pool_map(functools.partial(_confusion, classes), paths, jobs))
    return scores(total, classes.names)
