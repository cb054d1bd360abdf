"""Convolutions after Dropout2d on a CPU that skip the dropped channels.

Dropout2d sets whole channels of an image to zero: half of b7's in ResNet-38, 30 % of b6's. Here
only the other channels are convolved, with their weights. The result and the gradients are the same
to rounding, and the random numbers are the same. The forward pass and both parts of the backward
pass save the share of the work that was dropped.
"""

import torch
import torch.nn.functional as F
from torch import nn

from network.cpu.convolutions import MIN_PIXELS

MIN_CHANNELS = 128  # with fewer, picking them costs more than it saves
# oneDNN computes channels in blocks of this size. PyTorch 2.15 computed a wrong gradient of
# bfloat16 weights where the last block was not full.
BLOCK = 16


def after_dropout(conv: nn.Conv2d, dropout: nn.Dropout2d, x: torch.Tensor) -> torch.Tensor:
    """conv(dropout(x)), without the work of the dropped channels where that is faster.

    Args:
        conv: a convolution without bias and with one group.
        dropout: the dropout before it.
        x: [N, channels, H, W].
    """
    large_enough = conv.in_channels >= MIN_CHANNELS and x.shape[2] * x.shape[3] >= MIN_PIXELS
    drops = dropout.training and dropout.p > 0
    if not (drops and large_enough and x.device.type == 'cpu') or torch.compiler.is_compiling():
        return conv(dropout(x))
    noise = dropout(x.new_ones(*x.shape[:2], 1, 1))  # the random numbers that dropout(x) would draw
    x = x * noise
    most_kept = int(noise.count_nonzero(1).max())
    blocks = -(-most_kept // BLOCK)  # rounded up
    number = blocks * BLOCK
    if number >= conv.in_channels:
        return conv(x)
    # the same number for each image: where it keeps fewer, some dropped channels, zeros, are added
    kept = noise[..., 0, 0].topk(number).indices.sort().values  # [N, number]
    weight = conv.weight.to(x.dtype)
    results = []
    for image, index in zip(x.split(1), kept):
        kept_channels = _pick(image, index)
        kept_weights = _pick(weight, index)
        results.append(
            F.conv2d(kept_channels, kept_weights, None, conv.stride, conv.padding, conv.dilation)
        )
    return torch.cat(results)


def _pick(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """x[:, index] of x [n, channels, H, W] and index [any], in the memory format of x."""
    if x.is_contiguous():
        return x.gather(1, index[:, None, None].expand(len(x), -1, *x.shape[2:]))
    x = x.permute(0, 2, 3, 1)
    return x.gather(3, index.expand(*x.shape[:3], -1)).permute(0, 3, 1, 2)
