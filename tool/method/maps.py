"""Stacks of maps [N, C, h, w]: K foreground classes, and the background in any channel."""

import torch
import torch.nn.functional as F


def split(maps: torch.Tensor, bg_index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(background [N, 1, …], foreground [N, K, …]) of a stack [N, C, …].

    Args:
        bg_index: channel of the background, the first or the last.
    """
    if bg_index == 0:
        return maps[:, :1], maps[:, 1:]
    return maps[:, bg_index:], maps[:, :bg_index]


def with_background(
    foreground: torch.Tensor, background: torch.Tensor, bg_index: int
) -> torch.Tensor:
    """The stack [N, C, …] of its parts; the background becomes the first or the last channel."""
    parts = [background, foreground] if bg_index == 0 else [foreground, background]
    return torch.cat(parts, 1)


def spatial_size(maps: torch.Tensor) -> tuple[int, int]:
    """(H, W) of maps [..., H, W]."""
    return maps.shape[-2], maps.shape[-1]


def resize(maps: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
    """Maps [N, C, h, w] resized bilinearly (align_corners=True) to `size`; None leaves them."""
    if size is None or tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size, mode='bilinear', align_corners=True)


def scale_maps(maps: torch.Tensor) -> torch.Tensor:
    """norm(p) of docs/method.md §3.1, in [0, 1).

        a = ReLU(p)        norm(p) = ReLU(a − min a − ε) / (max a − min a + ε)

    Minimum and maximum are those of one map [h, w] of one image.
    """
    maps = F.relu(maps)
    low = maps.amin((2, 3), keepdim=True)
    high = maps.amax((2, 3), keepdim=True)
    return F.relu(maps - low - 1e-5) / (high - low + 1e-5)


def scale_scores(maps: torch.Tensor) -> torch.Tensor:
    """Scores of maps m [..., H, W], each scaled by its own spatial minimum and maximum, as the
    contrast and SEAM's seeds have them (docs/method.md §3.3, §5).

        a = ReLU(m)        a' = a where a ≥ min a + ε, else 0
        s = (a' − min a − ε) / (max a − min a + ε)

    As published there is no ReLU at the end. So the floor of a map whose minimum is 0 is slightly
    negative, and that of a map that is positive everywhere, −(min a + ε) / (max a − min a + ε), can
    reach −1.
    """
    maps = F.relu(maps)
    low = maps.amin((-2, -1), keepdim=True)
    high = maps.amax((-2, -1), keepdim=True)
    without_small = torch.where(maps < low + 1e-5, 0, maps)
    return (without_small - low - 1e-5) / (high - low + 1e-5)
