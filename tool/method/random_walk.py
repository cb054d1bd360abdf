"""Random walk of CAM scores over pixel affinities, in sparse steps (method §7)."""

import warnings

import numpy as np
import scipy.sparse
import torch

from tool.method.affinity import RADIUS, pair_indices


def random_walk(
    cam: torch.Tensor, pairs: torch.Tensor, *, beta: float = 8, logt: int = 6, radius: int = RADIUS
) -> torch.Tensor:
    """cam · T^(2^logt), T = A^beta elementwise with columns divided by their sums; T^t is never
    formed.

    A is the symmetric affinity matrix with 1 on its diagonal, so a column of T has at most 69
    non-zeros at radius 5.

    Args:
        cam: scores [C, h, w]; all-zero channels stay zero and cost nothing.
        pairs: affinities of AffinityNet for this map, [offsets, pixels] (34 × (h−4)(w−8) at radius
            5).
    Returns:
        float32 [C, h, w] on the device of `cam`.
    Raises:
        ValueError: `pairs` are not those of a map of this size.
    """
    start, end = pair_indices(*cam.shape[1:], radius)
    if pairs.shape != end.shape:
        raise ValueError(
            f'pairs of shape {tuple(pairs.shape)}; a map of {tuple(cam.shape[1:])} has '
            f'{tuple(end.shape)}'
        )
    scores = cam.detach().float().flatten(1)
    result, active = torch.zeros_like(scores), scores.ne(0).any(1)
    # torch has no sparse product for other devices, and on the CPU scipy's diagonals are faster
    steps = _steps_torch if cam.is_cuda else _steps_scipy
    result[active] = steps(scores[active], pairs.detach().float() ** beta, start, end, 2**logt).to(
        cam.device
    )
    return result.view(cam.shape)


def _steps_scipy(
    scores: torch.Tensor, weights: torch.Tensor, start: torch.Tensor, end: torch.Tensor, steps: int
) -> torch.Tensor:
    """`steps` steps on the CPU.

    An offset of the pairs is a diagonal of A, and 69 diagonals, each a multiply-add of vectors, are
    faster than CSR.

    Args:
        scores: [classes, pixels]. weights: of the pairs, [offsets, pairs].
        start, end: pixels of the pairs, [pairs] and [offsets, pairs].
    """
    weights, start, end, size = weights.cpu().numpy(), start.numpy(), end.numpy(), scores.shape[1]
    above = end[:, 0] - start[0]
    diagonals = np.zeros(
        (2 * len(above) + 1, size), np.float32
    )  # entry j of a row belongs to column j
    np.put_along_axis(diagonals[: len(above)], end, weights, 1)
    diagonals[len(above) : -1, start] = weights
    diagonals[-1] = 1
    affinity = scipy.sparse.dia_array(
        (diagonals, np.concatenate([above, -above, [0]])), shape=(size, size)
    )
    sums = affinity @ np.ones(size, np.float32)
    walked = scores.cpu().numpy().copy()
    for row in walked:
        for _ in range(steps):
            row[:] = (
                affinity @ row / sums
            )  # A is symmetric: the column sums of T are the row sums here
    return torch.from_numpy(walked)


def _steps_torch(
    scores: torch.Tensor, weights: torch.Tensor, start: torch.Tensor, end: torch.Tensor, steps: int
) -> torch.Tensor:
    """The same with torch's sparse product, on the device of `scores`."""
    size, device = scores.shape[1], scores.device
    pixels = torch.arange(size, device=device)
    start, end = start.expand_as(end).to(device).reshape(-1), end.to(device).reshape(-1)
    weights = weights.to(device).reshape(-1)
    indices = torch.stack([torch.cat([start, end, pixels]), torch.cat([end, start, pixels])])
    values = torch.cat([weights, weights, torch.ones(size, device=device)])
    sums = torch.zeros(size, device=device).index_add_(0, indices[0], values)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # "sparse CSR support is in beta"
        step = (
            torch.sparse_coo_tensor(indices, values / sums[indices[0]], (size, size))
            .coalesce()
            .to_sparse_csr()
        )
    x = scores.T.contiguous()
    for _ in range(steps):
        x = step @ x  # cam · T as T' · cam'; the columns of T are the rows here
    return x.T
