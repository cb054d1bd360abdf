"""IRN's class boundaries: the affinities that they give, and the random walk that they stop.

docs/method.md §10.13; Ahn, Cho, Kwak: "Weakly Supervised Learning of Instance Segmentation with
Inter-pixel Relations" (CVPR 2019). The pairs of pixels are those of AffinityNet
(`tool.method.affinity`), on a finer map.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from tool.method.affinity import RADIUS, pair_offsets, pair_radius, shifted
from tool.method.random_walk import random_walk

BOUNDARY_STRIDE = 4  # picture pixels per cell of a boundary map
TRAIN_RADIUS = 10  # in training, pairs reach less than this many cells; in the walk RADIUS
# The published constants of the walk.
BETA = 10
LOGT = 8


def path(dy: int, dx: int) -> list[tuple[int, int]]:
    """The cells (y, x) on the straight path from (0, 0) to (dy, dx), both ends included.

    They lie in the rectangle that the two ends span, and less than one cell away from the line:

        (dy·x − dx·y)² / (dy² + dx²) < 1

    Args:
        dy: at least 0.
        dx: of either sign; not 0 if dy is.
    Returns:
        Row by row.
    """
    length2 = dy * dy + dx * dx
    cells = []
    for y in range(dy + 1):
        for x in range(min(dx, 0), max(dx, 0) + 1):
            cross = dy * x - dx * y
            if cross * cross < length2:
                cells.append((y, x))
    return cells


class PathMaximum(torch.autograd.Function):
    """The highest boundary on the path of each pair, [N, h, w] → [N, offsets, rows, columns].

    Forward keeps a running maximum for each offset, of views of the map; backward gives the
    gradient of a pair to the first cell that holds the maximum, in the order of `path`. So no index
    is made or kept, and a GPU adds in the same order every time.
    """

    @staticmethod
    def forward(ctx: Any, boundary: torch.Tensor, radius: int) -> torch.Tensor:
        maxima = []
        for dy, dx in pair_offsets(radius):
            highest = shifted(boundary, radius).clone()
            for y, x in path(dy, dx):
                torch.maximum(highest, shifted(boundary, radius, y, x), out=highest)
            maxima.append(highest)
        if maxima:
            result = torch.stack(maxima, 1)
        else:
            start = shifted(boundary, radius)
            result = start.new_empty(len(start), 0, *start.shape[1:])
        ctx.save_for_backward(boundary, result)
        ctx.radius = radius
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        boundary, maxima = ctx.saved_tensors
        radius = ctx.radius
        result = torch.zeros_like(boundary)
        for offset, (dy, dx) in enumerate(pair_offsets(radius)):
            highest = maxima[:, offset]
            left = gradient[:, offset].clone()  # what no cell of the path has got yet
            for y, x in path(dy, dx):
                is_highest = shifted(boundary, radius, y, x) == highest
                taken = left * is_highest
                shifted(result, radius, y, x).add_(taken)
                left -= taken
        return result, None


def boundary_affinity(boundary: torch.Tensor, radius: int) -> torch.Tensor:
    """Affinities of all pairs of a boundary map: 1 minus the highest boundary between the two.

        a_{u,u'} = 1 − max over the path from u to u' of B

    Args:
        boundary: B, in [0, 1], [N, h, w].
        radius: pairs reach less than this many cells; less on small maps, see `pair_radius`.
    Returns:
        a, [N, offsets, pixels], in the order of `tool.method.affinity`.
    """
    radius = pair_radius(boundary.shape[1], boundary.shape[2], radius)
    return 1 - PathMaximum.apply(boundary, radius).flatten(2)


def boundary_walk(
    cam: torch.Tensor,
    boundary: torch.Tensor,
    *,
    beta: float = BETA,
    logt: int = LOGT,
    radius: int = RADIUS,
) -> torch.Tensor:
    """The random walk of `tool.method.random_walk` from cam · (1 − B), over the affinities of B.

    Unlike in AffinityNet's walk, every cell has all its pairs: outside the map the boundary is 1,
    so a pair that leaves the map has the affinity 0.

    Args:
        cam: scores [C, h, w].
        boundary: B, in [0, 1], [h, w].
        beta: exponent of the affinities.
        logt: the walk takes 2^logt steps.
        radius: pairs reach less than this many cells.
    Returns:
        float32 [C, h, w] on the device of `cam`.
    """
    height, width = boundary.shape
    walled = with_border(boundary[None], radius, 1)
    pairs = boundary_affinity(walled, radius)[0]
    start = with_border(cam * (1 - boundary), radius, 0)
    walked = random_walk(start, pairs, beta=beta, logt=logt, radius=radius)
    left = radius - 1
    return walked[:, :height, left : left + width]


def with_border(maps: torch.Tensor, radius: int, value: float) -> torch.Tensor:
    """Maps with a border in which every cell of theirs has all its pairs.

    Args:
        maps: [C, h, w].
        radius: pairs reach less than this many cells, also on maps that are smaller than this.
        value: what the border holds.
    Returns:
        [C, h + below, w + left + right]; left is radius − 1, and there is nothing above.
    """
    height, width = maps.shape[1:]
    reach = radius - 1
    smallest = 2 * radius + 1  # below this side `pair_radius` gives a smaller radius
    below = max(reach, smallest - height)
    right = max(reach, smallest - reach - width)
    return F.pad(maps, (reach, right, 0, below), value=value)


def scores_with_background(
    walked: torch.Tensor, size: tuple[int, int], bg_score: float
) -> torch.Tensor:
    """Scores of a picture after the walk, the constant score of the background first.

    Args:
        walked: scores of the foreground classes, [K', h, w] with h = ceil(H/4), w = ceil(W/4).
        size: (H, W) of the picture.
        bg_score: the background's score; the highest score of all classes is 1.
    Returns:
        float32 [1 + K', H, W].
    """
    height, width = size
    background = walked.new_full((1, height, width), bg_score)
    if len(walked) == 0:
        return background
    upsampled = F.interpolate(
        walked[None], scale_factor=BOUNDARY_STRIDE, mode='bilinear', align_corners=False
    )[0]
    scores = upsampled[:, :height, :width]
    highest = scores.max().clamp(min=1e-5)  # all scores can be 0
    return torch.cat([background, scores / highest])
