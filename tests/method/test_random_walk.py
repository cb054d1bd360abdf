"""The random walk, against golden numbers, the dense power, and cases with a known answer."""

import numpy as np
import pytest
import torch

from mini import GOLDEN
from recipe import uniform
from tool.method import plain
from tool.method import random_walk as module
from tool.method.affinity import dense_affinity, pair_indices
from tool.method.random_walk import random_walk


def random_pairs(height, width):
    _, end = pair_indices(height, width)
    return uniform(f'pairs {height} {width}', *end.shape)


@pytest.mark.parametrize('beta, logt', [(8, 6), (4, 8)])
def test_walk_agrees_with_the_published_code(beta, logt):
    golden = np.load(GOLDEN / 'net.aff.npz')
    walked = random_walk(
        uniform('rw.cam', 21, 17, 19), torch.from_numpy(golden['aff'][0]), beta=beta, logt=logt
    )
    np.testing.assert_allclose(
        walked.numpy(), golden[f'rw_beta{beta}_logt{logt}'], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize('size', [(12, 15), (11, 11), (5, 30), (30, 4), (3, 3), (2, 9), (1, 1)])
def test_walk_equals_the_dense_power_also_on_small_maps(size):
    cam, pairs = uniform('cam', 3, *size), random_pairs(*size)
    walked = random_walk(cam, pairs, beta=2, logt=4)
    np.testing.assert_allclose(walked, plain.random_walk(cam, pairs, 2, 4), rtol=1e-4, atol=1e-5)


def test_torch_steps_equal_scipy_steps():
    cam, pairs = uniform('cam', 3, 14, 12), random_pairs(14, 12)
    start, end = pair_indices(14, 12)
    arguments = cam.flatten(1), pairs, start, end, 64
    np.testing.assert_allclose(
        module._steps_torch(*arguments), module._steps_scipy(*arguments), rtol=1e-4, atol=1e-6
    )


def test_constant_features_diffuse_uniformly_within_reach():
    height, width = 17, 19
    pairs = torch.ones_like(random_pairs(height, width))  # exp(−0): all features equal
    cam = torch.zeros(1, height, width)
    cam[0, 8, 9] = 1
    once = random_walk(cam, pairs, logt=0)[0]
    reached = dense_affinity(pairs, height, width)  # 1 for each pair, and on the diagonal
    degree = reached.sum(0).view(height, width)
    expected = (
        reached[8 * width + 9].view(height, width) / degree
    )  # a pixel gets 1/(its neighbours and itself)
    np.testing.assert_allclose(once, expected, rtol=1e-6)
    assert int((once > 0).sum()) == 69  # the full disc
    constant = torch.full((1, height, width), 0.3)
    np.testing.assert_allclose(random_walk(constant, pairs), constant, rtol=1e-5)


def test_an_affinity_wall_stops_the_walk():
    height, width, wall = 16, 24, 12
    start, end = pair_indices(height, width)
    crosses = (start % width < wall) != (end % width < wall)
    pairs = torch.where(crosses, 0.0, 1.0)
    cam = torch.zeros(2, height, width)
    cam[0, :, :wall], cam[1, 3, wall + 2] = 0.7, 1
    walked = random_walk(cam, pairs, logt=8)
    np.testing.assert_allclose(walked[0, :, :wall], 0.7, rtol=1e-5)
    assert walked[0, :, wall:].abs().max() == 0
    assert walked[1, :, :wall].abs().max() == 0 and (walked[1, 4:12, wall + 4 : -4] > 0).all()


def test_absent_classes_change_nothing():
    cam, pairs = uniform('cam', 3, 14, 15), random_pairs(14, 15)
    alone = random_walk(cam, pairs)
    padded = torch.zeros(21, 14, 15)
    padded[[0, 8, 12]] = cam
    walked = random_walk(padded, pairs)
    np.testing.assert_array_equal(walked[[0, 8, 12]], alone)
    assert walked.abs().sum((1, 2)).nonzero().flatten().tolist() == [0, 8, 12]


def test_pairs_of_another_map_are_refused():
    with pytest.raises(ValueError, match='pairs of shape'):
        random_walk(uniform('cam', 2, 14, 15), random_pairs(15, 14))
