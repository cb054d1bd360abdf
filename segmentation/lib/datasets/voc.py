"""Data sets of the segmentation networks: training crops and test views (docs/method.md §8)."""

import os

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from tool.files.atomic import need_folder
from tool.files.pictures import read_image, read_mask
from tool.files.shown_classes import need_a_class
from tool.files.stage_of_input import MASKS, need_stage
from tool.method.crf import CrfPreset
from tool.method.torch_crf import lattices_of
from tool.run.errors import UserError
from tool.train.random_numbers import sample_rng
from utils.keys import with_defaults
from voc12.classes import IGNORE
from voc12.layout import check_images, check_masks, class_set, image_path
from voc12.transforms import crop_window, cut, normalise, normalised_crop, to_tensor

# There are as many loading processes as there are cores for them: each works in one thread.
cv2.setNumThreads(1)


def shift_hsv(image: np.ndarray, shifts: tuple[int, int, int]) -> np.ndarray:
    """Shift hue, saturation and value of an RGB image uint8 [H, W, 3].

    The hue wraps round at 180 (OpenCV's unit is 2 degrees). Saturation and value are clipped to
    0…255.
    """
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int16)
    hsv += np.asarray(shifts, np.int16)
    hsv[..., 0] %= 180
    return cv2.cvtColor(hsv.clip(0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)


class VOCDataset(Dataset):
    """Training crops of pictures with pseudo masks.

    The steps are: HSV shift; mirror; scale (cubic, the mask nearest-neighbour); crop, normalised on
    a canvas of zeros (the mask's canvas is 255). A sample is indexed by (epoch, index). Together
    with the seed they decide every random choice.

    Args:
        config: an experiment's config; its DATA_* keys and TRAIN_SEED are used.
        names: names of the pictures. The mask of a picture is DATA_PSEUDO_GT/<name>.png.
    Raises:
        UserError: a picture or mask is missing, their sizes differ, or no mask shows a class. The
            headers of all files are checked before training starts.
    """

    def __init__(self, config: dict, names: list[str]):
        self.config = config
        self.names = names
        self.classes = class_set(config['DATA_ROOT'])
        check_images(config['DATA_ROOT'], names, 'DATA_ROOT')
        need_folder(
            config['DATA_PSEUDO_GT'], 'set DATA_PSEUDO_GT to the folder of pseudo masks (PNG)'
        )
        need_stage(config['DATA_PSEUDO_GT'], MASKS, 'DATA_PSEUDO_GT')
        fix = 'check DATA_PSEUDO_GT and the image list'
        colours = config['DATA_MASK_COLOURS']
        check_masks(config['DATA_PSEUDO_GT'], config['DATA_ROOT'], names, fix, colours)
        where = f'DATA_PSEUDO_GT = {config["DATA_PSEUDO_GT"]}'
        masks = [self.mask_path(name) for name in names]
        need_a_class(masks, self.classes, where, config['DATA_MASK_COLOURS'])

    def mask_path(self, name: str) -> str:
        """Path of the pseudo mask of a picture."""
        return os.path.join(self.config['DATA_PSEUDO_GT'], name + '.png')

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        """'image' float32 [3, crop, crop] and 'mask' int64 [crop, crop], 255 = ignore."""
        config = self.config
        epoch, index = key
        name = self.names[index]
        rng = sample_rng(config['TRAIN_SEED'], epoch, index)
        image = np.asarray(read_image(image_path(config['DATA_ROOT'], name)))
        mask = read_mask(self.mask_path(name), self.classes, config['DATA_MASK_COLOURS'])

        limits = np.array(
            [config['DATA_RANDOM_H'], config['DATA_RANDOM_S'], config['DATA_RANDOM_V']]
        )
        if limits.any():
            image = shift_hsv(image, rng.integers(-limits, limits + 1))
        if rng.random() < config['DATA_RANDOMFLIP']:
            image = image[:, ::-1]
            mask = mask[:, ::-1]
        scale = rng.uniform(*config['DATA_RANDOMSCALE'])
        height, width = mask.shape
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_CUBIC)
        mask = cv2.resize(np.ascontiguousarray(mask), size, interpolation=cv2.INTER_NEAREST)

        crop = config['DATA_RANDOMCROP']
        window = crop_window(*mask.shape, crop, rng)
        normalisation = (config['DATA_MEAN'], config['DATA_STD'])
        return {
            'image': normalised_crop(image, crop, window, normalisation),
            'mask': to_tensor(cut(mask, crop, window, IGNORE)).long(),
        }


def picture_views(picture: np.ndarray, config: dict) -> list[torch.Tensor]:
    """A picture at every scale.

    The picture is normalised first and then resized with cubic interpolation, as published. So the
    views are floats: resized bytes would be other ones.

    Args:
        picture: uint8 [H, W, 3], RGB.
        config: an experiment's config; DATA_MEAN, DATA_STD and TEST_MULTISCALE are used.
    Returns:
        A tensor float32 [3, h, w] for every scale.
    """
    image = normalise(picture, config['DATA_MEAN'], config['DATA_STD'])
    return [to_tensor(_scaled(image, scale)) for scale in config['TEST_MULTISCALE']]


def _scaled(image: np.ndarray, scale: float) -> np.ndarray:
    """An image [H, W, 3] resized by a factor; a side that would become 0 has one pixel."""
    height, width = image.shape[:2]
    if min(round(height * scale), round(width * scale)) > 0:
        return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)


class TestSet(Dataset):
    """Every picture as `picture_views` gives it.

    Args:
        config: an experiment's config; DATA_ROOT, DATA_MEAN, DATA_STD and TEST_MULTISCALE are
            used.
        names: names of the pictures.
        lattices_for: also give the lattices of this dense CRF, for a mean field on the device of
            the network; None: none.
    """

    def __init__(self, config: dict, names: list[str], lattices_for: CrfPreset | None = None):
        self.config = config
        self.names = names
        self.lattices_for = lattices_for

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        """All views of one picture.

        Returns:
            'name'; 'size', (H, W); 'picture', uint8 [H, W, 3]; 'views', see `picture_views`; and
            where they are wanted 'lattices', see `tool.method.torch_crf.lattices_of`.
        """
        name = self.names[index]
        picture = np.array(read_image(image_path(self.config['DATA_ROOT'], name)))
        item = {
            'name': name,
            'size': picture.shape[:2],
            'picture': picture,
            'views': picture_views(picture, self.config),
        }
        if self.lattices_for is not None:
            item['lattices'] = lattices_of(picture, self.lattices_for)
        return item


DATASETS = {'VOCDataset': VOCDataset}


def generate_dataset(config: dict, names: list[str]) -> Dataset:
    """The training set of the class that DATA_NAME names.

    Raises:
        UserError: there is no such class, or a file is missing or has the wrong size.
    """
    config = with_defaults(config)
    if config['DATA_NAME'] not in DATASETS:
        raise UserError(
            f'DATA_NAME = {config["DATA_NAME"]!r}: no such data set; there are '
            f'{", ".join(DATASETS)}'
        )
    return DATASETS[config['DATA_NAME']](config, names)
