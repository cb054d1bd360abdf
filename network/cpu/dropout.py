"""Convolutions after Dropout2d on a CPU: what was dropped is not computed.

Dropout2d sets whole channels of a picture to zero: half of b7's in ResNet-38, 30 % of b6's. A
convolution of the other channels alone, with their weights, has the same result and gradients to
rounding, from the same random numbers, for that share less work in the forward pass and in both
parts of the backward pass.
"""

import torch
import torch.nn.functional as F
from torch import nn

from network.cpu.convolutions import MIN_PIXELS

MIN_CHANNELS = 128  # with fewer, picking them costs more than it saves
# oneDNN computes channels in blocks; 2.15's bfloat16 weight gradient was wrong where the last is
# not full
BLOCK = 16


def after_dropout(conv: nn.Conv2d, dropout: nn.Dropout2d, x: torch.Tensor) -> torch.Tensor:
    """conv(dropout(x)) of x [N, C, H, W]; conv has no bias and one group."""
    worth = conv.in_channels >= MIN_CHANNELS and x.shape[2] * x.shape[3] >= MIN_PIXELS
    if (
        not (dropout.training and dropout.p > 0 and x.device.type == 'cpu' and worth)
        or torch.compiler.is_compiling()
    ):
        return conv(dropout(x))
    noise = dropout(x.new_ones(*x.shape[:2], 1, 1))  # draws what dropout(x) would
    x = x * noise
    number = -(-int(noise.count_nonzero(1).max()) // BLOCK) * BLOCK
    if number >= conv.in_channels:
        return conv(x)
    # some dropped channels are among them, which are zero
    kept = noise[..., 0, 0].topk(number).indices.sort().values
    weight = conv.weight.to(x.dtype)
    return torch.cat(
        [
            F.conv2d(
                _pick(image, index),
                _pick(weight, index),
                None,
                conv.stride,
                conv.padding,
                conv.dilation,
            )
            for image, index in zip(x.split(1), kept)
        ]
    )


def _pick(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """x[:, index] in the memory format of x."""
    if x.is_contiguous():
        return x.gather(1, index[:, None, None].expand(len(x), -1, *x.shape[2:]))
    x = x.permute(0, 2, 3, 1)
    return x.gather(3, index.expand(*x.shape[:3], -1)).permute(0, 3, 1, 2)
