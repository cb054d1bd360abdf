"""Map stacks [N, 21, h, w] whose background may stand in any channel."""

import torch
import torch.nn.functional as F


def split(maps: torch.Tensor, bg_index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(background [N, 1, …], foreground [N, 20, …])."""
    return (maps[:, :1], maps[:, 1:]) if bg_index == 0 else (maps[:, bg_index:], maps[:, :bg_index])


def with_background(
    foreground: torch.Tensor, background: torch.Tensor, bg_index: int
) -> torch.Tensor:
    """The stack [N, 21, …] of its parts."""
    return torch.cat([background, foreground] if bg_index == 0 else [foreground, background], 1)


def spatial_size(maps: torch.Tensor) -> tuple[int, int]:
    """(H, W) of maps [..., H, W]."""
    return maps.shape[-2], maps.shape[-1]


def resize(maps: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
    """[N, C, H, W] upsampled bilinearly (corners aligned) to `size`; as it is where that is
    None."""
    if size is None or tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size, mode='bilinear', align_corners=True)


def scale_maps(maps: torch.Tensor) -> torch.Tensor:
    """norm(p) of method §3.1: ReLU, then scaled to [0, 1) by each map's own spatial minimum and
    maximum."""
    maps = F.relu(maps)
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return F.relu(maps - low - 1e-5) / (high - low + 1e-5)


def scale_scores(maps: torch.Tensor) -> torch.Tensor:
    """Scores of maps m [..., H, W], each scaled by its own spatial minimum and maximum, as the
    contrast and SEAM's seeds have them (docs/method.md §3.3, §5).

        a = ReLU(m)        a' = a where a ≥ min a + ε, else 0
        s = (a' − min a − ε) / (max a − min a + ε)

    The floor is slightly negative, as published.
    """
    maps = F.relu(maps)
    low = maps.amin((-2, -1), keepdim=True)
    high = maps.amax((-2, -1), keepdim=True)
    without_small = torch.where(maps < low + 1e-5, 0, maps)
    return (without_small - low - 1e-5) / (high - low + 1e-5)
