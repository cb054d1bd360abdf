"""Optimisers, learning-rate schedules and the published parameter groups (docs/method.md §4)."""

import argparse
from collections.abc import Iterable

import torch
from torch import nn

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
        new: modules that are trained from scratch; everything else trainable is backbone.
        norm_affine: also give BatchNorm's trainable scale and shift to the groups, as biases.
            Training from scratch does; the published code leaves them out.
        new_factor: the factor of new weights in place of 10; their biases take twice that.
    Returns:
        Groups for an optimiser; a group without parameters is left out.
    """
    new_ids = set()
    for module in new:
        new_ids |= {id(parameter) for parameter in module.parameters()}
    # (is new, is a bias) → parameters
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
        factor = (new_factor if is_new else 1) * (2 if is_bias else 1)
        decay = 0.0 if is_bias else weight_decay
        if parameters:
            groups.append({'params': parameters, 'lr': lr * factor, 'weight_decay': decay})
    return groups


def make_optimizer(
    name: str, groups: list[dict], lr: float, weight_decay: float, momentum: float | None = None
) -> torch.optim.Optimizer:
    """SGD, as published, or AdamW, which learns much faster from scratch.

    Q2: in the published code the weight decay stands in SGD's momentum position, so momentum is
    5e-4, practically none. That is what momentum None means, because the published figures were
    made with it.
    """
    if name == 'adamw':
        return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)
    return torch.optim.SGD(groups, lr=lr, momentum=weight_decay if momentum is None else momentum)


def chosen_optimizer(net: nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    """The optimiser that the flags of `command_line.add_train_flags` ask for; `net` has
    new_layers() and fine_tune."""
    groups = param_groups(
        net,
        net.new_layers(),
        args.lr,
        args.wt_dec,
        norm_affine=not net.fine_tune,
        new_factor=args.lr_new_factor,
    )
    return make_optimizer(args.optimizer, groups, args.lr, args.wt_dec, args.momentum)


def poly(step: int, max_steps: int, power: float = 0.9) -> float:
    """Factor on every learning rate at `step` (0-based): (1 − step/max_steps)^power."""
    return (1 - step / max_steps) ** power


def warm_up(step: int, steps: int) -> float:
    """Factor on the learning rate that rises linearly over the first `steps` steps, then 1."""
    return min(1.0, (step + 1) / steps) if steps else 1.0


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to its initial one times `factor`."""
    for group in optimizer.param_groups:
        group['lr'] = group.setdefault('initial_lr', group['lr']) * factor
