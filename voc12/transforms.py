"""Augmentations of pictures and maps (docs/method.md §1, §4).

Each is a function of a picture, and of a random generator where it draws anything.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional

from voc12.normalisation import MEAN, STD, Normalisation

Window = tuple[slice, slice, slice, slice]  # what `crop_window` returns


def normalise(
    image: Image.Image, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> np.ndarray:
    """A PIL RGB picture as float32 [H, W, 3]: (RGB/255 − mean) / std."""
    pixels = np.asarray(image, np.float32) / np.float32(255)
    return (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def normalise_pixels(
    pixels: torch.Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> torch.Tensor:
    """`normalise` on the device of the pixels, bit by bit the same on a CPU.

    Args:
        pixels: RGB, uint8 [..., H, W, 3].
        mean, std: of R, G and B.
    Returns:
        float32 [..., 3, H, W], contiguous.
    """
    # one copy to the device, and no division by a number of the host, which a GPU would replace by
    # a product with its inverse
    constants = torch.tensor([(255.0,) * 3, mean, std], dtype=torch.float32)
    constants = constants.to(pixels.device, non_blocking=True)
    whole, mean_of_channels, std_of_channels = constants.view(3, 3, 1, 1)
    channels_first = pixels.movedim(-1, -3)
    image = channels_first.to(torch.float32, memory_format=torch.contiguous_format)
    return image.div_(whole).sub_(mean_of_channels).div_(std_of_channels)


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """An array [H, W, C] as a contiguous tensor [C, H, W]; an array [H, W] keeps its shape."""
    if array.ndim == 3:
        array = array.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(array))


def random_long_side(
    size: tuple[int, int], low: int, high: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Resize (width, height) so that the long side is a random whole number in [low, high]."""
    width, height = size
    scale = int(rng.integers(low, high + 1)) / max(size)
    return max(1, round(width * scale)), max(1, round(height * scale))


def color_jitter(
    image: Image.Image,
    rng: np.random.Generator,
    brightness: float = 0.3,
    contrast: float = 0.3,
    saturation: float = 0.3,
    hue: float = 0.1,
) -> Image.Image:
    """torchvision's ColorJitter with all random numbers drawn from `rng`.

    Brightness, contrast and saturation are multiplied by factors in 1 ± their value, the hue is
    shifted by up to ± hue, and the four steps come in random order.
    """
    # imported here, because only training needs numba for its pictures
    from voc12.hue import shift_hue

    steps = [
        (functional.adjust_brightness, rng.uniform(1 - brightness, 1 + brightness)),
        (functional.adjust_contrast, rng.uniform(1 - contrast, 1 + contrast)),
        (functional.adjust_saturation, rng.uniform(1 - saturation, 1 + saturation)),
        (shift_hue, rng.uniform(-hue, hue)),
    ]
    for index in rng.permutation(len(steps)):
        adjust, value = steps[index]
        image = adjust(image, value)
    return image


def crop_window(height: int, width: int, crop: int, rng: np.random.Generator) -> Window:
    """A random window of a picture, and its place on a canvas of crop × crop pixels.

    A side that is shorter than the crop is placed at a random offset on the canvas. A longer one is
    cut at a random offset.

    Returns:
        (canvas rows, canvas columns, picture rows, picture columns).
    """
    canvas_rows, picture_rows = _crop_side(height, crop, rng)
    canvas_columns, picture_columns = _crop_side(width, crop, rng)
    return canvas_rows, canvas_columns, picture_rows, picture_columns


def _crop_side(side: int, crop: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """`crop_window` along one side: (slice of the canvas, slice of the picture)."""
    length = min(side, crop)
    offset = int(rng.integers(0, abs(crop - side) + 1))
    at_offset = slice(offset, offset + length)
    from_start = slice(0, length)
    if side < crop:
        return at_offset, from_start
    return from_start, at_offset


def normalised_crop(
    pixels: np.ndarray, crop: int, window: Window, normalisation: Normalisation
) -> torch.Tensor:
    """A `crop_window` of a picture, normalised, on a canvas of zeros.

    Args:
        pixels: RGB, uint8 [H, W, 3].
        crop: side of the canvas.
        window: the `crop_window`.
        normalisation: (mean, std).
    Returns:
        float32 [3, crop, crop].
    """
    canvas_rows, canvas_columns, picture_rows, picture_columns = window
    inside = torch.from_numpy(pixels[picture_rows, picture_columns].copy())
    image = torch.zeros(3, crop, crop)
    image[:, canvas_rows, canvas_columns] = normalise_pixels(inside, *normalisation)
    return image


def cut(array: np.ndarray, crop: int, window: Window, fill: float = 0) -> np.ndarray:
    """Apply a `crop_window` to [H, W, ...]: [crop, crop, ...] with `fill` outside the picture."""
    canvas_rows, canvas_columns, picture_rows, picture_columns = window
    result = np.full((crop, crop, *array.shape[2:]), fill, array.dtype)
    result[canvas_rows, canvas_columns] = array[picture_rows, picture_columns]
    return result
