"""tool/method/maps.py: scaling by minimum and maximum, and resizing."""

import pytest
import torch
import torch.nn.functional as F

from tool.method import maps as module
from tool.method.maps import (
    interpolation_matrix,
    on_grid,
    resize,
    resize_by_products,
    scale_maps,
    scale_scores,
)


@pytest.mark.parametrize('shape', [(3, 5, 7), (2, 3, 5, 7)])
def test_scores_of_a_map_depend_on_that_map_alone(shape):
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    scores = scale_scores(maps)
    for one, score in zip(maps.reshape(-1, 5, 7), scores.reshape(-1, 5, 7)):
        positive = one.clamp(min=0)
        low, high = positive.min(), positive.max()
        expected = (torch.where(positive < low + 1e-5, 0, positive) - low - 1e-5) / (
            high - low + 1e-5
        )
        assert torch.equal(score, expected)
        assert -1e-4 < score.min() < 0 and 1 - 1e-4 < score.max() < 1


def test_the_floor_is_below_zero_where_the_losses_have_zero():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
    assert scale_maps(maps).min() == 0
    assert scale_scores(maps).min() == pytest.approx(-(1 + 1e-5) / (4 + 1e-5))


@pytest.mark.parametrize(
    'before, after',
    [
        ((56, 56), (448, 448)),
        ((448, 448), (128, 128)),
        ((16, 20), (97, 33)),
        ((5, 7), (1, 1)),
        ((1, 1), (4, 3)),
    ],
)
def test_products_resize_as_pytorch_does(before, after):
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(2, 3, *before, generator=generator, requires_grad=True)
    weights = torch.randn(2, 3, *after, generator=generator)
    expected = resize(maps, after)
    made = resize_by_products(maps, after)
    assert (made - expected).abs().max() < 2e-6
    [expected_gradient] = torch.autograd.grad((expected * weights).sum(), maps)
    [gradient] = torch.autograd.grad((made * weights).sum(), maps)
    size = expected_gradient.abs().max()
    assert (gradient - expected_gradient).abs().max() < 5e-6 * size


def test_a_value_lies_between_two_cells():
    expected = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]
    assert interpolation_matrix(3, 5, torch.device('cpu')).tolist() == expected


def test_products_are_those_of_float32():
    maps = torch.rand(1, 2, 4, 4, dtype=torch.bfloat16)
    with torch.autocast('cpu', torch.bfloat16):
        made = resize_by_products(maps, (9, 9))
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, resize_by_products(maps.float(), (9, 9)).bfloat16())


def test_a_cpu_resizes_by_pytorchs_kernel(monkeypatch):
    """So that its results stay those of every earlier version, bit by bit."""
    monkeypatch.setattr(module, 'resize_by_products', None)
    maps = torch.rand(1, 2, 4, 4, requires_grad=True)
    expected = torch.nn.functional.interpolate(maps, (9, 9), mode='bilinear', align_corners=True)
    assert torch.equal(resize(maps, (9, 9)), expected)


@pytest.mark.parametrize('spacing', [0.5, 1.0, 1.5, 2.25])
def test_a_map_on_another_grid_is_pytorchs_at_that_scale(spacing):
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(2, 3, 9, 12, generator=generator)
    scale = 1 / spacing
    expected = F.interpolate(maps, scale_factor=scale, mode='bilinear', align_corners=False)
    made = on_grid(maps, spacing, tuple(expected.shape[2:]))
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)


def test_cells_beyond_the_map_take_the_nearest_one():
    maps = torch.tensor([[[[1.0, 3.0]]]])
    assert on_grid(maps, 0.5, (1, 6)).flatten().tolist() == [1, 1.5, 2.5, 3, 3, 3]
