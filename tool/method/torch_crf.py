"""The mean field of `tool.method.dense_crf` in torch: on a GPU, for all labels at once.

The lattices are built by numba, on a CPU; that takes the smaller part of the time. Splat, blur and
slice are operations of torch, which add in a fixed order. Rounding makes the probabilities differ
from those of numba, so the two backends are two settings.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from tool.method.crf import SMALLEST_PROB, CrfPreset, kernels_of


class LatticeTensors(NamedTuple):
    """The fields of a `tool.method.permutohedral.Lattice` as tensors."""

    vertices: torch.Tensor
    weights: torch.Tensor
    order: torch.Tensor
    neighbours: torch.Tensor


class DeviceLattice(NamedTuple):
    """A lattice of `tool.method.permutohedral` as tensors on the device of the mean field.

    Attributes:
        vertices: int32 [N, d+1], the corners of each pixel's simplex.
        weights: float32 [N, d+1], the pixel's barycentric weights, normalised.
        neighbours: int32 [d+1, vertices + 1, 2], the two neighbours of a vertex in every direction.
        first: int32 [vertices + 2], entries first[v] … first[v + 1] − 1 belong to vertex v.
        pixels: int32 [N · (d+1)], the pixel of each entry, ascending for each vertex.
        pixel_weights: float32 [N · (d+1)], its weight.
    """

    vertices: torch.Tensor
    weights: torch.Tensor
    neighbours: torch.Tensor
    first: torch.Tensor
    pixels: torch.Tensor
    pixel_weights: torch.Tensor


def lattices_of(image: np.ndarray, preset: CrfPreset) -> list[LatticeTensors]:
    """The lattices of a picture's two kernels, for `crf_labels`: the work of a CPU.

    Args:
        image: uint8 [H, W, 3], RGB.
        preset: the kernels.
    Returns:
        The lattice of each kernel, as tensors that can go to a device.
    """
    lattices = []
    for kernel in kernels_of(image, preset):
        lattices.append(LatticeTensors(*map(torch.from_numpy, kernel.lattice)))
    return lattices


@torch.inference_mode()
def crf_labels(
    probs: torch.Tensor, lattices: list[LatticeTensors], preset: CrfPreset
) -> torch.Tensor:
    """The mask after dense CRF of a network's probabilities, over all labels.

    Args:
        probs: float32 [C, H, W], the network's probabilities.
        lattices: what `lattices_of` gives for the picture and this preset, on any device.
        preset: the weights of the kernels and the number of steps.
    Returns:
        uint8 [H, W], the most probable label of each pixel, on the device of `probs`.
    """
    kernels = []
    for lattice in lattices:
        on_device = [field.to(probs.device, non_blocking=True) for field in lattice]
        kernels.append(device_lattice(LatticeTensors(*on_device)))
    unary = -torch.log(probs.clamp(SMALLEST_PROB, 1)).flatten(1).T
    weights = [preset.gaussian_compat, preset.bilateral_compat]
    after = mean_field(unary, kernels, weights, preset.iterations)
    return after.argmax(1).byte().view(probs.shape[1:])


def device_lattice(lattice: LatticeTensors) -> DeviceLattice:
    """Prepare a lattice: number the neighbours as the vertices are, and sort the entries of the
    splat by vertex.

    Args:
        lattice: on the device.
    """
    vertices, weights, order, neighbours = lattice
    if len(order):
        numbered = torch.empty_like(neighbours)
        numbered[:, order] = order[neighbours]
        neighbours = numbered
    corners = vertices.shape[1]
    # a stable sort, so that the pixels of a vertex ascend
    of_entry, entries = vertices.flatten().sort(stable=True)
    numbers = torch.arange(neighbours.shape[1] + 1, dtype=torch.int32, device=vertices.device)
    return DeviceLattice(
        vertices=vertices,
        weights=weights,
        neighbours=neighbours,
        first=torch.searchsorted(of_entry, numbers, out_int32=True),
        pixels=(entries // corners).int(),
        pixel_weights=weights.flatten()[entries],
    )


def mean_field(
    unary: torch.Tensor, kernels: list[DeviceLattice], weights: list[float], iterations: int
) -> torch.Tensor:
    """Probabilities [N, L] of the labels after `iterations` mean-field updates.

    Args:
        unary: energies float32 [N, L], −log p.
        kernels: the lattices of the pairwise terms.
        weights: the weight of each of them.
    """
    probabilities = (-unary).softmax(1)
    for _ in range(iterations):
        energies = -unary
        for kernel, weight in zip(kernels, weights, strict=True):
            energies = energies + weight * filtered(kernel, probabilities)
        probabilities = energies.softmax(1)
    return probabilities


def filtered(lattice: DeviceLattice, values: torch.Tensor) -> torch.Tensor:
    """The values float32 [N, L] of all pixels, filtered; see `tool.method.permutohedral`."""
    # splat: a vertex is the weighted sum of the values of its pixels
    mixed = F.embedding_bag(
        lattice.pixels,
        values,
        lattice.first,
        mode='sum',
        per_sample_weights=lattice.pixel_weights,
        include_last_offset=True,
    )
    # blur: in every direction half of the two neighbours is added; those of vertex 0 are itself
    for neighbours in lattice.neighbours:
        before = mixed.index_select(0, neighbours[:, 0])
        after = mixed.index_select(0, neighbours[:, 1])
        mixed = mixed + 0.5 * (before + after)
    # slice: a pixel is the weighted sum of the values of its vertices
    read = F.embedding_bag(lattice.vertices, mixed, mode='sum', per_sample_weights=lattice.weights)
    # what splat, blur and slice add up to too much, 1 + 2^-d times
    gain = 1 / (1 + 2.0 ** (1 - lattice.vertices.shape[1]))
    return gain * read
