"""What is written of a picture's CAMs: npy, thresholded PNG, dense CRF. Imports no torch, so worker processes start quickly."""
import os
from dataclasses import dataclass

import numpy as np

from tool.files import read_image, write_mask, write_npy
from tool.method.crf import refine_mask
from tool.method.metrics import cam_prediction


@dataclass(frozen=True)
class SeedOutputs:
    """Folders to write (None: not wanted) and how.

    cam: npy dicts. png: masks at `threshold`. crf: masks after dense CRF of the labels at `threshold`, by
    `crf_iters` mean-field steps of `crf_backend` over `num_classes` labels, background included.
    """
    cam: str | None
    png: str | None
    crf: str | None
    threshold: float
    crf_iters: int
    crf_backend: str
    num_classes: int

    def crf_settings(self) -> dict:
        """What decides the masks of `crf`, besides what decides those of `png`."""
        return {'crf_iters': self.crf_iters, 'crf_backend': self.crf_backend}

    def files(self) -> list[tuple[str, str]]:
        """(folder, extension) of everything wanted."""
        return [(folder, extension) for folder, extension in ((self.cam, '.npy'), (self.png, '.png'), (self.crf, '.png'))
                if folder]


def write_seed(name: str, cam: dict[int, np.ndarray], size: tuple[int, int], image_path: str, outputs: SeedOutputs) -> None:
    """Write the wanted outputs of one picture; `cam` is {class 0…19: float32 [H, W]}, `size` (H, W)."""
    if outputs.cam:
        write_npy(os.path.join(outputs.cam, name + '.npy'), cam)
    if not (outputs.png or outputs.crf):
        return
    labels = cam_prediction(cam, size, outputs.threshold)
    if outputs.png:
        write_mask(os.path.join(outputs.png, name + '.png'), labels)
    if outputs.crf:
        refined = refine_mask(np.asarray(read_image(image_path)), labels, [key + 1 for key in cam], outputs.crf_iters,
                              outputs.crf_backend, num_labels=outputs.num_classes)
        write_mask(os.path.join(outputs.crf, name + '.png'), refined)
