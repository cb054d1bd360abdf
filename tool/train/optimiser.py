"""Optimisers, learning-rate schedules and the published parameter groups (docs/method.md §4)."""

import argparse
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from tool.run.errors import UserError
from tool.train.layer_types import BATCH_NORMS


def param_groups(
    net: nn.Module,
    new: Iterable[nn.Module],
    lr: float,
    weight_decay: float,
    norm_affine: bool = False,
    new_factor: float = 10,
) -> list[dict]:
    """The four published parameter groups.

    | group            | learning rate  | weight decay |
    |------------------|----------------|--------------|
    | backbone weights | lr             | yes          |
    | backbone biases  | 2 · lr         | no           |
    | new weights      | 10 · lr        | yes          |
    | new biases       | 20 · lr        | no           |

    Args:
        net: the network.
        new: its modules that train from scratch; everything else that is trainable is backbone.
        lr: learning rate of the backbone's weights.
        weight_decay: weight decay of weights.
        norm_affine: the groups also hold BatchNorm's trainable scale and shift, as biases. That is
            for training from scratch; the published code leaves them out.
        new_factor: factor of new weights in place of 10; their biases take twice that.
    Returns:
        Groups for an optimiser; a group without parameters is left out.
    """
    new_ids = set()
    for module in new:
        new_ids |= {id(parameter) for parameter in module.parameters()}
    # {(is new, is a bias): parameters}
    members: dict[tuple[bool, bool], list[nn.Parameter]] = {
        (False, False): [],
        (False, True): [],
        (True, False): [],
        (True, True): [],
    }
    for module in net.modules():
        is_norm = isinstance(module, BATCH_NORMS)
        if is_norm and not norm_affine:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                is_bias = name == 'bias' or is_norm
                members[id(parameter) in new_ids, is_bias].append(parameter)
    groups = []
    for (is_new, is_bias), parameters in members.items():
        if not parameters:
            continue
        factor = (new_factor if is_new else 1) * (2 if is_bias else 1)
        decay = 0.0 if is_bias else weight_decay
        groups.append({'params': parameters, 'lr': lr * factor, 'weight_decay': decay})
    return groups


def make_optimizer(
    name: str, groups: list[dict], lr: float, weight_decay: float, momentum: float | None = None
) -> torch.optim.Optimizer:
    """SGD, as published, or AdamW, which learns much faster from scratch.

    Args:
        name: 'sgd' or 'adamw'.
        groups: the parameter groups, see `param_groups`.
        lr, weight_decay: for groups that have none of their own.
        momentum: momentum of SGD. None takes the value of the weight decay: the published code
            passes 5e-4, the weight decay, as SGD's momentum (Q2). That is practically no momentum,
            but the published figures were made with it.
    """
    if name == 'adamw':
        return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)
    if momentum is None:
        momentum = weight_decay
    return torch.optim.SGD(groups, lr=lr, momentum=momentum)


def chosen_optimizer(net: Any, args: argparse.Namespace) -> torch.optim.Optimizer:
    """The optimiser that a command line asks for.

    Args:
        net: a network with `new_layers()` and `fine_tune`.
        args: holds the flags of `command_line.add_train_flags`.
    """
    new_layers = net.new_layers()
    trained = net
    backbone_groups = []
    if args.layer_decay is not None:
        trained = nn.ModuleList(new_layers)  # the others are in groups of their own
        backbone_groups = layer_decay_groups(net, args.layer_decay, args.lr, args.wt_dec)
    groups = param_groups(
        trained,
        new_layers,
        args.lr,
        args.wt_dec,
        norm_affine=not net.fine_tune,
        new_factor=args.lr_new_factor,
    )
    groups = backbone_groups + groups
    return make_optimizer(args.optimizer, groups, args.lr, args.wt_dec, args.momentum)


def layer_decay_groups(net: Any, layer_decay: float, lr: float, weight_decay: float) -> list[dict]:
    """Groups of a backbone's trainable parameters whose learning rate falls from layer to layer.

    Args:
        net: a network over a backbone of timm.
        layer_decay: factor between the learning rates of a layer and the one behind it.
        lr: learning rate of the last layer.
        weight_decay: weight decay of weights.
    Raises:
        UserError: the backbone is not of timm.
    """
    if not hasattr(net, 'layer_groups'):
        raise UserError(
            f'--layer_decay {layer_decay}: is for backbones of timm; leave it out with ResNet-38'
        )
    groups = net.layer_groups(layer_decay, weight_decay)
    for group in groups:
        group['lr'] = lr * group.pop('lr_scale')
    return groups


def poly(step: int, max_steps: int, power: float = 0.9) -> float:
    """Factor on every learning rate at a step, counted from 0: (1 − step / max_steps)^power."""
    return (1 - step / max_steps) ** power


def warm_up(step: int, steps: int) -> float:
    """Factor on every learning rate: it rises linearly over the first `steps` steps, then is 1."""
    if steps == 0:
        return 1.0
    return min(1.0, (step + 1) / steps)


def poly_after_warm_up(schedule: int, warmup_steps: int) -> Callable[[int], float]:
    """The factor on every learning rate as a function of the step: `warm_up` times `poly`.

    Args:
        schedule: steps after which poly would reach 0. A run may be longer; its steps beyond the
            schedule have poly's last value above 0.
        warmup_steps: see `warm_up`.
    """

    def factor(step: int) -> float:
        return warm_up(step, warmup_steps) * poly(min(step, schedule - 1), schedule)

    return factor


def base_lr(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate that --lr or TRAIN_LR has become at this step, without a group's factor."""
    group = optimizer.param_groups[0]
    initial = group.get('initial_lr', group['lr'])
    if initial in (0, optimizer.defaults['lr']):
        return group['lr']
    return optimizer.defaults['lr'] * group['lr'] / initial


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to its initial one times `factor`."""
    for group in optimizer.param_groups:
        group['lr'] = group.setdefault('initial_lr', group['lr']) * factor
