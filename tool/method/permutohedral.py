"""Gaussian filtering of pixel values in feature space by a permutohedral lattice.

Source: Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice"
(Eurographics 2010).

A pixel i has d features f_i: its position, and for a bilateral filter its colour, each divided by
its sigma. The filter is

    v'_i = sum_j exp(-|f_i - f_j|^2 / 2) v_j

Features are embedded in the plane x_0 + … + x_d = 0 of (d+1)-dimensional space, which the lattice
divides into simplices of d+1 corners (section 3.1 of the paper). Then

    splat:  every pixel adds its value to the corners of its simplex, by its barycentric weights
    blur:   corners are mixed with their two neighbours, (1/2, 1, 1/2), along each of the d+1
    lattice directions
    slice:  every pixel reads from the corners of its simplex, by the same weights

Only corners that a pixel touches exist; they are called vertices here and are numbered from 1 in
the order in which the picture meets them. Number 0 stands for all other corners, whose value is
always 0.

The key of a vertex is a linear function of its coordinates, so the keys of a vertex and of its
neighbour in a direction differ by a number that is the same for all vertices. In the order of the
keys one pass finds all neighbours in a direction, and with colours among the features the vertices
are blurred in this order, because their values are then read as they lie in memory. For splat and
slice, and for all of a filter over positions, the order in which the picture meets the vertices is
the better one: nearby pixels have nearby vertices.
"""

import math
from typing import NamedTuple

import numba
import numpy as np

from tool.method.jit import compiled

LANES = 4  # values of a pixel that are filtered together, as many as a processor adds at once
SLOTS = 1 << 16  # of the hash table at first; a power of two, as the factor it grows by
GROWTH = 4
POSITION = 2  # features of a pixel that are its position; any others are its colour
STRIP = 2048  # pixels between two looks at how full the hash table is


class Lattice(NamedTuple):
    """The lattice of one picture and one kind of features.

    Attributes:
        vertices: int32 [N, d+1], the corners of each pixel's simplex.
        weights: float32 [N, d+1], the pixel's barycentric weights, times the normalisation of
            `build_lattice`.
        order: int32 [vertices + 1], the order in which the vertices are blurred, number 0 first;
            empty, int32 [0], if that is the order of their numbers.
        neighbours: int32 [d+1, vertices + 1, 2], the two neighbours of a vertex in every direction.
            If there is an `order`, places in it stand for vertices.
    """

    vertices: np.ndarray
    weights: np.ndarray
    order: np.ndarray
    neighbours: np.ndarray


class Gathering(NamedTuple):
    """The lattice's splat seen from the vertices, for splatting with several threads.

    Attributes:
        first: int64 [vertices + 2], entries first[v] … first[v + 1] − 1 belong to vertex v.
        pixels: int32 [N · (d+1)], the pixel of each entry.
        weights: float32 [N · (d+1)], its weight.
    """

    first: np.ndarray
    pixels: np.ndarray
    weights: np.ndarray


# ---------------------------------------------------------------- building


def build_lattice(features: np.ndarray) -> Lattice:
    """The lattice for features float32 [d, N], with symmetric normalisation.

    The filter matrix K becomes D^-1/2 K D^-1/2 with D = diag(K · 1), as Krähenbühl and Koltun's
    code has it: the square roots are multiplied into the weights, which both splat and slice use.

    Raises:
        ValueError: the features spread so far that a vertex cannot be named by 63 bits; the sigmas
            are too small.
    """
    dimensions, pixels = features.shape
    scales = embedding_scales(dimensions)
    lowest, strides = _key_layout(features, scales)
    lattice = Lattice(*_build(features, scales, lowest, strides))
    ones = np.ones((1, pixels, LANES), np.float32)
    row_sums = np.zeros_like(ones)
    filter_values(lattice, ones, row_sums, row_sums, np.ones((1, LANES), np.float32))
    root = np.sqrt(row_sums[0, :, 0] + np.float32(1e-20))
    lattice.weights[:] /= root[:, None]
    return lattice


def embedding_scales(dimensions: int) -> tuple[np.float32, ...]:
    """Factor on each feature before the embedding, so that splat, blur and slice together have
    variance 1.

    The paper's section 3.1: sqrt(2/3) (d + 1) / sqrt((i + 1)(i + 2)) for feature i. A tuple, so
    that numba knows d when it compiles.
    """
    blur = np.float32(math.sqrt(2 / 3) * (dimensions + 1))
    return tuple(blur / np.float32(math.sqrt((i + 1) * (i + 2))) for i in range(dimensions))


def _key_layout(features: np.ndarray, scales: tuple) -> tuple[np.ndarray, np.ndarray]:
    """The layout of the key of a vertex, one number for its first d coordinates: (lowest int64 [d],
    strides uint64 [d]).

    The key of coordinates c is sum_i (c_i - lowest_i) · stride_i. The bounds follow from those of
    the features, because a vertex lies within two steps of d + 1 of its pixel, and its neighbours
    one step further.
    """
    dimensions = len(scales)
    low = features.min(1).astype(np.float64) * scales
    high = features.max(1).astype(np.float64) * scales
    margin = 4 * (dimensions + 1)
    lowest = np.zeros(dimensions, np.int64)
    strides = np.ones(dimensions, np.uint64)
    total = 1
    for i in range(dimensions):
        # coordinate i of the embedding: the sum of the features from i on, minus i times the one
        # before
        below = low[i:].sum() - (i * high[i - 1] if i else 0)
        above = high[i:].sum() - (i * low[i - 1] if i else 0)
        lowest[i] = math.floor(below) - margin
        strides[i] = total
        total *= math.ceil(above) + margin - int(lowest[i])
        if total >= 1 << 63:
            raise ValueError(
                'the features spread too far for a lattice: the sigmas are too small for this '
                'picture'
            )
    return lowest, strides


@compiled()
def _hash(key):
    """A well mixed number of 64 bits for a key of 64 bits."""
    key ^= key >> np.uint64(32)
    key *= np.uint64(0x9E3779B97F4A7C15)
    return key ^ (key >> np.uint64(29))


@compiled()
def _find(key, slots, keys):
    """The slot of a hash table that holds the number of a key, or the free slot where it belongs.

    Args:
        slots: int32, a number from 1, or 0 in a free slot.
        keys: uint64, the key of each number.
    """
    mask = np.uint64(len(slots) - 1)
    slot = np.int64(_hash(key) & mask)
    while slots[slot] > 0 and keys[slots[slot]] != key:
        slot = np.int64(np.uint64(slot + 1) & mask)
    return slot


@compiled()
def _grown(slots, keys, count):
    """The hash table of `count` keys with `GROWTH` times as many slots: (slots, keys)."""
    more_slots = np.zeros(GROWTH * len(slots), np.int32)
    more_keys = np.zeros(GROWTH * len(keys), np.uint64)
    more_keys[: count + 1] = keys[: count + 1]
    for number in range(1, count + 1):
        more_slots[_find(keys[number], more_slots, more_keys)] = number
    return more_slots, more_keys


@compiled()
def _embed(features, pixel, scales, embedded):
    """Write the embedding of a pixel's features, a column of [d, N], into the plane, float32
    [d+1]."""
    dimensions = len(scales)
    total = np.float32(0)
    for i in range(dimensions, 0, -1):
        scaled = features[i - 1, pixel] * scales[i - 1]
        embedded[i] = total - i * scaled
        total += scaled
    embedded[0] = total


@compiled()
def _enclosing_simplex(embedded, scales, corner, rank, weights):
    """The simplex that a point of the plane lies in.

    Args:
        embedded: float32 [d+1], the point.
        scales: of the embedding; only their number matters.
    Writes:
        corner: float32 [d+1], the simplex's corner whose coordinates are all multiples of d + 1
            (remainder 0).
        rank: int32 [d+1], order of the coordinates by their distance from that corner, the farthest
            first.
        weights: float32 [d+2], barycentric weights of the corners of remainder 0 … d; the last
            entry is scratch.
    """
    size = len(scales) + 1  # a constant for numba, which unrolls the loops
    whole = np.float32(size)
    part = np.float32(1 / size)
    # the nearest point whose coordinates are multiples of d + 1 ...
    excess = 0
    for i in range(size):
        above = np.ceil(embedded[i] * part) * whole
        below = np.floor(embedded[i] * part) * whole
        nearest = above if above - embedded[i] < embedded[i] - below else below
        corner[i] = nearest
        excess += int(np.rint(nearest * part))
        rank[i] = 0
    for i in range(size - 1):
        difference = embedded[i] - corner[i]
        for j in range(i + 1, size):
            farther = difference < embedded[j] - corner[j]
            if farther:
                rank[i] += 1
            else:
                rank[j] += 1
    # ... may lie off the plane: then the coordinates that were rounded farthest are rounded the
    # other way
    for i in range(size):
        rank[i] += excess
        if rank[i] < 0:
            rank[i] += size
            corner[i] += whole
        elif rank[i] >= size:
            rank[i] -= size
            corner[i] -= whole
    for i in range(size + 1):
        weights[i] = 0
    for i in range(size):
        distance = (embedded[i] - corner[i]) * part
        weights[size - 1 - rank[i]] += distance
        weights[size - rank[i]] -= distance
    weights[0] += np.float32(1) + weights[size]


@compiled()
def _build(features, scales, lowest, strides):
    """The fields of `Lattice`; the weights are barycentric, not normalised yet."""
    dimensions = len(scales)
    size = dimensions + 1
    pixels = features.shape[1]
    vertices = np.empty((pixels, size), np.int32)
    weights = np.empty((pixels, size), np.float32)
    # The hash table of the vertices that were met, which are numbered from 1 in this order. At most
    # half of the slots are ever taken.
    slots = np.zeros(SLOTS, np.int32)
    vertex_keys = np.zeros(SLOTS // 2, np.uint64)
    count = 0
    for first in range(0, pixels, STRIP):
        last = min(first + STRIP, pixels)
        if count + (last - first) * size >= len(vertex_keys):
            slots, vertex_keys = _grown(slots, vertex_keys, count)
        count = _add_pixels(
            first,
            last,
            features,
            scales,
            lowest,
            strides,
            vertices,
            weights,
            slots,
            vertex_keys,
            count,
        )
    order = _ascending(vertex_keys[: count + 1])
    sorted_keys = vertex_keys[order]
    if dimensions == POSITION:
        neighbours = _neighbours(sorted_keys, order, dimensions, strides)
        return vertices, weights, order[:0], neighbours
    places = np.arange(count + 1).astype(np.int32)
    return vertices, weights, order, _neighbours(sorted_keys, places, dimensions, strides)


@compiled()
def _add_pixels(
    first, last, features, scales, lowest, strides, vertices, weights, slots, vertex_keys, count
):
    """Fill in the vertices and weights of the pixels first … last − 1, and enter the vertices that
    are new.

    The tables must have room for as many vertices as the pixels can have.

    Returns:
        How many vertices there are now; there were `count`.
    """
    dimensions = len(scales)
    size = dimensions + 1
    embedded = np.empty(size, np.float32)
    corner = np.empty(size, np.float32)
    rank = np.empty(size, np.int32)
    barycentric = np.empty(size + 1, np.float32)
    # the vertices of the pixel before: the next pixel often has the same
    recent_keys = np.zeros(size, np.uint64)
    recent_numbers = np.zeros(size, np.int32)
    # the key's factor of the coordinate that has each rank
    stride_of_rank = np.zeros(size, np.uint64)
    all_strides = strides.sum()
    for pixel in range(first, last):
        _embed(features, pixel, scales, embedded)
        _enclosing_simplex(embedded, scales, corner, rank, barycentric)
        key = np.uint64(0)  # of the corner of remainder 0
        for i in range(dimensions):
            key += np.uint64(np.int64(corner[i]) - lowest[i]) * strides[i]
            stride_of_rank[rank[i]] = strides[i]
        # the last coordinate follows from the others and is not in the key
        stride_of_rank[rank[dimensions]] = 0
        for remainder in range(size):
            if recent_numbers[remainder] == 0 or recent_keys[remainder] != key:
                slot = _find(key, slots, vertex_keys)
                if slots[slot] == 0:
                    count += 1
                    slots[slot] = count
                    vertex_keys[count] = key
                recent_keys[remainder] = key
                recent_numbers[remainder] = slots[slot]
            vertices[pixel, remainder] = recent_numbers[remainder]
            weights[pixel, remainder] = barycentric[remainder]
            # To the corner of the next remainder: + 1 in all coordinates, and − (d+1) in the
            # farthest one that has not been changed in this way.
            key += all_strides - np.uint64(size) * stride_of_rank[dimensions - remainder]
    return count


@compiled()
def _ascending(keys):
    """The order, int32 [count + 1], in which the keys of the vertices ascend; vertex 0 stays the
    first.

    A radix sort, 11 bits at a time.
    """
    order = np.arange(len(keys)).astype(np.int32)
    reordered = np.zeros_like(order)
    bits_left = keys.max()
    shift = np.uint64(0)
    while bits_left != np.uint64(0):
        first = np.zeros(2048, np.int64)
        for key in keys[1:]:
            first[(key >> shift) & np.uint64(2047)] += 1
        place = 1
        for digit in range(2048):
            with_digit = first[digit]
            first[digit] = place
            place += with_digit
        for vertex in order[1:]:
            digit = (keys[vertex] >> shift) & np.uint64(2047)
            reordered[first[digit]] = vertex
            first[digit] += 1
        order, reordered = reordered, order
        shift += np.uint64(11)
        bits_left >>= np.uint64(11)
    return order


@compiled()
def _neighbours(keys, names, dimensions, strides):
    """Neighbours int32 [d+1, count + 1, 2] of the vertices with these keys, which ascend from
    place 1: along direction j a step is −1 in all coordinates, + (d+1) in j. `names` has what
    stands for each of the vertices."""
    size = dimensions + 1
    neighbours = np.zeros((size, len(keys), 2), np.int32)
    for direction in range(size):
        step = np.uint64(0)
        for i in range(dimensions):
            step -= strides[i]
        # the last coordinate follows from the others and is not in the key
        if direction < dimensions:
            step += np.uint64(size) * strides[direction]
        # the keys that are looked for ascend, too
        other = 1
        for place in range(1, len(keys)):
            key = keys[place] + step
            while other < len(keys) and keys[other] < key:
                other += 1
            if other < len(keys) and keys[other] == key:
                neighbours[direction, names[place], 0] = names[other]
                neighbours[direction, names[other], 1] = names[place]
    return neighbours


def gathering(lattice: Lattice) -> Gathering:
    """The entries of a lattice's splat sorted by vertex."""
    return Gathering(
        *_sort_by_vertex(lattice.vertices, lattice.weights, lattice.neighbours.shape[1])
    )


@compiled()
def _sort_by_vertex(vertices, weights, count):
    """The arrays of `Gathering`, by counting sort; `count` includes vertex 0."""
    pixels, size = vertices.shape
    first = np.zeros(count + 1, np.int64)
    for pixel in range(pixels):
        for corner in range(size):
            first[vertices[pixel, corner] + 1] += 1
    for vertex in range(count):
        first[vertex + 1] += first[vertex]
    place = first.copy()
    sorted_pixels = np.empty(pixels * size, np.int32)
    sorted_weights = np.empty(pixels * size, np.float32)
    for pixel in range(pixels):
        for corner in range(size):
            entry = place[vertices[pixel, corner]]
            place[vertices[pixel, corner]] += 1
            sorted_pixels[entry] = pixel
            sorted_weights[entry] = weights[pixel, corner]
    return first, sorted_pixels, sorted_weights


# ---------------------------------------------------------------- filtering


def filter_values(
    lattice: Lattice,
    values: np.ndarray,
    base: np.ndarray,
    out: np.ndarray,
    factors: np.ndarray,
    gathered: Gathering | None = None,
    work: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Filter values of all pixels, and write them times a factor, plus `base`, into `out`.

    Args:
        values: float32 [groups, N, 4], the values of the pixels in groups of four.
        base: float32 [groups, N, 4].
        out: float32 [groups, N, 4]; may be `base` itself.
        factors: float32 [groups, 4].
        gathered: the `gathering` of the lattice, for numba's number of threads; None works with one
            thread.
        work: memory to work in, see `work_space`; None makes it.
    """
    mixed, scratch = work_space(lattice) if work is None else work
    # what splat, blur and slice add up to too much, 1 + 2^-d times
    gain = np.float32(1 / (1 + 2.0 ** (1 - lattice.vertices.shape[1])))
    for group in range(len(values)):
        factor = factors[group] * gain
        if gathered is None:
            mixed[:] = 0
            _splat(values[group], lattice.vertices, lattice.weights, mixed)
            blurred = _blur(mixed, scratch, lattice.order, lattice.neighbours)
            _slice(
                blurred,
                lattice.vertices,
                lattice.weights,
                factor,
                base[group],
                out[group],
            )
        else:
            _splat_threads(values[group], *gathered, mixed)
            blurred = _blur_threads(mixed, scratch, lattice.order, lattice.neighbours)
            _slice_threads(
                blurred,
                lattice.vertices,
                lattice.weights,
                factor,
                base[group],
                out[group],
            )


def work_space(lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of values of the vertices, float32 [vertices + 1, 4], all 0."""
    shape = (lattice.neighbours.shape[1], LANES)
    return np.zeros(shape, np.float32), np.zeros(shape, np.float32)


@compiled(fastmath={'contract'})
def _splat(values, vertices, weights, mixed):
    """Add every pixel's values [N, 4] to its vertices [vertices + 1, 4]."""
    pixels, size = vertices.shape
    for pixel in range(pixels):
        for corner in range(size):
            vertex = vertices[pixel, corner]
            weight = weights[pixel, corner]
            for lane in range(LANES):
                mixed[vertex, lane] += weight * values[pixel, lane]


@compiled(fastmath={'contract'}, parallel=True)
def _splat_threads(values, first, pixels, weights, mixed):
    """As `_splat`; each thread sums up some of the vertices."""
    for vertex in numba.prange(1, len(mixed)):
        for lane in range(LANES):
            mixed[vertex, lane] = 0
        for entry in range(first[vertex], first[vertex + 1]):
            for lane in range(LANES):
                mixed[vertex, lane] += weights[entry] * values[pixels[entry], lane]


def _blur_plain(mixed, scratch, order, neighbours):
    """Mix each vertex with its neighbours in one direction after the other; returns the array that
    holds the result."""
    half = np.float32(0.5)
    for place in numba.prange(len(order)):
        for lane in range(LANES):
            scratch[place, lane] = mixed[order[place], lane]
    if len(order):
        mixed, scratch = scratch, mixed
    for direction in range(len(neighbours)):
        for place in numba.prange(1, len(mixed)):
            before = neighbours[direction, place, 0]
            after = neighbours[direction, place, 1]
            for lane in range(LANES):
                scratch[place, lane] = mixed[place, lane] + half * (
                    mixed[before, lane] + mixed[after, lane]
                )
        mixed, scratch = scratch, mixed
    for place in numba.prange(len(order)):
        for lane in range(LANES):
            scratch[order[place], lane] = mixed[place, lane]
    if len(order):
        mixed, scratch = scratch, mixed
    return mixed


def _slice_plain(blurred, vertices, weights, factors, base, out):
    """Write `base` [N, 4] plus what every pixel reads from its vertices, times the factors [4],
    into `out` [N, 4], which may be `base` itself."""
    pixels, size = vertices.shape
    for pixel in numba.prange(pixels):
        for lane in range(LANES):
            out[pixel, lane] = base[pixel, lane]
        for corner in range(size):
            vertex = vertices[pixel, corner]
            weight = weights[pixel, corner]
            for lane in range(LANES):
                out[pixel, lane] += factors[lane] * weight * blurred[vertex, lane]


_blur = compiled(fastmath={'contract'})(_blur_plain)
_slice = compiled(fastmath={'contract'})(_slice_plain)
_blur_threads = compiled(fastmath={'contract'}, parallel=True)(_blur_plain)
_slice_threads = compiled(fastmath={'contract'}, parallel=True)(_slice_plain)
