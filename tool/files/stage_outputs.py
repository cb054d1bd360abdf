"""The files that are written for a picture: of its CAMs, and of its maps after the random walk.

Worker processes call these functions. This module does not import torch, so that they start
quickly.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tool.files.npy import write_npy
from tool.files.picture_stage import Output
from tool.files.pictures import read_image, write_mask
from tool.method.crf import refine_mask
from tool.method.metrics import cam_prediction


@dataclass(frozen=True)
class SeedOutputs:
    """The folders that the CAMs of pictures are written to, and how."""

    # folder of the CAMs, .npy; None: not wanted
    cam: str | None
    # folder of the masks at `threshold`, .png; None: not wanted
    png: str | None
    # folder of these masks after dense CRF, .png; None: not wanted
    crf: str | None
    # score of the background
    threshold: float
    # mean-field steps of the CRF
    crf_iters: int
    # one of tool.method.crf.BACKENDS
    crf_backend: str
    # C, the labels of the CRF: all classes, the background included
    num_classes: int

    def wanted(
        self,
        cam_settings: dict,
        mask_settings: dict,
        cam_bytes: Callable[[str], int] | None = None,
        mask_bytes: Callable[[str], int] | None = None,
    ) -> list[Output]:
        """The outputs to claim.

        Args:
            cam_settings: what decides the CAMs.
            mask_settings: what decides the masks at `threshold`. For the masks after dense CRF, the
                settings of the CRF are added.
            cam_bytes, mask_bytes: estimated bytes of the files of a picture, by its name.
        """
        crf_settings = {
            **mask_settings,
            'crf_iters': self.crf_iters,
            'crf_backend': self.crf_backend,
        }
        outputs = []
        if self.cam:
            outputs.append(Output(self.cam, '.npy', cam_settings, cam_bytes))
        if self.png:
            outputs.append(Output(self.png, '.png', mask_settings, mask_bytes))
        if self.crf:
            outputs.append(Output(self.crf, '.png', crf_settings, mask_bytes))
        return outputs


def write_seed(
    name: str,
    cam: dict[int, np.ndarray],
    size: tuple[int, int],
    image_path: str,
    outputs: SeedOutputs,
) -> None:
    """Write the files of one picture's CAMs.

    Args:
        name: the picture.
        cam: {foreground class 0…K−1: float32 [H, W]}.
        size: (H, W).
        image_path: file of the picture, for the CRF.
        outputs: the folders.
    """
    if outputs.cam:
        write_npy(os.path.join(outputs.cam, name + '.npy'), cam)
    if not outputs.png and not outputs.crf:
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


@dataclass(frozen=True)
class WalkOutputs:
    """The folders that the files of pictures after the random walk are written to, and how."""

    # folder of the masks, .png; None: not wanted
    masks: str | None
    # folder of these masks after dense CRF, .png; None: not wanted
    crf: str | None
    # folder of the probabilities, .npy; None: not wanted
    probabilities: str | None
    # one of tool.method.crf.BACKENDS
    crf_backend: str
    # C, the labels of the CRF: all classes, the background included
    num_classes: int

    def wanted(
        self,
        settings: dict,
        mask_bytes: Callable[[str], int],
        maps_bytes: Callable[[str], int],
    ) -> list[Output]:
        """The outputs to claim.

        Args:
            settings: what decides the scores after the walk. For the masks, those of the CRF are
                added.
            mask_bytes, maps_bytes: estimated bytes of the mask and of the probabilities of a
                picture, by its name.
        """
        without_crf = {**settings, 'crf': False}
        with_crf = {**settings, 'crf': True, 'crf_backend': self.crf_backend}
        outputs = []
        if self.masks:
            outputs.append(Output(self.masks, '.png', without_crf, mask_bytes))
        if self.crf:
            outputs.append(Output(self.crf, '.png', with_crf, mask_bytes))
        if self.probabilities:
            outputs.append(Output(self.probabilities, '.npy', settings, maps_bytes))
        return outputs


def write_walk(
    name: str,
    scores: np.ndarray,
    labels: list[int],
    image_path: str,
    outputs: WalkOutputs,
) -> None:
    """Write the files of one picture after the random walk.

    The CRF is that of the seeds and starts from the mask; the published code runs none here
    (method Q5). It does not start from the scores, because the random walk makes them alike: taken
    as probabilities, with the wide kernel of aff_prepare.py, most of a picture became background.

    Args:
        name: the picture.
        scores: float32 [L, H, W] after the walk, one map for each of the picture's L labels.
        labels: the class id of each map, the background (0) first.
        image_path: file of the picture, for the CRF.
        outputs: the folders, and the settings of the CRF.
    """
    ids = np.asarray(labels, np.uint8)
    mask = ids[scores.argmax(0)]
    if outputs.probabilities:
        probs = np.maximum(scores, 0)
        probs /= np.maximum(probs.sum(0), 1e-12)
        write_npy(os.path.join(outputs.probabilities, name + '.npy'), dict(zip(labels, probs)))
    if outputs.masks:
        write_mask(os.path.join(outputs.masks, name + '.png'), mask)
    if outputs.crf:
        refined = refine_mask(
            np.asarray(read_image(image_path)),
            mask,
            np.unique(mask),
            backend=outputs.crf_backend,
            num_labels=outputs.num_classes,
        )
        write_mask(os.path.join(outputs.crf, name + '.png'), refined)
