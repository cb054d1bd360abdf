"""Random walk of CAM scores over pixel affinities, with sparse steps (method §7)."""
import warnings

import numpy as np
import scipy.sparse
import torch

from tool.affinity import RADIUS, pair_indices


def random_walk(cam: torch.Tensor, pairs: torch.Tensor, *, beta: float = 8, logt: int = 6,
                radius: int = RADIUS) -> torch.Tensor:
    """cam · T^(2^logt), T = A^beta elementwise with columns divided by their sums; T^t is never formed.

    A is the symmetric affinity matrix with 1 on its diagonal, so a column of T has at most 69 non-zeros at radius 5.

    Args:
        cam: scores [C, h, w]; all-zero channels stay zero and cost nothing.
        pairs: affinities of AffinityNet for this map, [offsets, pixels] (34 × (h−4)(w−8) at radius 5).
    Returns:
        float32 [C, h, w] on the device of `cam`.
    Raises:
        ValueError: `pairs` are not those of a map of this size.
    """
    start, end = pair_indices(*cam.shape[1:], radius)
    if pairs.shape != end.shape:
        raise ValueError(f'pairs of shape {tuple(pairs.shape)}; a map of {tuple(cam.shape[1:])} has {tuple(end.shape)}')
    scores = cam.detach().float().flatten(1)
    result, active = torch.zeros_like(scores), scores.ne(0).any(1)
    # other devices than CUDA have no usable sparse product in torch; scipy's is also faster on the CPU
    steps = _steps_torch if cam.is_cuda else _steps_scipy
    walked = steps(scores[active].T, pairs.detach().float() ** beta, start.expand_as(end), end, 2 ** logt)
    result[active] = walked.T.to(cam.device)
    return result.view(cam.shape)


def _steps_scipy(scores: torch.Tensor, weights: torch.Tensor, start: torch.Tensor, end: torch.Tensor,
                 steps: int) -> torch.Tensor:
    """`steps` steps on the CPU; scores [pixels, classes], pair weights and pixel indices [offsets, pairs]."""
    x, weights, size = scores.cpu().numpy(), weights.cpu().numpy().ravel(), len(scores)
    half = scipy.sparse.coo_array((weights, (start.numpy().ravel(), end.numpy().ravel())), shape=(size, size)).tocsr()
    affinity = half + half.T + scipy.sparse.eye_array(size, dtype=np.float32, format='csr')
    # cam · T as T' · cam': dividing the columns of T by their sums is dividing the rows of the symmetric matrix
    step = scipy.sparse.diags_array(1 / affinity.sum(1), dtype=np.float32).tocsr() @ affinity
    for _ in range(steps):
        x = step @ x
    return torch.from_numpy(x)


def _steps_torch(scores: torch.Tensor, weights: torch.Tensor, start: torch.Tensor, end: torch.Tensor,
                 steps: int) -> torch.Tensor:
    """The same with torch's sparse product, on the device of `scores`."""
    size, device = len(scores), scores.device
    pixels = torch.arange(size, device=device)
    start, end, weights = start.to(device).reshape(-1), end.to(device).reshape(-1), weights.to(device).reshape(-1)
    indices = torch.stack([torch.cat([start, end, pixels]), torch.cat([end, start, pixels])])
    values = torch.cat([weights, weights, torch.ones(size, device=device)])
    sums = torch.zeros(size, device=device).index_add_(0, indices[0], values)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # "sparse CSR support is in beta"
        step = torch.sparse_coo_tensor(indices, values / sums[indices[0]], (size, size)).coalesce().to_sparse_csr()
    x = scores.contiguous()
    for _ in range(steps):
        x = step @ x
    return x
