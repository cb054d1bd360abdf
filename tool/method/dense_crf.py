"""Mean-field inference in a fully connected CRF whose pairwise terms are Gaussians of pixel
features.

Source: Krähenbühl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials" (NIPS 2011), algorithm 1 with the Potts model:

    Q_i(l)  <-  softmax over l of  ( -U_i(l) + sum_m w_m(l) sum_j k_m(f_i, f_j) Q_j(l) )

U are the unary energies, k_m the kernels (filters over a permutohedral lattice, normalised
symmetrically), w_m(l) their
weights: how much it costs pixels that are alike to have different labels.
"""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np

from tool.method.jit import announce_compilation, compiled
from tool.method.permutohedral import (
    LANES,
    Gathering,
    Lattice,
    build_lattice,
    filter_values,
    gathering,
    work_space,
)

COMPILING = 'compiling the dense CRF for this processor, once (some seconds)'


@functools.cache
def compile_all() -> None:
    """Compile what one thread needs, or load it from the cache; says on stderr when it compiles."""
    tiny = np.zeros((1, 4), np.float32)
    with announce_compilation(COMPILING):
        kernels = [pairwise_kernel(np.zeros((dimensions, 4), np.float32)) for dimensions in (2, 5)]
        mean_field(tiny, kernels, [np.ones(1, np.float32)] * 2, iterations=1)


@dataclass(frozen=True)
class PairwiseKernel:
    """One pairwise term of the CRF for one picture; it serves any number of unaries.

    Attributes:
        lattice: of the features f / sigma.
        gathered: what several threads need of it; None for one thread.
    """

    lattice: Lattice
    gathered: Gathering | None


def pairwise_kernel(features: np.ndarray, threads: int = 1) -> PairwiseKernel:
    """The kernel exp(-|f_i - f_j|^2 / 2) of a picture.

    Args:
        features: float32 [d, N], each feature of all pixels divided by its sigma.
        threads: how many threads `mean_field` will work with.
    Raises:
        ValueError: the sigmas are too small for this picture.
    """
    lattice = build_lattice(np.ascontiguousarray(features, np.float32))
    return PairwiseKernel(lattice, gathering(lattice) if threads > 1 else None)


def mean_field(
    unary: np.ndarray,
    kernels: list[PairwiseKernel],
    weights: list[np.ndarray],
    iterations: int,
    threads: int = 1,
) -> np.ndarray:
    """Probabilities float32 [L, N] of the labels after `iterations` mean-field updates.

    Args:
        unary: energies float32 [L, N], −log p; 0 iterations give their softmax.
        kernels: as `pairwise_kernel` makes them, with the same `threads`.
        weights: for each kernel the weight of every label, float32 [L].
    """
    labels, pixels = unary.shape
    groups = -(-labels // LANES)
    # labels in groups of four [groups, N, 4]; those that fill the last group up have no probability
    negative_unary = np.full((groups, pixels, LANES), -np.inf, np.float32)
    factors = [np.zeros((groups, LANES), np.float32) for _ in kernels]
    for label in range(labels):
        group, lane = divmod(label, LANES)
        negative_unary[group, :, lane] = -unary[label]
        for factor, weight in zip(factors, weights, strict=True):
            factor[group, lane] = weight[label]

    work = [work_space(kernel.lattice) for kernel in kernels]
    energies = negative_unary.copy()
    probabilities = np.empty_like(negative_unary)
    with _threads(threads):
        _softmax(energies, probabilities)
        for _ in range(iterations):
            base = negative_unary
            for kernel, factor, memory in zip(kernels, factors, work, strict=True):
                filter_values(
                    kernel.lattice, probabilities, base, energies, factor, kernel.gathered, memory
                )
                base = energies
            _softmax(energies, probabilities)
    return np.stack([probabilities[label // LANES, :, label % LANES] for label in range(labels)])


def _softmax(energies: np.ndarray, probabilities: np.ndarray) -> None:
    """Softmax over the labels, of energies [groups, N, 4], which are overwritten."""
    _subtract_maximum(energies)
    # numpy has an exponential that works on whole registers, numba has not
    np.exp(energies, out=probabilities)
    _divide_by_sum(probabilities)


@compiled()
def _subtract_maximum(energies):
    """Make the largest energy of every pixel 0."""
    groups, pixels, lanes = energies.shape
    for pixel in range(pixels):
        largest = energies[0, pixel, 0]
        for group in range(groups):
            for lane in range(LANES):
                largest = max(largest, energies[group, pixel, lane])
        for group in range(groups):
            for lane in range(LANES):
                energies[group, pixel, lane] -= largest


@compiled()
def _divide_by_sum(probabilities):
    """Make the values of every pixel add up to 1."""
    groups, pixels, lanes = probabilities.shape
    for pixel in range(pixels):
        total = np.float32(0)
        for group in range(groups):
            for lane in range(LANES):
                total += probabilities[group, pixel, lane]
        factor = np.float32(1) / total
        for group in range(groups):
            for lane in range(LANES):
                probabilities[group, pixel, lane] *= factor


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let numba's parallel functions take `count` threads (at most as many as there are cores)."""
    if count == 1:  # starts no threads: workers may be forked
        yield
        return
    before = numba.get_num_threads()
    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(count, most))
    try:
        yield
    finally:
        numba.set_num_threads(before)
