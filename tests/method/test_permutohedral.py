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
    out = np.zeros_like(packed)
    filter_values(lattice, packed, out, np.ones((1, LANES), np.float32), gathered)
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
