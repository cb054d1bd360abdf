"""Pixel pairs of AffinityNet: which pairs there are, what their labels are, and the loss.

docs/method.md §2.3 (pairs) and §4 (labels, loss); Ahn, Kwak: "Learning Pixel-level Semantic
Affinity with Image-level Supervision" (CVPR 2018).

Every pixel is paired with those that follow it within a radius, a half-disc of offsets (dy, dx).
Only pixels whose whole half-disc lies inside the map take part; they are called "from" pixels.
"""

import numpy as np
import torch

from tool.method.class_set import IGNORE

RADIUS = 5  # pairs reach less than this many feature cells
FEATURE_STRIDE = 8  # picture pixels per feature cell


def pair_radius(height: int, width: int, radius: int = RADIUS) -> int:
    """Radius of the pairs on a feature map of this size.

    It is smaller than `radius` on a map with an edge below 2 · radius + 1. With 1 there are no
    pairs.
    """
    edge = min(height, width)
    if edge >= 2 * radius + 1:
        return radius
    return max(1, (edge - 1) // 2)


def pair_offsets(radius: int = RADIUS) -> list[tuple[int, int]]:
    """Offsets (dy, dx) of the half-disc dx² + dy² < radius², in the published order.

    34 at radius 5: those in the pixel's own row first, then row by row.
    """
    offsets = [(0, dx) for dx in range(1, radius)]
    for dy in range(1, radius):
        for dx in range(-radius + 1, radius):
            if dx * dx + dy * dy < radius * radius:
                offsets.append((dy, dx))
    return offsets


def shifted(x: torch.Tensor, radius: int, dy: int = 0, dx: int = 0) -> torch.Tensor:
    """The pixels at one offset from the "from" pixels, as a view of x.

    Args:
        x: [..., h, w].
        radius: as `pair_radius` gives it.
        dy, dx: the offset; 0, 0 are the "from" pixels themselves.
    Returns:
        [..., h − r + 1, w − 2r + 2].
    """
    rows = x.shape[-2] - radius + 1
    columns = x.shape[-1] - 2 * radius + 2
    left = radius - 1 + dx
    return x[..., dy : dy + rows, left : left + columns]


def neighbours(x: torch.Tensor, radius: int) -> torch.Tensor:
    """Values at all offsets from every "from" pixel: [..., h, w] → [..., offsets, pixels].

    The offsets are views of x, so that no index has to be copied to a GPU.
    """
    views = [shifted(x, radius, dy, dx) for dy, dx in pair_offsets(radius)]
    if not views:
        pixels = shifted(x, radius).flatten(-2).shape[-1]
        return x.new_empty(*x.shape[:-2], 0, pixels)
    return torch.stack(views, -3).flatten(-2)


def pair_indices(
    height: int, width: int, radius: int = RADIUS, device: torch.device | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat pixel numbers of all pairs of a map.

    Args:
        device: where they are made; None: on the CPU.
    Returns:
        "from" int64 [pixels] and "to" int64 [offsets, pixels].
    """
    radius = pair_radius(height, width, radius)
    numbers = torch.arange(height * width, device=device).view(height, width)
    return shifted(numbers, radius).flatten(), neighbours(numbers, radius)


def dense_affinity(pairs: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Pairs [offsets, pixels] as a symmetric matrix [h·w, h·w], 1 on its diagonal."""
    start, end = pair_indices(height, width, device=pairs.device)
    start = start.expand_as(end)
    matrix = torch.eye(height * width, dtype=pairs.dtype, device=pairs.device)
    matrix[start, end] = pairs
    matrix[end, start] = pairs
    return matrix


def affinity_label(la: np.ndarray, ha: np.ndarray) -> np.ndarray:
    """Confident regions of a picture from its low-α and high-α CRF maps (method §4).

    Args:
        la, ha: float32 [K, h, w] each, pooled to the feature size, the background first, classes in
            the same order.
    Returns:
        uint8 [h, w]: 0 where even the high-α map says background, k where the low-α map says its
        k-th class, 255 (ignore) in between and where no map has a score.
    """
    label = la.argmax(0).astype(np.uint8)
    label[label == 0] = IGNORE
    sure_background = ha.argmax(0) == 0
    label[sure_background] = 0
    outside = np.maximum(la.max(0), ha.max(0)) < 1e-5
    label[outside] = IGNORE
    return label


def pair_labels(
    label: torch.Tensor, radius: int = RADIUS
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which pairs should be alike and which should not.

    Args:
        label: uint8 [N, h, w] of `affinity_label`, or of `boundary_label`.
        radius: pairs reach less than this many cells; less on small maps, see `pair_radius`.
    Returns:
        bool [N, offsets, pixels] each: background pairs, equal foreground pairs, negative pairs.
    """
    radius = pair_radius(label.shape[-2], label.shape[-1], radius)
    start = shifted(label, radius).flatten(-2).unsqueeze(-2)  # [N, 1, pixels]
    end = neighbours(label, radius)  # [N, offsets, pixels]
    valid = (start != IGNORE) & (end != IGNORE)
    equal = start == end
    background = equal & (start == 0)
    foreground = equal & (start != 0) & valid
    negative = ~equal & valid
    return background, foreground, negative


def pair_counts(label: torch.Tensor, radius: int = RADIUS) -> torch.Tensor:
    """Numbers of background, equal foreground and negative pairs of labels [N, h, w]: int64 [3]."""
    return torch.stack([mask.sum() for mask in pair_labels(label, radius)])


def affinity_loss(
    pairs: torch.Tensor,
    background: torch.Tensor,
    foreground: torch.Tensor,
    negative: torch.Tensor,
    counts: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Cross-entropy of the pair affinities a (docs/method.md §4; of class boundaries §10.13).

    bg  = Σ −log(a + 1e-5) / (n + 1e-5) over the n background pairs, fg likewise over equal
    foreground pairs, neg = Σ −log(1 + 1e-5 − a) / (n + 1e-5) over negative pairs;
    loss = bg / 4 + fg / 4 + neg / 2.

    Args:
        pairs: a, affinities in (0, 1], [N, offsets, pixels].
        background, foreground, negative: bool masks of the same shape, as `pair_labels` gives them.
        counts: [3], the numbers n: the `pair_counts` of a larger batch that these pairs are a part
            of; None counts these masks.
    Returns:
        Scalars 'loss_bg', 'loss_fg', 'loss_neg' and 'loss'.
    """
    if counts is None:
        counts = torch.stack([background.sum(), foreground.sum(), negative.sum()])
    alike = -torch.log(pairs + 1e-5)
    apart = -torch.log(1 + 1e-5 - pairs)
    loss_bg = (alike * background).sum() / (counts[0] + 1e-5)
    loss_fg = (alike * foreground).sum() / (counts[1] + 1e-5)
    loss_neg = (apart * negative).sum() / (counts[2] + 1e-5)
    return {
        'loss_bg': loss_bg,
        'loss_fg': loss_fg,
        'loss_neg': loss_neg,
        'loss': loss_bg / 4 + loss_fg / 4 + loss_neg / 2,
    }
