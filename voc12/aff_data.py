"""Data sets of the affinity stage.

Training takes crops with their confident regions; the random walk takes pictures with pooled CAMs.
"""

import os

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import Dataset

from tool.files.maps import read_cam, read_maps
from tool.files.pictures import read_image, read_mask
from tool.method.affinity import FEATURE_STRIDE, affinity_label
from tool.method.boundary import BOUNDARY_STRIDE
from tool.method.class_set import IGNORE
from tool.train.random_numbers import sample_rng
from voc12.layout import class_set, image_path
from voc12.normalisation import IMAGENET, Normalisation
from voc12.transforms import (
    color_jitter,
    crop_window,
    cut,
    normalised_crop,
)

BOUNDARY_SCALES = (0.5, 1.5)  # limits of the random scale of a crop of `BoundaryTrainSet`


def mean_pool(maps: np.ndarray, stride: int = FEATURE_STRIDE) -> np.ndarray:
    """Mean of every stride × stride cell.

    Args:
        maps: [C, H, W]; H and W are multiples of the stride.
        stride: side of a cell.
    Returns:
        [C, H/stride, W/stride].
    """
    channels, height, width = maps.shape
    cells = maps.reshape(channels, height // stride, stride, width // stride, stride)
    return cells.mean((2, 4))


def padded(images: torch.Tensor, stride: int = FEATURE_STRIDE) -> torch.Tensor:
    """Images [N, 3, H, W] with zeros on the right and below, to multiples of `stride` pixels."""
    height, width = images.shape[2:]
    return F.pad(images, (0, -width % stride, 0, -height % stride))


class RefinerTrainSet(Dataset):
    """Training crops of a refiner: what the sets of all refiners have in common.

    A sample is indexed by (epoch, index). Together with the seed they decide every random choice.

    Args:
        voc12_root: the VOC2012 folder.
        names: names of the pictures.
        crop_size: side of the crops in pixels, a multiple of the refiner's stride.
        seed: seed of the random choices.
        normalisation: (mean, std) of the network's inputs.
    """

    def __init__(
        self,
        voc12_root: str,
        names: list[str],
        crop_size: int,
        seed: int,
        normalisation: Normalisation = IMAGENET,
    ):
        self.root = voc12_root
        self.names = names
        self.crop_size = crop_size
        self.seed = seed
        self.normalisation = normalisation
        self.classes = class_set(voc12_root)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        """'image' [3, crop, crop] and 'label' uint8 [crop/stride, crop/stride]."""
        epoch, index = key
        return self.sample(self.names[index], sample_rng(self.seed, epoch, index))

    def sample(self, name: str, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """The sample of a picture, whose random choices come from `rng`."""
        raise NotImplementedError


class AffinityTrainSet(RefinerTrainSet):
    """Training crops of AffinityNet (docs/method.md §4, affinity).

    Colours are jittered, then the picture is cropped, normalised, and mirrored half the time. The
    label of a sample is described at `affinity_label`.

    Args:
        la_dir, ha_dir: folders of the maps <name>.npy that aff_prepare.py writes for the low and
            the high α.
        All others are those of `RefinerTrainSet`.
    """

    def __init__(
        self,
        voc12_root: str,
        names: list[str],
        la_dir: str,
        ha_dir: str,
        crop_size: int,
        seed: int,
        normalisation: Normalisation = IMAGENET,
    ):
        super().__init__(voc12_root, names, crop_size, seed, normalisation)
        self.la_dir = la_dir
        self.ha_dir = ha_dir

    def sample(self, name: str, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        pixels = np.asarray(color_jitter(read_image(image_path(self.root, name)), rng))
        size = pixels.shape[:2]
        la = read_maps(os.path.join(self.la_dir, name + '.npy'), self.classes, size)
        ha = read_maps(os.path.join(self.ha_dir, name + '.npy'), self.classes, size)
        height, width = size
        window = crop_window(height, width, self.crop_size, rng)
        mirrored = rng.random() < 0.5

        def crop(array: np.ndarray) -> np.ndarray:
            """The crop of an array [H, W, ...], mirrored where the sample is."""
            cropped = cut(array, self.crop_size, window)
            return cropped[:, ::-1] if mirrored else cropped

        class_ids = sorted({0} | set(la) | set(ha))
        no_map = np.zeros(size, np.float32)

        def crop_and_pool(maps: dict[int, np.ndarray]) -> np.ndarray:
            """The maps of all classes at feature size, [len(class_ids), crop/8, crop/8]."""
            crops = [crop(maps.get(class_id, no_map)) for class_id in class_ids]
            return mean_pool(np.stack(crops))

        label = affinity_label(crop_and_pool(la), crop_and_pool(ha))
        image = normalised_crop(pixels, self.crop_size, window, self.normalisation)
        if mirrored:
            image = image.flip(2)
        return {'image': image, 'label': torch.from_numpy(label)}


class BoundaryTrainSet(RefinerTrainSet):
    """Training crops of IRN's boundary head (docs/method.md §10.13).

    The picture is scaled by a random factor in 0.5…1.5 (bicubic; its label map to the nearest
    pixel), mirrored half the time, cropped and normalised. The label of a sample is the class of
    each cell, 255 where it is unsure.

    Args:
        label_dir: folder of the label maps <name>.png that aff_prepare.py --irn writes.
        All others are those of `RefinerTrainSet`.
    """

    def __init__(
        self,
        voc12_root: str,
        names: list[str],
        label_dir: str,
        crop_size: int,
        seed: int,
        normalisation: Normalisation = IMAGENET,
    ):
        super().__init__(voc12_root, names, crop_size, seed, normalisation)
        self.label_dir = label_dir

    def sample(self, name: str, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        picture = read_image(image_path(self.root, name))
        label_map = read_mask(os.path.join(self.label_dir, name + '.png'), self.classes)
        scale = rng.uniform(*BOUNDARY_SCALES)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
        labels = np.asarray(Image.fromarray(label_map).resize(size, Image.Resampling.NEAREST))
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
            labels = labels[:, ::-1]
        height, width = labels.shape
        window = crop_window(height, width, self.crop_size, rng)
        image = normalised_crop(pixels, self.crop_size, window, self.normalisation)
        labels = cut(labels, self.crop_size, window, IGNORE)
        # the pixel nearest to the middle of a cell, as Pillow takes it: the lower right of the four
        middle = BOUNDARY_STRIDE // 2
        label = labels[middle::BOUNDARY_STRIDE, middle::BOUNDARY_STRIDE]
        return {'image': image, 'label': torch.from_numpy(label.copy())}


class WalkSet(Dataset):
    """Whole pictures with their CAMs at the size of a random walk (docs/method.md §7, §10.13).

    CAMs are padded with zeros on the right and below to a multiple of the stride. So is the
    picture, once it is normalised (see `padded`).

    Args:
        voc12_root: the VOC2012 folder.
        names: names of the pictures.
        cam_dir: folder of the CAMs <name>.npy.
        bg_score: score of the background in every pixel of the picture; None: the background has no
            map in the walk.
        stride: picture pixels per cell of the walk.
    """

    def __init__(
        self,
        voc12_root: str,
        names: list[str],
        cam_dir: str,
        bg_score: float | None,
        stride: int = FEATURE_STRIDE,
    ):
        self.root = voc12_root
        self.names = names
        self.cam_dir = cam_dir
        self.bg_score = bg_score
        self.stride = stride
        self.classes = class_set(voc12_root)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        """One picture with n classes: the background and the foreground classes of its CAM file.

        Returns:
            'name'; 'size', (H, W); 'labels', the n class ids, the background's 0 first; 'picture',
            uint8 [H, W, 3]; and 'cam', float32 [n, h, w], or [n − 1, h, w] without a map of the
            background, with h = ceil(H/stride) and w = ceil(W/stride).
        """
        name = self.names[index]
        picture = np.array(read_image(image_path(self.root, name)))
        height, width = picture.shape[:2]
        cam = read_cam(os.path.join(self.cam_dir, name + '.npy'), self.classes, (height, width))
        foreground = sorted(cam)
        every_map = [cam[class_id] for class_id in foreground]
        if self.bg_score is not None:
            background_map = np.full((height, width), self.bg_score, np.float32)
            every_map.insert(0, background_map)
        maps = np.array(every_map, np.float32).reshape(-1, height, width)
        pad_rows = (0, -height % self.stride)
        pad_columns = (0, -width % self.stride)
        padded_maps = np.pad(maps, ((0, 0), pad_rows, pad_columns))
        return {
            'name': name,
            'size': (height, width),
            'labels': [0] + [class_id + 1 for class_id in foreground],
            'picture': torch.from_numpy(picture),
            'cam': torch.from_numpy(mean_pool(padded_maps, self.stride)),
        }
