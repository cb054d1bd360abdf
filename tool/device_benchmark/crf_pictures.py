"""Pictures for the section `crf` of `tool.benchmark --device`, with probabilities like a DeepLab's.

No trained network is needed: the probabilities are made from the pictures' masks.
"""

import os
from collections.abc import Iterator

import cv2
import numpy as np

from tool.device_benchmark.stage_step import Setting
from tool.files.atomic import need_folder
from tool.files.pictures import read_image, read_mask
from voc12.classes import IGNORE, NUM_CLASSES, VOC
from voc12.layout import image_path
from voc12.synth import scene

STRIDE = 8  # pixels of a picture in a cell of a DeepLab's logits


def crf_pictures(setting: Setting) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`setting.pictures` pictures uint8 [H, W, 3] with probabilities float32 [21, H, W].

    They are spread evenly over the pictures of `setting.voc12_root` that have a mask. Without that
    folder they are generated.

    Raises:
        UserError: the folder has no masks.
    """
    rng = np.random.default_rng(0)
    if setting.voc12_root is None:
        for _ in range(setting.pictures):
            height, width = setting.picture
            picture, _, classes = scene(rng)
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
            ids = [0, *(class_index + 1 for class_index in classes)]
            cells = rng.choice(ids, (4, 5)).astype(np.uint8)
            mask = cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST)
            yield picture, deeplab_like(mask, rng)
        return
    folder = os.path.join(setting.voc12_root, 'SegmentationClass')
    need_folder(folder, 'give --voc12_root a folder of VOC 2012')
    names = sorted(os.path.splitext(file)[0] for file in os.listdir(folder))
    for name in names[:: max(1, len(names) // setting.pictures)][: setting.pictures]:
        picture = np.asarray(read_image(image_path(setting.voc12_root, name)))
        mask = read_mask(os.path.join(folder, name + '.png'), VOC)
        yield picture, deeplab_like(mask, rng)


def deeplab_like(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Probabilities like those that a DeepLab gives for a picture with this mask.

    The logits have one cell for 8×8 pixels. They are the blurred mask of each class plus smooth
    noise; classes that are not in the picture have smaller ones. About four labels reach a fifth of
    the largest probability in some pixel, as many as with a network that was trained a little
    (docs/results.md).

    Args:
        mask: uint8 [H, W], class ids; ignored pixels are taken for background.
        rng: makes the noise.
    Returns:
        float32 [21, H, W].
    """
    height, width = mask.shape
    mask = np.where(mask == IGNORE, 0, mask)
    cells = (-(-width // STRIDE), -(-height // STRIDE))
    logits = []
    for class_id in range(NUM_CLASSES):
        own = (mask == class_id).astype(np.float32)
        own = cv2.resize(own, cells, interpolation=cv2.INTER_AREA)
        own = cv2.GaussianBlur(own, (0, 0), 1.0)
        noise = rng.standard_normal(own.shape).astype(np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), 2.0)
        logit = 6 * own + noise / noise.std()
        if not (mask == class_id).any():
            logit += 1.5 * rng.standard_normal() - 4
        logits.append(cv2.resize(logit, (width, height), interpolation=cv2.INTER_LINEAR))
    exponentials = np.exp(np.stack(logits))
    return (exponentials / exponentials.sum(0)).astype(np.float32)
