"""The views of pictures that inference gives a network: made on the network's device.

A loader hands over the pixels of a picture once, as bytes. Copying them to a GPU and keeping them
in memory costs an eighth of what it would cost as normalised floats with their mirror images.
"""

from collections.abc import Sequence

import torch

from voc12.normalisation import Normalisation
from voc12.transforms import normalise_pixels

# Pixels of the images that one pass of a network takes, as many as those of the largest
# picture of VOC with its mirror image at twice its size. So a group of pictures takes as much
# memory as one picture, and small scales keep a GPU as busy as large ones.
PASS_PIXELS = 2 * 1000 * 1000


def images_of(
    pictures: Sequence[torch.Tensor], normalisation: Normalisation, device: torch.device
) -> torch.Tensor:
    """Pictures of equal size, normalised on the device, float32 [N, 3, H, W].

    Args:
        pictures: RGB, uint8 [H, W, 3] each, on the host.
        normalisation: (mean, std) of the network's inputs.
        device: where the network runs.
    """
    return normalise_pixels(stacked(pictures, device), *normalisation)


def stacked(tensors: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Tensors of equal shape as one tensor [N, ...] on the device.

    They are stacked there: on the host the stack would not be in page-locked memory.
    """
    return torch.stack([tensor.to(device, non_blocking=True) for tensor in tensors])


def with_mirror_images(images: torch.Tensor) -> torch.Tensor:
    """Images [N, 3, H, W] and, behind them, their mirror images: [2N, 3, H, W]."""
    return torch.cat([images, images.flip(3)])


def add_mirrored_back(maps: torch.Tensor) -> torch.Tensor:
    """The maps of images plus those of their mirror images, mirrored back.

    Args:
        maps: of `with_mirror_images`, [2N, C, H, W].
    Returns:
        [N, C, H, W].
    """
    of_images, of_mirror_images = maps.chunk(2)
    return of_images + of_mirror_images.flip(3)


def passes(images: torch.Tensor, least: int = 1) -> list[torch.Tensor]:
    """The parts of a batch [N, 3, H, W] that a network computes one after the other, of at most
    PASS_PIXELS pixels each.

    Args:
        images: the batch.
        least: number of images that a part has however large they are.
    """
    height, width = images.shape[2:]
    count = max(least, PASS_PIXELS // (height * width))
    return list(images.split(count))
