"""Stacks of maps [N, C, h, w]: K foreground classes, and the background in any channel."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class ViewMaps:
    """The output of the network for one view, at feature size."""

    # m: class maps [N, C, h, w]
    cam: torch.Tensor
    # m̂: class maps refined by the PCM, at least 0, [N, C, h, w]
    cam_rv: torch.Tensor
    # f: projected features, at least 0, [N, D, h, w]
    f_proj: torch.Tensor
    # class scores [N, C], if the network gives them (EPS)
    pred: torch.Tensor | None = None


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
    """Maps [N, C, h, w] resized bilinearly (align_corners=True) to `size`; None leaves them.

    In training on a GPU it is done by `resize_by_products`. The gradient of PyTorch's own kernel
    is not the same bits every time there, and its deterministic way is made of many steps, with
    sorts. On a CPU PyTorch's own kernel does both.
    """
    if size is None or tuple(maps.shape[2:]) == tuple(size):
        return maps
    if maps.is_cuda and torch.is_grad_enabled():
        return resize_by_products(maps, size)
    return F.interpolate(maps, size, mode='bilinear', align_corners=True)


def resize_by_products(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps [N, C, h, w] resized as `resize` does, to (H, W), by two products of matrices.

        rows · (maps · columnsᵀ)

    Both are computed in float32; the result has the type of `maps`. So is the gradient, which is
    two products as well.
    """
    rows = interpolation_matrix(maps.shape[2], size[0], maps.device)
    columns = interpolation_matrix(maps.shape[3], size[1], maps.device)
    return _by_products(maps, rows, columns)


def _by_products(maps: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """rows · (maps · columnsᵀ) in float32, returned in the type of the maps."""
    with torch.autocast(maps.device.type, enabled=False):
        resized = rows @ (maps.float() @ columns.T)
    return resized.to(maps.dtype)


def interpolation_matrix(cells: int, length: int, device: torch.device) -> torch.Tensor:
    """Weights float32 [length, cells] of the cells of a line in each value of the resized line.

    A value lies between two cells, and their weights fall with the distance to it (align_corners:
    the first value is the first cell, the last is the last).
    """
    spacing = (cells - 1) / max(1, length - 1)
    positions = torch.arange(length, device=device, dtype=torch.float32) * spacing
    return _linear_weights(positions, cells)


def on_grid(maps: torch.Tensor, spacing: float, size: tuple[int, int]) -> torch.Tensor:
    """Maps [N, C, h, w] read bilinearly where the cells of another grid have their centres.

    Both grids begin at the same corner of the picture. A centre outside the outermost centres of
    the maps takes the value of the nearest cell. It is computed as in `resize_by_products`.

    Args:
        maps: the maps.
        spacing: side of a cell of the other grid, in cells of the maps.
        size: (H, W) of the other grid.
    """
    rows = _grid_matrix(maps.shape[2], size[0], spacing, maps.device)
    columns = _grid_matrix(maps.shape[3], size[1], spacing, maps.device)
    return _by_products(maps, rows, columns)


def _grid_matrix(cells: int, length: int, spacing: float, device: torch.device) -> torch.Tensor:
    """Weights float32 [length, cells] of a line of cells in the cells of another grid."""
    numbers = torch.arange(length, device=device, dtype=torch.float32)
    positions = (numbers + 0.5) * spacing - 0.5
    return _linear_weights(positions.clamp(0, cells - 1), cells)


def _linear_weights(positions: torch.Tensor, cells: int) -> torch.Tensor:
    """Weights float32 [positions, cells] of a line of cells at positions in [0, cells − 1]."""
    cell_numbers = torch.arange(cells, device=positions.device)
    distances = (positions[:, None] - cell_numbers).abs()
    return (1 - distances).clamp(min=0)


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
    negative, that of a map of zeros is −1, and that of a map that is positive everywhere,
    −(min a + ε) / (max a − min a + ε), has no limit.
    """
    maps = F.relu(maps)
    low = maps.amin((-2, -1), keepdim=True)
    high = maps.amax((-2, -1), keepdim=True)
    without_small = torch.where(maps < low + 1e-5, 0, maps)
    return (without_small - low - 1e-5) / (high - low + 1e-5)
