"""What is written of a picture's CAMs and of its random walk: npy, mask, dense CRF.

Imports no torch, so worker processes start quickly.
"""

import os
from dataclasses import dataclass

import numpy as np

from tool.files.npy import write_npy
from tool.files.picture_stage import Output
from tool.files.pictures import read_image, write_mask
from tool.method.crf import BACKENDS, refine_mask
from tool.method.metrics import cam_prediction


@dataclass(frozen=True)
class SeedOutputs:
    """Folders to write (None: not wanted) and how.

    cam: npy dicts. png: masks at `threshold`. crf: masks after dense CRF of the labels at
    `threshold`, by `crf_iters` mean-field steps of `crf_backend` over `num_classes` labels,
    background included.
    """

    cam: str | None
    png: str | None
    crf: str | None
    threshold: float
    crf_iters: int
    crf_backend: str
    num_classes: int

    def wanted(self, cam_settings: dict, mask_settings: dict) -> list[Output]:
        """The folders to write, given what decides the CAMs and the masks at `threshold`; the CRF's
        own settings are added to those."""
        crf_settings = {
            **mask_settings,
            'crf_iters': self.crf_iters,
            'crf_backend': self.crf_backend,
        }
        outputs = []
        if self.cam:
            outputs.append(Output(self.cam, '.npy', cam_settings))
        if self.png:
            outputs.append(Output(self.png, '.png', mask_settings))
        if self.crf:
            outputs.append(Output(self.crf, '.png', crf_settings))
        return outputs


def write_seed(
    name: str,
    cam: dict[int, np.ndarray],
    size: tuple[int, int],
    image_path: str,
    outputs: SeedOutputs,
) -> None:
    """Write the wanted outputs of one picture; `cam` is {class 0…K−1: float32 [H, W]}, `size`
    (H, W)."""
    if outputs.cam:
        write_npy(os.path.join(outputs.cam, name + '.npy'), cam)
    if not (outputs.png or outputs.crf):
        return
    labels = cam_prediction(cam, size, outputs.threshold)
    if outputs.png:
        write_mask(os.path.join(outputs.png, name + '.png'), labels)
    if outputs.crf:
        refined = refine_mask(
            np.asarray(read_image(image_path)),
            labels,
            [key + 1 for key in cam],
            outputs.crf_iters,
            outputs.crf_backend,
            num_labels=outputs.num_classes,
        )
        write_mask(os.path.join(outputs.crf, name + '.png'), refined)


def write_walk(
    name: str,
    scores: np.ndarray,
    labels: list[int],
    num_classes: int,
    mask_dir: str | None = None,
    prob_dir: str | None = None,
    crf_dir: str | None = None,
    image_path: str | None = None,
    crf_backend: str = BACKENDS[0],
) -> None:
    """Write <mask_dir>/<name>.png, <prob_dir>/<name>.npy and <crf_dir>/<name>.png (after dense
    CRF), whichever is wanted.

    The CRF is the seeds', from labels (method Q5 names none): the walk levels its scores, so that
    as probabilities with aff_prepare's wide kernel most of a picture became background.

    Args:
        scores: float32 [K, H, W] after the walk, one map for each of the K labels (background 0
            first).
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
    if crf_dir and image_path:
        refined = refine_mask(
            np.asarray(read_image(image_path)),
            mask,
            np.unique(mask),
            backend=crf_backend,
            num_labels=num_classes,
        )
        write_mask(os.path.join(crf_dir, name + '.png'), refined)
