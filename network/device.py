"""Move a network to the device that it will run on."""

import torch
from torch import nn


def to_device(net: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, and return it.

    On a GPU its weights are channels-last: the convolutions of a GPU are fastest so, and cuDNN's
    deterministic ones can be dilated only so (PyTorch 2.6 and 2.7 take a slow way of their own
    otherwise). On a CPU its modules get the faster ways of `network/cpu`, if that folder is there.
    """
    if device.type == 'cuda':
        return net.to(device).to(memory_format=torch.channels_last)
    net = net.to(device)
    if device.type != 'cpu':
        return net
    try:
        from network.cpu import speed_up
    except ImportError:  # the folder is optional; without it the same is computed more slowly
        return net
    return speed_up(net)
