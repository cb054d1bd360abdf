"""Data sets of the affinity stage: crops with confident regions for training, pictures with pooled
CAMs for the walk."""

import os

import numpy as np
import torch
from torch.utils.data import Dataset

from tool.files.maps import read_cam, read_maps
from tool.files.pictures import read_image
from tool.method.affinity import FEATURE_STRIDE, affinity_label
from tool.train.random_numbers import sample_rng
from voc12.layout import class_set, image_path
from voc12.transforms import IMAGENET, color_jitter, crop_window, cut, normalise, to_tensor


def mean_pool(maps: np.ndarray, stride: int = FEATURE_STRIDE) -> np.ndarray:
    """Mean over stride × stride cells: [C, H, W] → [C, H/stride, W/stride]; H and W are multiples
    of the stride."""
    channels, height, width = maps.shape
    return maps.reshape(channels, height // stride, stride, width // stride, stride).mean((2, 4))


class AffinityTrainSet(Dataset):
    """Crops for training AffinityNet (method §4, affinity): colours jittered, normalised, cropped,
    mirrored half the time.

    Indexed by (epoch, index), which with the seed decides every random choice.

    Args:
        la_dir, ha_dir: maps of aff_prepare.py for the low and the high α, <name>.npy.
        crop_size: pixels, a multiple of 8.
        normalisation: (mean, std) of the network's inputs.
    """

    def __init__(
        self,
        voc12_root: str,
        names: list[str],
        la_dir: str,
        ha_dir: str,
        crop_size: int,
        seed: int,
        normalisation: tuple = IMAGENET,
    ):
        self.root, self.names, self.la_dir, self.ha_dir = voc12_root, names, la_dir, ha_dir
        self.crop_size, self.seed, self.normalisation = crop_size, seed, normalisation
        self.classes = class_set(voc12_root)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        """'image' [3, crop, crop] and 'label' uint8 [crop/8, crop/8] (see `affinity_label`)."""
        epoch, index = key
        rng, crop, name = sample_rng(self.seed, epoch, index), self.crop_size, self.names[index]
        image = normalise(
            color_jitter(read_image(image_path(self.root, name)), rng), *self.normalisation
        )
        size = image.shape[:2]
        la, ha = (
            read_maps(os.path.join(folder, name + '.npy'), self.classes, size)
            for folder in (self.la_dir, self.ha_dir)
        )
        window = crop_window(*size, crop, rng)
        mirror = slice(None, None, -1 if rng.random() < 0.5 else 1)
        no_map, ids = np.zeros(size, np.float32), sorted({0} | set(la) | set(ha))
        pooled = [
            mean_pool(
                np.stack([cut(maps.get(label, no_map), crop, window)[:, mirror] for label in ids])
            )
            for maps in (la, ha)
        ]
        return {
            'image': to_tensor(cut(image, crop, window)[:, mirror]),
            'label': torch.from_numpy(affinity_label(*pooled)),
        }


class WalkSet(Dataset):
    """Whole pictures with their CAMs at feature size, zero-padded right and below to a multiple of
    8 (method §7).

    Args:
        bg_score: score of the background in every pixel of the picture.
        normalisation: (mean, std) of the network's inputs.
    """

    def __init__(
        self,
        voc12_root: str,
        names: list[str],
        cam_dir: str,
        bg_score: float,
        normalisation: tuple = IMAGENET,
    ):
        self.root, self.names, self.cam_dir, self.bg_score = voc12_root, names, cam_dir, bg_score
        self.normalisation = normalisation
        self.classes = class_set(voc12_root)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        """'name', 'size' (H, W), 'labels' (K ids, background 0 first), 'image' [3, 8h, 8w], 'cam'
        [K, h, w]."""
        name = self.names[index]
        image = normalise(read_image(image_path(self.root, name)), *self.normalisation)
        height, width = image.shape[:2]
        cam = read_cam(os.path.join(self.cam_dir, name + '.npy'), self.classes, (height, width))
        classes = sorted(cam)
        padding = (0, -height % FEATURE_STRIDE), (0, -width % FEATURE_STRIDE)
        maps = np.stack(
            [
                np.full((height, width), self.bg_score, np.float32),
                *(cam[class_id] for class_id in classes),
            ]
        )
        return {
            'name': name,
            'size': (height, width),
            'labels': [0] + [class_id + 1 for class_id in classes],
            'image': to_tensor(np.pad(image, (*padding, (0, 0)))),
            'cam': torch.from_numpy(mean_pool(np.pad(maps, ((0, 0), *padding)))),
        }
