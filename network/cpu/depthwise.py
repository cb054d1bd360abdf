"""Faster depthwise convolutions on a CPU, where PyTorch's are slow, above all in the backward pass.

Two kinds are slow. Dilated ones: the 5×5 convolution of EfficientNet-Lite0's last stage at output
stride 8 took 1.17 s against 0.12 s here (batch 8, crop 224, one thread). And those in bfloat16: the
backward pass at output stride 16 took 146 ms against 32 ms in float32 (crop 256).
"""

import torch
import torch.nn.functional as F
from torch import nn

from network.cpu.put_over import put_over


class DilatedDepthwise(nn.Conv2d):
    """A depthwise convolution that `interleaved` computes on a CPU.

    It has stride 1 and keeps the size of the map.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == 'cpu':
            return interleaved(x, self.weight, self.bias, self.dilation[0])
        return super().forward(x)


def interleaved(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int
) -> torch.Tensor:
    """A dilated depthwise convolution that keeps the size of the map.

    A convolution with dilation d is an ordinary one on each of the d² images that subsampling by d
    gives. They become the batch of one ordinary convolution, and its results are put back.

    Args:
        x: [N, channels, H, W].
        weight: [channels, 1, k, k] with k odd.
        bias: [channels], or None.
        dilation: d.
    Returns:
        [N, channels, H, W], channels-last.
    """
    n, channels, height, width = x.shape
    d = dilation
    x = F.pad(x, (0, -width % d, 0, -height % d)).permute(0, 2, 3, 1)  # [N, H', W', channels]
    rows = x.shape[1] // d
    columns = x.shape[2] // d
    x = x.reshape(n, rows, d, columns, d, channels)
    x = x.permute(0, 2, 4, 1, 3, 5)  # [N, d, d, rows, columns, channels]
    x = x.reshape(n * d * d, rows, columns, channels).permute(0, 3, 1, 2)
    y = F.conv2d(x, weight, bias, padding=weight.shape[2] // 2, groups=channels)
    y = y.permute(0, 2, 3, 1).reshape(n, d, d, rows, columns, channels)
    y = y.permute(0, 3, 1, 4, 2, 5)  # [N, rows, d, columns, d, channels]
    y = y.reshape(n, rows * d, columns * d, channels).permute(0, 3, 1, 2)
    return y[:, :, :height, :width]


class TrainsInFloat32(nn.Conv2d):
    """A convolution that trains in float32 on a CPU, also under autocast to 16 bits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        trains_in_16_bits = torch.is_autocast_enabled('cpu') and torch.is_grad_enabled()
        if x.device.type != 'cpu' or not trains_in_16_bits:
            return super().forward(x)
        with torch.autocast('cpu', enabled=False):
            return super().forward(x.float()).to(x.dtype)


def use_interleaved(model: nn.Module) -> None:
    """Make a network's dilated depthwise convolutions `DilatedDepthwise`, where that fits."""
    for conv in model.modules():
        if _fits(conv):
            put_over(conv, DilatedDepthwise)


def train_in_float32(model: nn.Module) -> None:
    """Make a network's depthwise convolutions train in float32 on a CPU, in any precision."""
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d) and conv.in_channels == conv.groups > 1:
            put_over(conv, TrainsInFloat32)


def _fits(conv: nn.Module) -> bool:
    """True for a convolution that `DilatedDepthwise` can compute."""
    if (
        not isinstance(conv, nn.Conv2d)
        or not conv.in_channels == conv.out_channels == conv.groups
        or conv.stride != (1, 1)
    ):
        return False
    size = conv.kernel_size[0]
    dilation = conv.dilation[0]
    padding = dilation * (size // 2)
    pads_in_forward = type(conv).__name__ == 'Conv2dSame'  # of timm, pads like TensorFlow
    keeps_size = pads_in_forward or conv.padding in ((padding, padding), 'same')
    return (
        size % 2 == 1
        and dilation > 1
        and conv.kernel_size == (size, size)
        and conv.dilation == (dilation, dilation)
        and conv.padding_mode == 'zeros'
        and keeps_size
    )
