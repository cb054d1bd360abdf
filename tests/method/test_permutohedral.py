"""tool/method/permutohedral.py against a lattice of dictionaries and against exact Gaussian
sums."""

import numpy as np
import pytest

from tool.method import permutohedral, plain
from tool.method.permutohedral import (
    LANES,
    build_lattice,
    embedding_scales,
    filter_values,
    gathering,
)


def some_features(dimensions, pixels=60, spread=3.0, seed=0):
    return (
        np.random.default_rng(seed).random((dimensions, pixels), np.float32) - np.float32(0.3)
    ) * np.float32(spread)


def unnormalised(features):
    """The lattice with its barycentric weights as they are."""
    scales = embedding_scales(len(features))
    return permutohedral.Lattice(
        *permutohedral._build(features, scales, *permutohedral._key_layout(features, scales))
    )


def filtered(lattice, values, gathered=None):
    """Values [N] through a lattice, in the first of its lanes."""
    packed = np.zeros((1, len(values), LANES), np.float32)
    packed[0, :, 0] = values
    nothing = np.zeros_like(packed)
    out = np.full_like(packed, np.nan)
    filter_values(lattice, packed, nothing, out, np.ones((1, LANES), np.float32), gathered)
    assert not out[0, :, 1:].any()
    return out[0, :, 0]


@pytest.mark.parametrize('dimensions', [2, 5])
def test_filter_equals_the_lattice_of_dictionaries(dimensions):
    features = some_features(dimensions)
    values = np.random.default_rng(1).random(features.shape[1], np.float32)
    expected = plain.lattice_filter(features, values)
    np.testing.assert_allclose(
        filtered(unnormalised(features), values), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize('dimensions', [2, 5])
def test_weights_are_barycentric(dimensions):
    lattice = unnormalised(some_features(dimensions, 500, 20))
    assert lattice.weights.min() > -1e-5
    np.testing.assert_allclose(lattice.weights.sum(1), 1, atol=1e-5)


def test_filter_is_close_to_exact_gaussian_sums():
    rows, columns = np.indices((24, 24), dtype=np.float32).reshape(2, -1)
    features = np.stack([columns, rows]) / np.float32(4)
    values = np.random.default_rng(2).random(features.shape[1], np.float32)
    distance = ((features[:, :, None] - features[:, None]) ** 2).sum(0)
    kernel = np.exp(-distance / 2)
    exact = kernel @ values / kernel.sum(1)
    lattice = unnormalised(features)
    ours = filtered(lattice, values) / filtered(lattice, np.ones_like(values))
    assert np.abs(ours - exact).max() < 0.02 < np.abs(values - exact).max()


def test_normalisation_is_symmetric():
    features = some_features(2, 40)
    lattice, plain_lattice = build_lattice(features), unnormalised(features)
    matrix = np.stack(
        [filtered(lattice, column) for column in np.eye(40, dtype=np.float32)], axis=1
    )
    before = np.stack(
        [filtered(plain_lattice, column) for column in np.eye(40, dtype=np.float32)], axis=1
    )
    sums = before.sum(1)
    np.testing.assert_allclose(
        matrix, before / np.sqrt(sums[:, None] * sums[None]), rtol=1e-4, atol=1e-6
    )


def test_neighbours_lead_back():
    lattice = unnormalised(some_features(5, 400, 6))
    for before, after in lattice.neighbours.transpose(0, 2, 1):
        for vertex in range(1, len(before)):
            assert before[vertex] == 0 or after[before[vertex]] == vertex
            assert after[vertex] == 0 or before[after[vertex]] == vertex
    assert (lattice.neighbours > 0).any()


def in_the_order_of_numbers(lattice):
    """The same lattice, blurred in the order of the vertices' numbers."""
    neighbours = np.zeros_like(lattice.neighbours)
    neighbours[:, lattice.order] = lattice.order[lattice.neighbours]
    return lattice._replace(order=lattice.order[:0], neighbours=neighbours)


@pytest.mark.parametrize('threads', [False, True])
def test_the_order_of_blurring_changes_no_bit(threads):
    lattice = build_lattice(some_features(5, 2000, 12))
    values = np.random.default_rng(2).random(2000, np.float32)
    gathered = gathering(lattice) if threads else None
    np.testing.assert_array_equal(
        filtered(lattice, values, gathered),
        filtered(in_the_order_of_numbers(lattice), values, gathered),
    )


def test_vertices_are_blurred_in_the_order_of_their_keys():
    """Along each direction, neighbours follow each other as their vertices do."""
    lattice = build_lattice(some_features(5, 2000, 12))
    assert lattice.order[0] == 0
    np.testing.assert_array_equal(np.sort(lattice.order), np.arange(len(lattice.order)))
    for before, after in lattice.neighbours.transpose(0, 2, 1):
        for neighbours in (before, after):
            existing = neighbours[neighbours > 0]
            assert len(existing) > 100 and (np.diff(existing) > 0).all()


def test_vertices_of_positions_keep_the_order_in_which_they_are_met():
    lattice = build_lattice(some_features(2, 2000, 40))
    assert len(lattice.order) == 0
    numbers, first_met = np.unique(lattice.vertices, return_index=True)
    np.testing.assert_array_equal(numbers, np.arange(1, lattice.neighbours.shape[1]))
    assert (np.diff(first_met) > 0).all()


@pytest.mark.parametrize('threads', [False, True])
def test_the_base_is_added_and_may_be_the_output(threads):
    rng = np.random.default_rng(5)
    lattice = build_lattice(some_features(5, 300, 8))
    gathered = gathering(lattice) if threads else None
    values = rng.random((2, 300, LANES), np.float32)
    base = rng.random((2, 300, LANES), np.float32)
    factors = rng.random((2, LANES), np.float32)
    alone = np.empty_like(values)
    filter_values(lattice, values, np.zeros_like(base), alone, factors, gathered)
    inputs = base.copy()
    out = np.empty_like(values)
    filter_values(lattice, values, inputs, out, factors, gathered)
    np.testing.assert_array_equal(inputs, base)
    np.testing.assert_allclose(out, base + alone, rtol=1e-5, atol=1e-6)
    filter_values(lattice, values, inputs, inputs, factors, gathered)
    np.testing.assert_array_equal(inputs, out)


def test_table_grows_with_the_picture(monkeypatch):
    features = some_features(
        5, 9000, 300
    )  # nearly every pixel has vertices of its own: more than the table holds at first
    lattice = unnormalised(features)
    assert lattice.neighbours.shape[1] > permutohedral.SLOTS // 2
    pairs = {tuple(row): None for row in lattice.vertices[:50]}
    assert len(pairs) == 50
    values = np.random.default_rng(3).random(9000, np.float32)
    expected = plain.lattice_filter(features[:, :200], values[:200])
    np.testing.assert_allclose(
        filtered(unnormalised(features[:, :200]), values[:200]), expected, rtol=1e-4, atol=1e-5
    )


def test_threads_give_the_same_result():
    features = some_features(5, 3000, 8)
    values = np.random.default_rng(4).random(3000, np.float32)
    lattice = build_lattice(features)
    np.testing.assert_allclose(
        filtered(lattice, values, gathering(lattice)),
        filtered(lattice, values),
        rtol=1e-5,
        atol=1e-6,
    )


def test_features_that_spread_too_far_are_refused():
    with pytest.raises(ValueError, match='sigmas are too small'):
        build_lattice(some_features(5, 10, 1e6))
