"""Pixel pairs of AffinityNet: their offsets, their labels from CRF maps, and the affinity loss
(method §2.3, §4)."""

import numpy as np
import torch

from tool.method.class_set import IGNORE

RADIUS = 5  # pairs reach less than this many feature cells
FEATURE_STRIDE = 8  # picture pixels per feature cell


def pair_radius(height: int, width: int, radius: int = RADIUS) -> int:
    """Radius used on a feature map: smaller on maps with an edge below 2·radius + 1; 1 means there
    are no pairs."""
    edge = min(height, width)
    return max(1, (edge - 1) // 2) if edge < 2 * radius + 1 else radius


def pair_offsets(radius: int = RADIUS) -> list[tuple[int, int]]:
    """Offsets (dy, dx) of the half-disc dx² + dy² < radius²: 34 at radius 5, in the published
    order."""
    reach = range(-radius + 1, radius)
    right = [(0, dx) for dx in range(1, radius)]
    return right + [
        (dy, dx) for dy in range(1, radius) for dx in reach if dx * dx + dy * dy < radius * radius
    ]


def shifted(x: torch.Tensor, radius: int, dy: int = 0, dx: int = 0) -> torch.Tensor:
    """The pixels at an offset of the "from" pixels (offset 0: these themselves), a view.

    Args:
        x: [..., h, w].
        radius: as `pair_radius` gives it.
    Returns:
        [..., h − r + 1, w − 2r + 2]: "from" pixels have their whole half-disc inside the map.
    """
    rows, columns = x.shape[-2] - radius + 1, x.shape[-1] - 2 * radius + 2
    left = radius - 1 + dx
    return x[..., dy : dy + rows, left : left + columns]


def neighbours(x: torch.Tensor, radius: int) -> torch.Tensor:
    """Values at all offsets of every "from" pixel, as one strided gather: [..., h, w] → [...,
    offsets, pixels]."""
    windows = x.unfold(-2, radius, 1).unfold(-2, 2 * radius - 1, 1)  # [..., rows, columns, dy, dx]
    dy, dx = torch.tensor(pair_offsets(radius), dtype=torch.long, device=x.device).reshape(-1, 2).T
    return windows[..., dy, dx + radius - 1].flatten(-3, -2).transpose(-1, -2)


def pair_indices(
    height: int, width: int, radius: int = RADIUS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat pixel indices of all pairs of a map: "from" int64 [pixels] and "to" int64 [offsets,
    pixels]."""
    radius = pair_radius(height, width, radius)
    start = shifted(torch.arange(height * width).view(height, width), radius).flatten()
    steps = torch.tensor([dy * width + dx for dy, dx in pair_offsets(radius)], dtype=torch.long)
    return start, start + steps[:, None]


def dense_affinity(pairs: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Pairs [offsets, pixels] of a height × width map → symmetric [h·w, h·w], 1 on the diagonal, 0
    elsewhere."""
    start, end = pair_indices(height, width)
    matrix = torch.eye(height * width, dtype=pairs.dtype, device=pairs.device)
    start, end = start.expand_as(end).to(pairs.device), end.to(pairs.device)
    matrix[start, end] = matrix[end, start] = pairs
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
    label, sure_background = la.argmax(0).astype(np.uint8), ha.argmax(0) == 0
    label[label == 0] = IGNORE
    label[sure_background] = 0
    label[np.maximum(la.max(0), ha.max(0)) < 1e-5] = IGNORE
    return label


def pair_labels(
    label: torch.Tensor, radius: int = RADIUS
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which pairs should be alike and which should not.

    Args:
        label: uint8 [N, h, w] of `affinity_label`.
    Returns:
        bool [N, offsets, pixels] each: background pairs, equal foreground pairs, negative pairs.
    """
    radius = pair_radius(*label.shape[-2:], radius)
    start, end = shifted(label, radius).flatten(-2).unsqueeze(-2), neighbours(label, radius)
    valid, equal = (start != IGNORE) & (end != IGNORE), start == end
    return equal & (start == 0), equal & (start != 0) & valid, ~equal & valid


def pair_counts(label: torch.Tensor) -> torch.Tensor:
    """How many background, equal foreground and negative pairs a batch of labels [N, h, w] has:
    int64 [3]."""
    return torch.stack([mask.sum() for mask in pair_labels(label)])


def affinity_loss(
    pairs: torch.Tensor,
    background: torch.Tensor,
    foreground: torch.Tensor,
    negative: torch.Tensor,
    counts: torch.Tensor = None,
) -> dict[str, torch.Tensor]:
    """Cross-entropy of the pair affinities (method §4).

    Args:
        pairs: affinities in (0, 1], [N, offsets, pixels].
        background, foreground, negative: bool masks of the same shape, as `pair_labels` gives them.
        counts: [3], what to divide their sums by: the `pair_counts` of a larger batch that these
            are a part of.
    Returns:
        Scalars 'loss_bg', 'loss_fg', 'loss_neg' (means over their pairs) and 'loss' = bg/4 + fg/4 +
        neg/2.
    """
    alike, apart = -torch.log(pairs + 1e-5), -torch.log(1 + 1e-5 - pairs)
    counts = (
        torch.stack([mask.sum() for mask in (background, foreground, negative)])
        if counts is None
        else counts
    )
    sums = (alike * background).sum(), (alike * foreground).sum(), (apart * negative).sum()
    terms = {
        name: value / (count + 1e-5)
        for name, value, count in zip(('loss_bg', 'loss_fg', 'loss_neg'), sums, counts)
    }
    return {**terms, 'loss': terms['loss_bg'] / 4 + terms['loss_fg'] / 4 + terms['loss_neg'] / 2}
