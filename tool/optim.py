"""SGD with polynomial decay and the published parameter groups (method §4)."""
from collections.abc import Iterable

import torch
from torch import nn


def param_groups(net: nn.Module, new: Iterable[nn.Module], lr: float, weight_decay: float,
                 norm_affine: bool = False) -> list[dict]:
    """The four published groups: backbone weights ×1, backbone biases ×2, new weights ×10, new biases ×20 (biases undecayed).

    Args:
        new: modules that are trained from scratch; everything else trainable is backbone.
        norm_affine: also give BatchNorm's trainable scale and shift to the groups (training from scratch); published code
            leaves them out.
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
                (new_biases if is_bias else new_weights).append(parameter) if fresh else \
                    (biases if is_bias else weights).append(parameter)
    groups = [(weights, 1, weight_decay), (biases, 2, 0.0), (new_weights, 10, weight_decay), (new_biases, 20, 0.0)]
    return [{'params': params, 'lr': lr * factor, 'weight_decay': decay} for params, factor, decay in groups if params]


def published_sgd(groups: list[dict], lr: float, weight_decay: float) -> torch.optim.SGD:
    """The SGD of the published training stages.

    Q2: there the weight decay stands in SGD's momentum position, so momentum is 5e-4, practically none. Kept, because the
    published figures were made with it.
    """
    return torch.optim.SGD(groups, lr=lr, momentum=weight_decay)


def poly(step: int, max_steps: int, power: float = 0.9) -> float:
    """Factor on every learning rate at `step` (0-based): (1 − step/max_steps)^power."""
    return (1 - step / max_steps) ** power


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to its initial one times `factor`."""
    for group in optimizer.param_groups:
        group['lr'] = group.setdefault('initial_lr', group['lr']) * factor
