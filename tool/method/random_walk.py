"""Random walk of CAM scores over pixel affinities, in sparse steps (docs/method.md §7)."""

import warnings

import numpy as np
import scipy.sparse
import torch

from tool.method.affinity import RADIUS, pair_indices


def random_walk(
    cam: torch.Tensor, pairs: torch.Tensor, *, beta: float = 8, logt: int = 6, radius: int = RADIUS
) -> torch.Tensor:
    """cam · T^(2^logt), with T = A^β elementwise and columns divided by their sums.

    A is the symmetric affinity matrix with 1 on its diagonal. At radius 5 a column of T has at most
    69 non-zeros, so the walk takes 2^logt sparse steps and T^(2^logt) is never formed.

    Args:
        cam: scores [C, h, w]; all-zero channels stay zero and cost nothing.
        pairs: affinities of AffinityNet for this map, [offsets, pixels] (34 × (h−4)(w−8) at radius
            5).
    Returns:
        float32 [C, h, w] on the device of `cam`.
    Raises:
        ValueError: `pairs` are not those of a map of this size.
    """
    height, width = cam.shape[1:]
    start, end = pair_indices(height, width, radius)
    if pairs.shape != end.shape:
        raise ValueError(
            f'pairs of shape {tuple(pairs.shape)}; a map of {height}×{width} has {tuple(end.shape)}'
        )
    weights = pairs.detach().float() ** beta
    scores = cam.detach().float().flatten(1)
    active = scores.ne(0).any(1)
    # torch has no sparse product for other devices, and on the CPU scipy's diagonals are faster
    steps = _steps_torch if cam.is_cuda else _steps_scipy
    walked = steps(scores[active], weights, start, end, 2**logt)
    result = torch.zeros_like(scores)
    result[active] = walked.to(cam.device)
    return result.view(cam.shape)


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
    """The same with torch's sparse product, on the device of `scores`."""
    size = scores.shape[1]
    device = scores.device
    pixels = torch.arange(size, device=device)
    first = start.expand_as(end).to(device).reshape(-1)
    second = end.to(device).reshape(-1)
    pair_weights = weights.to(device).reshape(-1)
    rows = torch.cat([first, second, pixels])
    columns = torch.cat([second, first, pixels])
    values = torch.cat([pair_weights, pair_weights, torch.ones(size, device=device)])
    sums = torch.zeros(size, device=device).index_add_(0, rows, values)
    # cam · T is computed as Tᵀ · camᵀ: the columns of T are the rows here
    indices = torch.stack([rows, columns])
    transposed_values = values / sums[rows]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # "sparse CSR support is in beta"
        transposed = torch.sparse_coo_tensor(indices, transposed_values, (size, size))
        step = transposed.coalesce().to_sparse_csr()
    x = scores.T.contiguous()
    for _ in range(steps):
        x = step @ x
    return x.T
