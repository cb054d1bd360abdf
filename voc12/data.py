"""Data sets of the CAM stage: one augmented crop a sample for training, all scales of a picture for
inference."""

import os

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from tool.files.atomic import need_folder
from tool.files.lists import labels_of
from tool.files.pictures import check_size, image_size, read_gray, read_image
from tool.run.errors import UserError
from tool.train.random_numbers import sample_rng
from voc12.layout import image_path
from voc12.transforms import (
    IMAGENET,
    color_jitter,
    crop_window,
    cut,
    normalise,
    random_long_side,
    to_tensor,
)


def pick_labels(labels: dict[str, np.ndarray], names: list[str], path: str) -> np.ndarray:
    """Image-level labels float32 [len(names), K]; UserError for a name that `labels` (read from
    `path`) does not have."""
    found = labels_of(labels, names)
    lost = [name for name, label in zip(names, found) if label is None]
    if lost:
        raise UserError(
            f'{path}: no label for {lost[0]} ({len(lost)} of {len(names)} names have none); '
            'make it again with python -m voc12.make_lists'
        )
    return np.stack(found)


def saliency_path(root: str, name: str) -> str:
    """Saliency map of an image."""
    return os.path.join(root, name + '.png')


def read_saliency(path: str) -> Image.Image:
    """A saliency map as an 8-bit grey PIL image."""
    return Image.fromarray(read_gray(path, 'check --saliency_root', indices=False))


def check_saliency(saliency_root: str, voc12_root: str, names: list[str]) -> None:
    """UserError unless every name has an 8-bit grey saliency map of its picture's size (headers
    only)."""
    need_folder(
        saliency_root,
        'set --saliency_root to the folder of saliency PNGs (the EPS baseline needs them)',
    )
    for name in names:
        path = saliency_path(saliency_root, name)
        size = image_size(path, 'check --saliency_root', gray=True)
        picture_size = image_size(image_path(voc12_root, name))
        check_size(path, size, picture_size, what='saliency map is')


class TrainSet(Dataset):
    """Crops for training the CAM network (method §4, contrast).

    Long side resized to a random length, mirrored half the time, colours jittered, normalised, cut
    to a random crop in a canvas of zeros. Indexed by (epoch, index), which with the seed decides
    every random choice.

    Args:
        names: images; labels: float32 [len(names), K].
        crop_size: pixels. The long side is drawn from crop_size … crop_size · 768/448, as published
            at 448.
        saliency_root: folder of saliency maps, or None.
        normalisation: (mean, std) of the network's inputs.
    """

    def __init__(
        self,
        voc12_root: str,
        names: list[str],
        labels: np.ndarray,
        crop_size: int,
        seed: int,
        saliency_root: str | None = None,
        normalisation: tuple = IMAGENET,
    ):
        self.root, self.names, self.labels = voc12_root, names, labels
        self.crop_size, self.seed, self.saliency_root = crop_size, seed, saliency_root
        self.normalisation = normalisation

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        """'image' [3, crop, crop], 'label' [K] and, with saliency maps, 'saliency' [1, crop, crop]
        in [0, 1]."""
        epoch, index = key
        rng, crop, name = sample_rng(self.seed, epoch, index), self.crop_size, self.names[index]
        image = read_image(image_path(self.root, name))
        size = random_long_side(image.size, crop, round(crop * 768 / 448), rng)
        mirrored = rng.random() < 0.5

        def placed(picture, filter):
            picture = picture.resize(size, filter)
            return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else picture

        image = normalise(
            color_jitter(placed(image, Image.Resampling.BICUBIC), rng), *self.normalisation
        )
        window = crop_window(*image.shape[:2], crop, rng)
        sample = {
            'image': to_tensor(cut(image, crop, window)),
            'label': torch.from_numpy(self.labels[index]),
        }
        if self.saliency_root is not None:
            saliency = placed(
                read_saliency(saliency_path(self.saliency_root, name)), Image.Resampling.BILINEAR
            )
            saliency = np.asarray(saliency, np.float32)[..., None] / np.float32(255)
            sample['saliency'] = to_tensor(cut(saliency, crop, window))
        return sample


class MultiScaleSet(Dataset):
    """Every image at every scale, each with its mirror image (method §5).

    Args:
        names: images; labels: float32 [len(names), K]; scales: factors on the image size.
        normalisation: (mean, std) of the network's inputs.
    """

    def __init__(
        self,
        voc12_root: str,
        names: list[str],
        labels: np.ndarray,
        scales: list[float],
        normalisation: tuple = IMAGENET,
    ):
        self.root, self.names, self.labels, self.scales = voc12_root, names, labels, scales
        self.normalisation = normalisation

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        """'name', 'size' (H, W), 'classes' (ids 0…K−1 of the foreground classes present) and
        'views': one [2, 3, h, w] a scale."""
        image = read_image(image_path(self.root, self.names[index]))
        width, height = image.size
        views = []
        for scale in self.scales:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            view = to_tensor(
                normalise(image.resize(size, Image.Resampling.BICUBIC), *self.normalisation)
            )
            views.append(torch.stack([view, view.flip(2)]))
        return {
            'name': self.names[index],
            'size': (height, width),
            'views': views,
            'classes': np.flatnonzero(self.labels[index]).tolist(),
        }
