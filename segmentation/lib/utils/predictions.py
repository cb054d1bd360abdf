"""What is done with a picture's class probabilities: dense CRF, scores. No torch here: worker
processes start quickly."""

import os

import numpy as np

from tool.files.pictures import check_size, read_mask, write_mask
from tool.method.crf import CrfPreset, crf_from_probs
from tool.method.metrics import confusion, scores
from tool.run.pool import pool_map
from voc12.classes import VOC


def write_crf(
    path: str, picture: np.ndarray, probs: np.ndarray, preset: CrfPreset, backend: str
) -> None:
    """Write the labels after dense CRF (`crf_from_probs`) of probabilities [C, H, W] on a picture
    [H, W, 3] as a palette PNG."""
    write_mask(path, crf_from_probs(picture, probs, preset, backend))


def _confusion(paths: tuple[str, str]) -> np.ndarray:
    prediction, truth = (read_mask(path, VOC) for path in paths)
    check_size(
        paths[0],
        prediction.shape,
        truth.shape,
        of=f'its ground truth {paths[1]}',
        fix='use --overwrite',
    )
    return confusion(prediction, truth, VOC.num_classes)


def evaluate(out_dir: str, truth_dir: str, names: list[str], jobs: int) -> dict[str, float]:
    """{class: IoU %, …, 'mIoU': …} of out_dir/<name>.png against truth_dir/<name>.png.

    Raises:
        UserError: a mask is missing, damaged or of another size.
    """
    paths = (
        (os.path.join(out_dir, name + '.png'), os.path.join(truth_dir, name + '.png'))
        for name in names
    )
    return scores(sum(pool_map(_confusion, paths, jobs)), VOC.names)
