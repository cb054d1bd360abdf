"""Data sets of the CAM stage.

A training sample is one augmented crop; a sample for inference is a picture at all scales.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from tool.files.atomic import need_folder
from tool.files.lists import labels_of
from tool.files.pictures import check_size, image_size, read_gray, read_image
from tool.run.errors import UserError
from tool.run.progress import progress
from tool.run.shard import is_first
from tool.train.random_numbers import sample_rng
from voc12.layout import image_path
from voc12.normalisation import IMAGENET, Normalisation
from voc12.transforms import (
    color_jitter,
    crop_window,
    cut,
    normalised_crop,
    random_long_side,
    to_tensor,
)


def pick_labels(labels: dict[str, np.ndarray], names: list[str], path: str) -> np.ndarray:
    """The image-level labels of the pictures `names`, float32 [len(names), K].

    Args:
        labels: {name: float32 [K]} as read from the file `path`.
        names: names of the pictures, in the order of the result.
        path: the file, for the error message.
    Raises:
        UserError: a picture has no label in the file.
    """
    found = labels_of(labels, names)
    lost = [name for name, label in zip(names, found) if label is None]
    if lost:
        raise UserError(
            f'{path}: no label for {lost[0]} ({len(lost)} of {len(names)} names have none); '
            'make it again with python -m voc12.make_lists'
        )
    return np.stack([label for label in found if label is not None])


def saliency_path(root: str, name: str) -> str:
    """Path of the saliency map of a picture in the folder `root`."""
    return os.path.join(root, name + '.png')


def read_saliency(path: str) -> Image.Image:
    """A saliency map as an 8-bit grey PIL image.

    Raises:
        UserError: the file is missing, damaged or not grey, or its values are only 0 and 1.
    """
    values = read_gray(path, 'check --saliency_root', indices=False)
    if values.max() == 1:
        raise UserError(
            f'{path}: holds only 0 and 1, which is as good as black; saliency is 0…255, so '
            'multiply the maps by 255'
        )
    return Image.fromarray(values)


def check_saliency(saliency_root: str, voc12_root: str, names: list[str]) -> None:
    """Check that every picture has a saliency map, and that not all of them are black.

    Only the headers of files are read, and maps until one shows something, mostly the first.

    Raises:
        UserError: a map is missing, is not an 8-bit grey PNG, or has another size than its picture;
            or all maps are black.
    """
    need_folder(
        saliency_root,
        'the EPS baseline needs saliency maps: set --saliency_root to their folder, or make them '
        'with python -m voc12.make_saliency --model wheel',
    )
    desc = f'checking {saliency_root}'
    for name in progress(names, desc=desc, unit='file', quiet=not is_first()):
        path = saliency_path(saliency_root, name)
        size = image_size(path, 'check --saliency_root', gray=True)
        picture_size = image_size(image_path(voc12_root, name))
        check_size(path, size, picture_size, what='saliency map is')
    if len(names) < 2:  # a single picture may show nothing
        return
    for name in names:
        if np.asarray(read_saliency(saliency_path(saliency_root, name))).any():
            return
    raise UserError(
        f'{saliency_root}: the saliency maps of all {len(names)} pictures are black; saliency is '
        '0…255, so multiply maps of 0…1 by 255 before they are saved'
    )


@dataclass(frozen=True)
class Crops:
    """The way training crops are drawn from the pictures."""

    # side of the crops in pixels
    size: int
    # seed of the random choices
    seed: int
    # (smallest, largest) long side that a picture is resized to, in pixels. None: from the size of
    # the crops to 768/448 of it, which at 448 are the published limits
    long_side: tuple[int, int] | None = None

    def long_side_limits(self) -> tuple[int, int]:
        """The smallest and the largest long side of a resized picture, in pixels."""
        if self.long_side is not None:
            return self.long_side
        return self.size, round(self.size * 768 / 448)


class TrainSet(Dataset):
    """Training crops of the CAM network (docs/method.md §4, contrast).

    The long side of a picture is resized to a random length. The picture is then mirrored half the
    time, its colours are jittered, and a random crop of it is normalised and placed on a canvas of
    zeros. A sample is indexed by (epoch, index). Together with the seed of the crops they decide
    every random choice.

    Args:
        voc12_root: the VOC2012 folder.
        names: names of the pictures.
        labels: image-level labels, float32 [len(names), K].
        crops: how the crops are drawn.
        saliency_root: folder of saliency maps; None for samples without them.
        normalisation: (mean, std) of the network's inputs.
    """

    def __init__(
        self,
        voc12_root: str,
        names: list[str],
        labels: np.ndarray,
        crops: Crops,
        saliency_root: str | None = None,
        normalisation: Normalisation = IMAGENET,
    ):
        self.root = voc12_root
        self.names = names
        self.labels = labels
        self.crops = crops
        self.saliency_root = saliency_root
        self.normalisation = normalisation

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        """One sample of an epoch.

        Returns:
            'image', [3, crop, crop]; 'label', [K]; and, with saliency maps, 'saliency',
            [1, crop, crop] in [0, 1].
        """
        epoch, index = key
        rng = sample_rng(self.crops.seed, epoch, index)
        crop = self.crops.size
        name = self.names[index]
        picture = read_image(image_path(self.root, name))
        shortest, longest = self.crops.long_side_limits()
        size = random_long_side(picture.size, shortest, longest, rng)
        mirrored = rng.random() < 0.5

        def resize_and_mirror(picture: Image.Image, filter: Image.Resampling) -> Image.Image:
            picture = picture.resize(size, filter)
            if mirrored:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            return picture

        picture = resize_and_mirror(picture, Image.Resampling.BICUBIC)
        pixels = np.asarray(color_jitter(picture, rng))
        rows, columns = pixels.shape[:2]
        window = crop_window(rows, columns, crop, rng)
        sample = {
            'image': normalised_crop(pixels, crop, window, self.normalisation),
            'label': torch.from_numpy(self.labels[index]),
        }
        if self.saliency_root is not None:
            saliency_map = read_saliency(saliency_path(self.saliency_root, name))
            saliency_map = resize_and_mirror(saliency_map, Image.Resampling.BILINEAR)
            saliency = np.asarray(saliency_map, np.float32)[..., None] / np.float32(255)
            sample['saliency'] = to_tensor(cut(saliency, crop, window))
        return sample


def scaled_pictures(image: Image.Image, scales: Sequence[float]) -> list[torch.Tensor]:
    """A picture at every scale (docs/method.md §5); `network.views` makes the views of them.

    Args:
        image: the picture, RGB.
        scales: factors on its size.
    Returns:
        A tensor uint8 [h, w, 3] for every scale.
    """
    width, height = image.size
    pictures = []
    for scale in scales:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        resized = image.resize(size, Image.Resampling.BICUBIC)
        pictures.append(torch.from_numpy(np.array(resized)))
    return pictures


class MultiScaleSet(Dataset):
    """Every picture at every scale (docs/method.md §5).

    Args:
        voc12_root: the VOC2012 folder.
        names: names of the pictures.
        labels: image-level labels, float32 [len(names), K]; None for pictures without labels.
        scales: factors on the size of a picture.
    """

    def __init__(
        self,
        voc12_root: str,
        names: list[str],
        labels: np.ndarray | None,
        scales: list[float],
    ):
        self.root = voc12_root
        self.names = names
        self.labels = labels
        self.scales = scales

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        """One picture at all scales.

        Returns:
            'name'; 'size', (H, W); 'pictures', a tensor uint8 [h, w, 3] for every scale; and, with
            labels, 'classes', indices 0…K−1 of the foreground classes in the picture.
        """
        image = read_image(image_path(self.root, self.names[index]))
        width, height = image.size
        pictures = scaled_pictures(image, self.scales)
        item = {'name': self.names[index], 'size': (height, width), 'pictures': pictures}
        if self.labels is not None:
            item['classes'] = np.flatnonzero(self.labels[index]).tolist()
        return item
