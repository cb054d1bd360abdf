"""Random walk of CAM scores over pixel affinities, in sparse steps (docs/method.md §7)."""

import numpy as np
import scipy.sparse
import torch

from tool.method.affinity import RADIUS, pair_indices

# The published constants of AffinityNet's walk; those of IRN's are in tool/method/boundary.py.
BETA = 8
LOGT = 6


def random_walk(
    cam: torch.Tensor,
    pairs: torch.Tensor,
    *,
    beta: float = BETA,
    logt: int = LOGT,
    radius: int = RADIUS,
) -> torch.Tensor:
    """cam · T^(2^logt), with T = A^β elementwise and columns divided by their sums.

    A is the symmetric affinity matrix with 1 on its diagonal. At radius 5 a column of T has at most
    69 non-zeros, so the walk takes 2^logt sparse steps and T^(2^logt) is never formed.

    Args:
        cam: scores [C, h, w]; all-zero channels stay zero, and cost nothing on the CPU.
        pairs: affinities of the map's pairs of cells, [offsets, pixels] (34 × (h−4)(w−8) at radius
            5): those of AffinityNet, or of boundaries.
        beta: exponent of the affinities.
        logt: the walk takes 2^logt steps.
        radius: pairs reach less than this many cells.
    Returns:
        float32 [C, h, w] on the device of `cam`.
    Raises:
        ValueError: `pairs` are not those of a map of this size.
    """
    height, width = cam.shape[1:]
    start, end = pair_indices(height, width, radius, cam.device)
    if pairs.shape != end.shape:
        raise ValueError(
            f'pairs of shape {tuple(pairs.shape)}; a map of {height}×{width} has {tuple(end.shape)}'
        )
    weights = pairs.detach().float() ** beta
    scores = cam.detach().float().flatten(1)
    if cam.is_cuda:
        return _steps_torch(scores, weights, start, end, 2**logt).view(cam.shape)
    # on the CPU scipy's diagonals are faster
    scores = scores.cpu()
    active = scores.ne(0).any(1)
    result = torch.zeros_like(scores)
    result[active] = _steps_scipy(scores[active], weights.cpu(), start.cpu(), end.cpu(), 2**logt)
    return result.view(cam.shape).to(cam.device)


def _steps_scipy(
    scores: torch.Tensor, weights: torch.Tensor, start: torch.Tensor, end: torch.Tensor, steps: int
) -> torch.Tensor:
    """`steps` steps of the walk on the CPU.

    An offset of the pairs is a diagonal of A. 69 diagonals, each a multiply-add of vectors, are
    faster than a CSR matrix.

    Args:
        scores: [classes, pixels].
        weights: A^β of the pairs, [offsets, pairs].
        start, end: pixels of the pairs, [pairs] and [offsets, pairs].
    """
    size = scores.shape[1]
    first = start.numpy()
    second = end.numpy()
    above = second[:, 0] - first[0]  # how far each offset's diagonal lies above the main one
    offsets = len(above)
    # scipy's layout: entry j of a diagonal's row belongs to column j of the matrix
    diagonals = np.zeros((2 * offsets + 1, size), np.float32)
    np.put_along_axis(diagonals[:offsets], second, weights.cpu().numpy(), 1)
    diagonals[offsets:-1, first] = weights.cpu().numpy()
    diagonals[-1] = 1
    positions = np.concatenate([above, -above, [0]])
    affinity = scipy.sparse.dia_array((diagonals, positions), shape=(size, size))
    sums = affinity @ np.ones(size, np.float32)  # of rows; A is symmetric, so of columns too
    walked = scores.cpu().numpy().copy()
    for row in walked:
        for _ in range(steps):
            row[:] = affinity @ row / sums
    return torch.from_numpy(walked)


def _steps_torch(
    scores: torch.Tensor, weights: torch.Tensor, start: torch.Tensor, end: torch.Tensor, steps: int
) -> torch.Tensor:
    """The same on a GPU: a step is a gather and a weighted sum.

    Unlike a sparse product it waits for nothing, and it adds in the same order every time.
    """
    size = scores.shape[1]
    pixels = torch.arange(size, device=scores.device)
    offsets = end[:, :1] - start[:1]  # how far the second pixel of a pair lies behind the first
    # A row of `affinity` for each offset, each offset back, and none. In a column are the
    # affinities of a pixel to its neighbours, and 0 where there is no pair.
    no_pairs = weights.new_zeros(len(end), size)
    ahead = no_pairs.scatter(1, start.expand_as(end), weights)
    back = no_pairs.scatter(1, end, weights)
    affinity = torch.cat([ahead, back, weights.new_ones(1, size)])
    neighbours = torch.cat([pixels + offsets, pixels - offsets, pixels[None]])
    neighbours = neighbours.clamp(0, size - 1)  # outside the map there is no pair
    # the sum of a row of A; A is symmetric, so that of a column too
    transition = affinity / affinity.sum(0)
    for _ in range(steps):
        scores = (scores[:, neighbours] * transition).sum(1)
    return scores
