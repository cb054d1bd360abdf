"""tool/method/random_walk.py: the sparse walk is the dense one, for any map."""

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tool.method import plain
from tool.method import random_walk as module
from tool.method.affinity import pair_indices, pair_offsets, pair_radius
from tool.method.random_walk import random_walk

SIDES = st.integers(1, 12)
SEEDS = st.integers(0, 2**32 - 1)
# What affinities are: exp(−distance), also of features far apart.
KINDS = st.sampled_from(['any', 'close to 1', '0 or 1', 'tiny', 'all 1'])


def make_pairs(kind, height, width, rng):
    """Affinities [offsets, pixels] of a map of this size."""
    _, end = pair_indices(height, width)
    values = rng.random(end.shape, np.float32)
    if kind == 'close to 1':
        values = 1 - values / 100
    elif kind == '0 or 1':
        values = np.round(values)
    elif kind == 'tiny':
        values = np.exp(-100 * values)
    elif kind == 'all 1':
        values = np.ones_like(values)
    return torch.from_numpy(values.astype(np.float32))


@settings(max_examples=settings().max_examples // 2)
@given(
    height=SIDES,
    width=SIDES,
    kind=KINDS,
    seed=SEEDS,
    classes=st.integers(0, 4),
    beta=st.sampled_from([1, 2, 4, 8]),
    logt=st.integers(0, 7),
)
@example(height=1, width=1, kind='any', seed=0, classes=1, beta=8, logt=6)
@example(height=12, width=2, kind='any', seed=0, classes=2, beta=8, logt=6)
def test_the_sparse_walk_is_the_dense_one(height, width, kind, seed, classes, beta, logt):
    rng = np.random.default_rng(seed)
    pairs = make_pairs(kind, height, width, rng)
    cam = torch.from_numpy(rng.random((classes, height, width), np.float32))
    expected = plain.random_walk(cam, pairs, beta, logt)
    walked = random_walk(cam, pairs, beta=beta, logt=logt)
    np.testing.assert_allclose(walked, expected, rtol=1e-4, atol=1e-5)
    of_torch = module._steps_torch(
        cam.flatten(1), pairs**beta, *pair_indices(height, width), 2**logt
    )
    np.testing.assert_allclose(of_torch.view(cam.shape), expected, rtol=1e-4, atol=1e-5)


@given(height=SIDES, width=SIDES, kind=KINDS, seed=SEEDS)
def test_a_walk_gives_means_of_scores(height, width, kind, seed):
    """Each column of T adds up to 1, so no score leaves the range of the scores."""
    rng = np.random.default_rng(seed)
    pairs = make_pairs(kind, height, width, rng)
    cam = torch.from_numpy(rng.random((1, height, width), np.float32))
    walked = random_walk(cam, pairs)
    assert walked.min() >= cam.min() - 1e-5 and walked.max() <= cam.max() + 1e-5
    constant = torch.full((1, height, width), 0.25)
    np.testing.assert_allclose(random_walk(constant, pairs), constant, rtol=1e-5)


@given(height=SIDES, width=SIDES)
def test_pairs_are_those_of_the_half_disc(height, width):
    """The sparse and the dense walk share the pairs, so they are compared with two loops here."""
    radius = pair_radius(height, width)
    expected = set()
    for row in range(height - radius + 1):
        for column in range(radius - 1, width - radius + 1):
            for dy, dx in pair_offsets(radius):
                first = row * width + column
                second = (row + dy) * width + column + dx
                expected.add((first, second))
    start, end = pair_indices(height, width)
    found = [(first, second) for row in end.tolist() for first, second in zip(start.tolist(), row)]
    assert set(found) == expected and len(found) == len(expected)
    for first, second in found:
        distance = np.hypot(second // width - first // width, second % width - first % width)
        assert 0 < distance < radius
