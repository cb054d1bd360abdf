"""tool/method/maps.py: scaling by minimum and maximum."""

import pytest
import torch

from tool.method.maps import scale_maps, scale_scores


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
