"""Augmentations as functions of a sample and a generator: geometry and colour, each once (method
§1, §4)."""

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
IMAGENET = (MEAN, STD)  # what ResNet-38's inputs are normalised by


def normalise(image: Image.Image, mean: tuple = MEAN, std: tuple = STD) -> np.ndarray:
    """PIL RGB → float32 [H, W, 3]: RGB/255, minus mean, by std."""
    pixels = np.asarray(image, np.float32) / np.float32(255)
    return (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """[H, W, C] → contiguous tensor [C, H, W]; [H, W] stays."""
    return torch.from_numpy(
        np.ascontiguousarray(array.transpose(2, 0, 1) if array.ndim == 3 else array)
    )


def random_long_side(
    size: tuple[int, int], low: int, high: int, rng: np.random.Generator
) -> tuple[int, int]:
    """(width, height) whose long side is a random whole number in [low, high]."""
    scale = int(rng.integers(low, high + 1)) / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def color_jitter(
    image: Image.Image,
    rng: np.random.Generator,
    brightness: float = 0.3,
    contrast: float = 0.3,
    saturation: float = 0.3,
    hue: float = 0.1,
) -> Image.Image:
    """torchvision's ColorJitter (factors in 1 ± value, hue shift in ± hue, random order) drawn from
    `rng`."""
    steps = [
        (functional.adjust_brightness, rng.uniform(1 - brightness, 1 + brightness)),
        (functional.adjust_contrast, rng.uniform(1 - contrast, 1 + contrast)),
        (functional.adjust_saturation, rng.uniform(1 - saturation, 1 + saturation)),
        (functional.adjust_hue, rng.uniform(-hue, hue)),
    ]
    for index in rng.permutation(len(steps)):
        adjust, value = steps[index]
        image = adjust(image, value)
    return image


def crop_window(
    height: int, width: int, crop: int, rng: np.random.Generator
) -> tuple[slice, slice, slice, slice]:
    """A random crop × crop window: (canvas rows, canvas columns, picture rows, picture columns).

    A side shorter than the crop is placed at a random offset of the canvas, a longer one is cut at
    a random offset.
    """
    canvas, picture = [], []
    for side in (height, width):
        length = min(side, crop)
        space = crop - side
        offset = int(rng.integers(0, abs(space) + 1))
        canvas.append(slice(offset, offset + length) if space > 0 else slice(0, length))
        picture.append(slice(0, length) if space > 0 else slice(offset, offset + length))
    return canvas[0], canvas[1], picture[0], picture[1]


def cut(array: np.ndarray, crop: int, window: tuple, fill: float = 0) -> np.ndarray:
    """Apply a `crop_window` to [H, W, ...]: [crop, crop, ...] with `fill` outside the picture."""
    result = np.full((crop, crop, *array.shape[2:]), fill, array.dtype)
    result[window[0], window[1]] = array[window[2], window[3]]
    return result
