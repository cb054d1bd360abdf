"""Affinities over class boundaries and the walk that they stop, against golden numbers, the plain
formulation and by hand."""

import numpy as np
import pytest
import torch

from mini import GOLDEN
from recipe import uniform
from tool.method import plain
from tool.method.affinity import affinity_loss, pair_counts, pair_indices, pair_labels, pair_offsets
from tool.method.boundary import (
    PathMaximum,
    boundary_affinity,
    boundary_walk,
    path,
    scores_with_background,
)


@pytest.fixture(scope='module')
def golden():
    return np.load(GOLDEN / 'irn.npz')


def test_a_path_is_the_straight_line_and_what_it_touches():
    assert path(0, 3) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert path(2, 0) == [(0, 0), (1, 0), (2, 0)]
    # a diagonal passes the cells beside it at a distance of 1/√2
    assert path(1, -1) == [(0, -1), (0, 0), (1, -1), (1, 0)]
    assert path(1, 3) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert (0, 4) not in path(2, 4) and (2, 0) not in path(2, 4)
    assert len(pair_offsets(10)) == 152
    for dy, dx in pair_offsets(10):
        cells = path(dy, dx)
        assert {(0, 0), (dy, dx)} <= set(cells)
        between = plain.pixels_between(20, 20, 20 + dy, 20 + dx)
        assert {(y + 20, x + 20) for y, x in cells} == set(between)


def test_losses_and_gradient_agree_with_the_published_code(golden):
    edge = (uniform('irn.a.edge', 1, 40, 44) * 0.9).requires_grad_()
    label = torch.from_numpy(golden['edge_label'])[None]
    pairs = boundary_affinity(edge, 10)
    assert pairs.shape[1:] == tuple(golden['pairs'])
    assert pairs.sum().item() == pytest.approx(float(golden['affinity_sum']), rel=1e-5)
    assert pairs.square().sum().item() == pytest.approx(float(golden['affinity_sq']), rel=1e-5)
    terms = affinity_loss(pairs, *pair_labels(label, 10))
    for name in ('loss_bg', 'loss_fg', 'loss_neg', 'loss'):
        np.testing.assert_allclose(terms[name].item(), golden[name], rtol=1e-4)
    terms['loss'].backward()
    np.testing.assert_allclose(edge.grad.numpy(), golden['grad_edge'], rtol=1e-4, atol=1e-5)


def test_walk_and_mask_agree_with_the_published_code(golden):
    cam = uniform('irn.a.cam', 3, 25, 28)
    boundary = uniform('irn.a.edge2', 1, 25, 28)[0] * 0.6
    walked = boundary_walk(cam, boundary)
    np.testing.assert_allclose(walked.numpy(), golden['walk'], rtol=1e-4, atol=1e-5)
    scores = scores_with_background(walked, (97, 110), 0.25)
    np.testing.assert_array_equal(scores.argmax(0).numpy(), golden['walk_mask'])


@pytest.mark.parametrize('size', [(13, 12), (11, 11), (4, 30), (30, 4), (3, 3), (2, 9), (1, 1)])
def test_walk_equals_the_dense_power_also_on_small_maps(size):
    """Also where a map is smaller than the reach of its pairs: they only lack those outside."""
    cam = uniform('cam', 3, *size)
    boundary = uniform('boundary', *size) * 0.5
    walked = boundary_walk(cam, boundary, beta=2, logt=4)
    affinity = plain.boundary_affinity(boundary, 5)
    expected = plain.dense_walk(cam * (1 - boundary), affinity, 2, 4)
    np.testing.assert_allclose(walked, expected, rtol=1e-4, atol=1e-5)
    in_steps = plain.dense_steps(cam * (1 - boundary), affinity, 2, 16)
    np.testing.assert_allclose(in_steps, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size, radius', [((21, 23), 10), ((12, 13), 5), ((9, 30), 4), ((2, 8), 1)])
def test_affinities_are_those_of_the_plain_loops(size, radius):
    boundary = uniform('boundary', *size)
    pairs = boundary_affinity(boundary[None], radius)[0]
    start, end = pair_indices(*size, radius)
    assert pairs.shape == end.shape
    expected = plain.boundary_affinity(boundary, radius)[start.expand_as(end), end]
    torch.testing.assert_close(pairs, expected)


def test_the_gradient_of_a_pair_reaches_its_highest_cell_and_no_other():
    boundary = uniform('boundary', 1, 7, 9).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda b: PathMaximum.apply(b, 3), (boundary,), eps=1e-6)
    flat = torch.full((1, 7, 9), 0.5, requires_grad=True)  # all cells of a path are the highest
    pairs = boundary_affinity(flat, 3)
    pairs.sum().backward()
    assert flat.grad.sum().item() == -pairs.numel()


def test_a_closed_boundary_keeps_the_scores_inside():
    boundary = torch.zeros(20, 24)
    boundary[5:15, 6] = boundary[5:15, 16] = boundary[5, 6:17] = boundary[14, 6:17] = 1
    cam = torch.zeros(2, 20, 24)
    cam[0, 9, 10] = 1
    cam[1, 0, 0] = 1
    walked = boundary_walk(cam, boundary, logt=10)
    inside = torch.zeros(20, 24, dtype=torch.bool)
    inside[6:14, 7:16] = True
    assert (walked[0][inside] > 0).all() and walked[0][~inside].abs().max() == 0
    assert walked[1][inside].abs().max() == 0 and (walked[1][:5] > 0).all()


def test_counts_are_those_of_the_radius():
    label = torch.zeros(1, 30, 30, dtype=torch.uint8)
    label[:, :, 15:] = 3
    counts = pair_counts(label, 10)
    masks = pair_labels(label, 10)
    assert counts.tolist() == [int(mask.sum()) for mask in masks]
    assert counts.sum() == 152 * 21 * 12  # every pair is of one kind


def test_scores_without_a_class_or_without_a_score_are_background():
    alone = scores_with_background(torch.zeros(0, 3, 4), (11, 14), 0.25)
    assert alone.shape == (1, 11, 14)
    zero = scores_with_background(torch.zeros(2, 3, 4), (11, 14), 0.25)
    assert zero.shape == (3, 11, 14) and zero.argmax(0).max() == 0
