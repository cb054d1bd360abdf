"""A network brought to the device it will run on."""

import torch
from torch import nn


def to_device(net: nn.Module, device: torch.device) -> nn.Module:
    """`net` on the device; on a CPU with the modules of `network/cpu` over it, if that folder is
    there."""
    net = net.to(device)
    if device.type != 'cpu':
        return net
    try:
        from network.cpu import speed_up
    except ImportError:  # the folder is optional: without it the same is computed, only slower
        return net
    return speed_up(net)
