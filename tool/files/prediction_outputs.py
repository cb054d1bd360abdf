"""The files that `tool.predict` writes for a picture: its mask, and pictures for the eye.

Worker processes call these functions. This module does not import torch, so that they start
quickly.
"""

import os
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tool.files.overlays import heat_map, overlay
from tool.files.pictures import write_mask, write_picture
from tool.method.class_set import ClassSet
from tool.method.crf import DEEPLAB_CRF, crf_from_probs, refine_mask
from tool.method.metrics import cam_prediction


@dataclass(frozen=True)
class MaskOutputs:
    """The folders that the files of pictures are written to, and how."""

    # folder of the masks
    masks: str
    # folder of the pictures with their masks over them; None: not wanted
    overlays: str | None
    # folder of the heat maps of the CAMs; None: not wanted
    heat_maps: str | None
    # the classes of the masks
    classes: ClassSet
    # one of tool.method.crf.BACKENDS; None: no dense CRF
    crf_backend: str | None
    # score of the background against CAMs; what DeepLab predicts does without it
    background_score: float = 0.0


def write_cams(
    name: str, picture: np.ndarray, cam: dict[int, np.ndarray], outputs: MaskOutputs
) -> None:
    """Write the files of a picture whose CAMs are known.

    Args:
        name: the picture.
        picture: uint8 [H, W, 3], RGB.
        cam: {foreground class 0…K−1: float32 [H, W]}.
        outputs: the folders, and the score of the background.
    """
    mask = cam_prediction(cam, picture.shape[:2], outputs.background_score)
    if outputs.crf_backend:
        mask = refine_mask(
            picture,
            mask,
            [key + 1 for key in cam],
            backend=outputs.crf_backend,
            num_labels=outputs.classes.num_classes,
        )
    if outputs.heat_maps:
        shown = Image.fromarray(heat_map(picture, cam))
        write_picture(os.path.join(outputs.heat_maps, name + '.png'), shown)
    _write(name, picture, mask, outputs)


def write_segmentation(
    name: str, picture: np.ndarray, prediction: np.ndarray, outputs: MaskOutputs
) -> None:
    """Write the files of a picture that a segmentation network has seen.

    Args:
        name: the picture.
        picture: uint8 [H, W, 3], RGB.
        prediction: for the dense CRF the probabilities, float32 [C, H, W]; without it the mask,
            uint8 [H, W].
        outputs: the folders.
    """
    mask = prediction
    if outputs.crf_backend:
        mask = crf_from_probs(picture, prediction, DEEPLAB_CRF, outputs.crf_backend)
    _write(name, picture, mask, outputs)


def _write(name: str, picture: np.ndarray, mask: np.ndarray, outputs: MaskOutputs) -> None:
    """Write the mask of a picture, and the picture with the mask over it where wanted."""
    if outputs.overlays:
        shown = overlay(picture, mask, outputs.classes)
        write_picture(os.path.join(outputs.overlays, name + '.png'), shown)
    write_mask(os.path.join(outputs.masks, name + '.png'), mask)
