"""network/aff_net.py: the published keys and outputs, pairs and their dense form."""

import numpy as np
import pytest
import torch

from mini import GOLDEN
from network.aff_net import pair_affinity
from network.resnet38_aff import Net
from recipe import fill, normal
from tool.method.affinity import (
    dense_affinity,
    pair_indices,
)


def test_net_keys_are_those_of_the_published_checkpoints():
    expected = (GOLDEN / 'keys' / 'resnet38_aff.keys.txt').read_text().splitlines()
    with torch.device('meta'):  # shapes only
        state = Net().state_dict()
    assert [f'{key} {"x".join(map(str, value.shape))}' for key, value in state.items()] == expected


def test_net_agrees_with_the_published_net():
    golden = np.load(GOLDEN / 'net.aff.npz')
    net, x = fill(Net()).eval(), normal('xaff', 1, 3, 136, 152)
    with torch.no_grad():
        pairs = net(x)
    np.testing.assert_allclose(pairs.numpy(), golden['aff'], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        dense_affinity(pairs[0], 17, 19).numpy(), golden['dense'], rtol=1e-4, atol=1e-5
    )


def test_dense_of_the_net_is_its_pairs_in_both_directions():
    net, x = fill(Net(0.0625)).eval(), normal('x', 1, 3, 90, 100)
    with torch.no_grad():
        pairs, dense = net(x), net(x, to_dense=True)
    start, end = pair_indices(12, 13)
    assert pairs.shape == (1, 34, 8 * 5) and dense.shape == (156, 156)
    assert torch.equal(dense[start.expand_as(end), end], pairs[0]) and torch.equal(dense, dense.T)
    assert torch.equal(dense.diagonal(), torch.ones(156))
    assert int((dense != 0).sum()) == 156 + 2 * pairs.numel()


@pytest.mark.parametrize(
    'size, shape', [((8, 70), (0, 9)), ((40, 64), (4, 4 * 6)), ((33, 20), (0, 5 * 3))]
)
def test_net_takes_pictures_smaller_than_the_radius(size, shape):
    net = fill(Net(0.0625)).eval()
    with torch.no_grad():
        assert net(normal('x', 2, 3, *size)).shape == (2, *shape)


def test_pair_affinity_by_hand_and_its_gradient():
    feature = torch.zeros(1, 2, 11, 11, requires_grad=True)
    with torch.no_grad():
        feature[0, 0, :, 6:] = 1.0  # mean |difference| across the edge is 1/2
    pairs = pair_affinity(feature)
    start, end = pair_indices(11, 11)
    crosses = (start % 11 >= 6) != (end % 11 >= 6)
    np.testing.assert_allclose(pairs[0][crosses].detach(), np.exp(-0.5), rtol=1e-6)
    assert torch.equal(pairs[0][~crosses], torch.ones(int((~crosses).sum())))
    pairs.sum().backward()
    assert feature.grad[0, 0].abs().sum() > 0 and feature.grad[0, 1].abs().sum() == 0
