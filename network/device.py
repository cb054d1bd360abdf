"""Move a network to the device that it will run on."""

import torch
from torch import nn


def to_device(net: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, and return it.

    On a CPU its modules get the faster ways of `network/cpu`, if that folder is there.
    """
    net = net.to(device)
    if device.type != 'cpu':
        return net
    try:
        from network.cpu import speed_up
    except ImportError:  # the folder is optional; without it the same is computed more slowly
        return net
    return speed_up(net)
