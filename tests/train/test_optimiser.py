"""tool/train/optimiser.py: the published groups, momentum (Q2) and decay."""

import argparse

import pytest
import torch
from torch import nn

from network import resnet38_contrast
from network.timm_contrast import Net as TimmNet
from tool.run.errors import UserError
from tool.train.optimiser import (
    base_lr,
    chosen_optimizer,
    make_optimizer,
    param_groups,
    poly,
    set_lr,
    warm_up,
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.Conv2d(4, 4, 1)
        self.frozen.requires_grad_(False)
        self.head = nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))


def named(net, groups):
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return [
        (
            [names[id(parameter)] for parameter in group['params']],
            group['lr'],
            group['weight_decay'],
        )
        for group in groups
    ]


def test_published_groups():
    net = Net()
    assert named(net, param_groups(net, [net.head], 0.01, 5e-4)) == [
        (['conv.weight'], 0.01, 5e-4),
        (['conv.bias'], 0.02, 0),
        (['head.0.weight'], 0.1, 5e-4),
        (['head.0.bias'], 0.2, 0),
    ]


def test_groups_when_training_from_scratch():
    net = Net()
    groups = named(net, param_groups(net, [net.head], 1.0, 5e-4, norm_affine=True))
    assert groups[1][0] == ['conv.bias', 'norm.weight', 'norm.bias'] and groups[1][2] == 0
    assert groups[3][0] == ['head.0.bias', 'head.1.weight', 'head.1.bias'] and groups[3][2] == 0


def test_empty_groups_are_left_out():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False))
    assert named(net, param_groups(net, [], 0.5, 1e-3)) == [(['0.weight'], 0.5, 1e-3)]


def test_momentum_is_the_weight_decay():
    """Q2: two steps on f(w) = g·w: v1 = g + d·w0, w1 = w0 − lr·v1; v2 = m·v1 + g + d·w1, with m =
    5e-4."""
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    sgd = make_optimizer('sgd', [{'params': [weight], 'lr': 0.1, 'weight_decay': 5e-4}], 0.1, 5e-4)
    assert make_optimizer('sgd', sgd.param_groups, 0.1, 5e-4, 0.9).defaults['momentum'] == 0.9
    for _ in range(2):
        weight.grad = torch.tensor([3.0], dtype=torch.float64)
        sgd.step()
    first = 3 + 5e-4 * 2
    w1 = 2 - 0.1 * first
    assert weight.item() == pytest.approx(w1 - 0.1 * (5e-4 * first + 3 + 5e-4 * w1), abs=1e-12)


def test_adamw_decays_by_group_and_moves_by_the_sign_first():
    decayed, free = (nn.Parameter(torch.tensor([2.0])) for _ in range(2))
    adamw = make_optimizer(
        'adamw',
        [
            {'params': [decayed], 'lr': 0.1, 'weight_decay': 0.5},
            {'params': [free], 'lr': 0.2, 'weight_decay': 0.0},
        ],
        0.1,
        0.5,
    )
    decayed.grad = free.grad = torch.tensor([-7.0])
    adamw.step()
    assert decayed.item() == pytest.approx(
        2 * (1 - 0.1 * 0.5) + 0.1
    ) and free.item() == pytest.approx(2.2)


def test_new_layers_take_their_own_factor():
    net = Net()
    groups = param_groups(net, [net.head], 0.1, 5e-4, new_factor=4)
    assert [group['lr'] for group in groups] == pytest.approx([0.1, 0.2, 0.4, 0.8])


def test_warm_up():
    assert [warm_up(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1] and warm_up(
        0, 0
    ) == 1


def test_poly():
    assert poly(0, 100) == 1 and poly(100, 100) == 0
    assert poly(50, 100) == pytest.approx(0.5**0.9) and poly(75, 100, power=2) == 0.0625


def test_set_lr_is_always_of_the_initial_rates():
    weight = nn.Parameter(torch.ones(1))
    other = nn.Parameter(torch.ones(1))
    sgd = make_optimizer(
        'sgd', [{'params': [weight], 'lr': 0.1}, {'params': [other], 'lr': 1.0}], 0.1, 0
    )
    for factor in (0.5, 0.25, 1.0, 0.1):
        set_lr(sgd, factor)
        assert [group['lr'] for group in sgd.param_groups] == pytest.approx([0.1 * factor, factor])
    again = make_optimizer(
        'sgd', [{'params': [weight], 'lr': 7.0}, {'params': [other], 'lr': 7.0}], 0.1, 0
    )
    again.load_state_dict(sgd.state_dict())  # a continued run knows the initial rates
    set_lr(again, 0.5)
    assert [group['lr'] for group in again.param_groups] == pytest.approx([0.05, 0.5])


@pytest.mark.parametrize('first_rate', [0.1, 0.003, 1.0])
def test_the_rate_that_is_logged_is_that_of_the_flag(first_rate):
    """Whatever group comes first: with --layer_decay it is one of the lowest layers."""
    weight = torch.nn.Parameter(torch.zeros(1))
    sgd = make_optimizer('sgd', [{'params': [weight], 'lr': first_rate}], 0.1, 0)
    for factor in (1.0, 0.25):
        set_lr(sgd, factor)
        assert base_lr(sgd) == pytest.approx(0.1 * factor)
    at_rest = make_optimizer('sgd', [{'params': [weight], 'lr': 0.0}], 0.0, 0)
    set_lr(at_rest, 0.5)
    assert base_lr(at_rest) == 0


def flags(**changed):
    """The flags that decide about an optimiser."""
    given = {
        'lr': 0.1,
        'wt_dec': 0.01,
        'lr_new_factor': 10.0,
        'layer_decay': 0.5,
        'optimizer': 'adamw',
        'momentum': None,
    }
    return argparse.Namespace(**{**given, **changed})


def test_layer_decay_makes_early_layers_learn_more_slowly():
    net = TimmNet('test_vit')  # six blocks
    net.freeze_part('none')
    groups = chosen_optimizer(net, flags()).param_groups
    names = {id(value): key for key, value in net.named_parameters()}
    rates = {}
    decays = {}
    for group in groups:
        for parameter in group['params']:
            key = names[id(parameter)]
            assert key not in rates
            rates[key] = group['lr']
            decays[key] = group['weight_decay']
    # layer 0 is the stem, 1 … 6 the blocks, the last one with the final norm
    assert rates['model.norm.weight'] == pytest.approx(0.1)
    assert rates['model.blocks.4.attn.qkv.weight'] == pytest.approx(0.1 * 0.5)
    assert rates['model.blocks.0.attn.qkv.bias'] == pytest.approx(0.1 * 0.5**5)
    assert rates['model.patch_embed.proj.weight'] == pytest.approx(0.1 * 0.5**6)
    assert rates['fc8.weight'] == pytest.approx(1.0)
    assert decays['model.blocks.5.attn.qkv.weight'] == decays['fc8.weight'] == 0.01
    assert decays['model.blocks.5.norm1.weight'] == decays['model.pos_embed'] == 0
    assert set(rates) == set(names.values())


def test_layer_decay_leaves_out_what_is_frozen():
    net = TimmNet('test_vit')
    net.freeze_part('all')
    groups = chosen_optimizer(net, flags()).param_groups
    assert {id(value) for group in groups for value in group['params']} == {
        id(layer.weight) for layer in net.new_layers()
    }


def test_layer_decay_is_for_backbones_of_timm():
    with pytest.raises(UserError, match='--layer_decay 0.5: is for backbones of timm'):
        chosen_optimizer(resnet38_contrast.Net(0.0625), flags())
