"""Optimisers, learning-rate schedule and the published parameter groups (method §4)."""

import argparse
from collections.abc import Iterable

import torch
from torch import nn


def param_groups(
    net: nn.Module,
    new: Iterable[nn.Module],
    lr: float,
    weight_decay: float,
    norm_affine: bool = False,
    new_factor: float = 10,
) -> list[dict]:
    """The four published groups: backbone weights ×1, backbone biases ×2, new weights ×10, new
    biases ×20 (biases undecayed).

    Args:
        new: modules that are trained from scratch; everything else trainable is backbone.
        norm_affine: also give BatchNorm's trainable scale and shift to the groups (training from
            scratch); published code leaves them out.
        new_factor: the factor of new weights, twice that for their biases.
    """
    new_ids = {id(parameter) for module in new for parameter in module.parameters()}
    weights, biases, new_weights, new_biases = [], [], [], []
    for module in net.modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_norm and not norm_affine:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                is_bias = name == 'bias' or is_norm  # a norm's scale is not decayed either
                fresh = id(parameter) in new_ids
                (new_biases if is_bias else new_weights).append(parameter) if fresh else (
                    biases if is_bias else weights
                ).append(parameter)
    groups = [
        (weights, 1, weight_decay),
        (biases, 2, 0.0),
        (new_weights, new_factor, weight_decay),
        (new_biases, 2 * new_factor, 0.0),
    ]
    return [
        {'params': params, 'lr': lr * factor, 'weight_decay': decay}
        for params, factor, decay in groups
        if params
    ]


def make_optimizer(
    name: str, groups: list[dict], lr: float, weight_decay: float, momentum: float = None
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
    """Factor that rises in a line over the first `steps` steps, then 1."""
    return min(1.0, (step + 1) / steps) if steps else 1.0


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to its initial one times `factor`."""
    for group in optimizer.param_groups:
        group['lr'] = group.setdefault('initial_lr', group['lr']) * factor
