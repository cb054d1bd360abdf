"""Pair offsets, affinity labels, the affinity loss, against golden numbers and by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mini import GOLDEN
from recipe import uniform
from tool.method.affinity import (
    affinity_label,
    affinity_loss,
    pair_indices,
    pair_labels,
    pair_offsets,
    pair_radius,
)


def test_offsets_are_the_half_disc():
    offsets = pair_offsets(5)
    assert len(offsets) == 34
    assert offsets[:5] == [(0, 1), (0, 2), (0, 3), (0, 4), (1, -4)] and offsets[-1] == (4, 2)
    assert all(dx * dx + dy * dy < 25 for dy, dx in offsets)
    assert pair_offsets(1) == []


@pytest.mark.parametrize(
    'size, radius', [((11, 40), 5), ((10, 40), 4), ((40, 5), 2), ((4, 4), 1), ((1, 9), 1)]
)
def test_small_maps_use_a_smaller_radius(size, radius):
    assert pair_radius(*size) == radius


@pytest.mark.parametrize('size', [(11, 12), (17, 19), (7, 30), (30, 6), (3, 3), (1, 5)])
def test_pairs_are_those_of_the_plain_loops(size):
    height, width = size
    radius = pair_radius(height, width)
    start, end = pair_indices(height, width)
    pixels = [
        (y, x) for y in range(height - radius + 1) for x in range(radius - 1, width - radius + 1)
    ]
    assert start.tolist() == [y * width + x for y, x in pixels]
    assert end.tolist() == [
        [(y + dy) * width + x + dx for y, x in pixels] for dy, dx in pair_offsets(radius)
    ]


def pooled_golden_maps():
    """la and ha of golden aff_labels, pooled to [4, 14, 14] each (shared/golden/README.md says how
    they are made)."""
    maps = []
    for name in ('aff.la', 'aff.ha'):
        values = F.avg_pool2d(uniform(name, 4, 112, 112), 15, 1, 7)
        maps.append(values / values.sum(0))
    maps[1][0] *= 0.97
    for values in maps:
        values[:, :, 100:] = 0
    return [F.avg_pool2d(values, 8).numpy() for values in maps]


def test_labels_and_loss_agree_with_the_published_code():
    golden = np.load(GOLDEN / 'aff_labels.npz')
    label = affinity_label(*pooled_golden_maps())
    np.testing.assert_array_equal(label, golden['label'])
    labels = pair_labels(torch.from_numpy(label)[None])
    for name, values in zip(('bg', 'fg', 'neg'), labels):
        np.testing.assert_array_equal(values[0].numpy(), golden[name])
    losses = affinity_loss(uniform('aff.pairs', 1, 34, 60), *labels)
    for name, key in (
        ('loss_bg', 'bg_loss'),
        ('loss_fg', 'fg_loss'),
        ('loss_neg', 'neg_loss'),
        ('loss', 'loss'),
    ):
        np.testing.assert_allclose(losses[name].item(), golden[key], rtol=1e-5)


def test_affinity_label_by_hand():
    la = np.array([[[0.9, 0.2, 0.2, 0.0]], [[0.1, 0.8, 0.8, 0.0]]], np.float32)
    ha = np.array([[[0.6, 0.6, 0.1, 0.0]], [[0.4, 0.4, 0.9, 0.0]]], np.float32)
    assert affinity_label(la, ha).tolist() == [[0, 0, 1, 255]]
    ha[0, 0, 0] = 0.1  # la says background, ha does not: unsure
    assert affinity_label(la, ha).tolist() == [[255, 0, 1, 255]]


def test_loss_without_pairs_of_a_kind_is_finite_and_zero():
    pairs = torch.full((1, 34, 6), 0.5)
    none = torch.zeros(1, 34, 6, dtype=torch.bool)
    losses = affinity_loss(pairs, none, none, ~none)
    assert losses['loss_bg'] == 0 and losses['loss_fg'] == 0
    assert losses['loss'].item() == pytest.approx(np.log(2) / 2, rel=1e-4)
