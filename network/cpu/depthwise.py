"""Depthwise convolutions on a CPU, where PyTorch's are slow, above all backward.

Dilated ones (the 5×5 of EfficientNet-Lite0's last stage at output stride 8, batch 8, crop 224, one
thread: 1.17 s against 0.12 s here), and those in bfloat16 (backward, at output stride 16 and crop
256: 146 ms against 32 ms in float32).
"""

import torch
import torch.nn.functional as F
from torch import nn

from network.cpu.put_over import put_over


class DilatedDepthwise(nn.Conv2d):
    """A depthwise convolution of stride 1 that keeps the size; on a CPU by `interleaved`, elsewhere
    as ever."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == 'cpu':
            return interleaved(x, self.weight, self.bias, self.dilation[0])
        return super().forward(x)


def interleaved(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int
) -> torch.Tensor:
    """F.conv2d of x [N, C, H, W] and weight [C, 1, k, k] (k odd), padded to keep the size; the
    result is channels-last.

    A dilated convolution is an ordinary one on each of its dilation² subsampled images: they become
    the batch.
    """
    (n, channels, height, width), d = x.shape, dilation
    x = F.pad(x, (0, -width % d, 0, -height % d)).permute(0, 2, 3, 1)
    rows, columns = x.shape[1] // d, x.shape[2] // d
    x = (
        x.reshape(n, rows, d, columns, d, channels)
        .permute(0, 2, 4, 1, 3, 5)
        .reshape(n * d * d, rows, columns, channels)
    )
    y = F.conv2d(
        x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[2] // 2, groups=channels
    ).permute(0, 2, 3, 1)
    y = (
        y.reshape(n, d, d, rows, columns, channels)
        .permute(0, 3, 1, 4, 2, 5)
        .reshape(n, rows * d, columns * d, channels)
    )
    return y.permute(0, 3, 1, 2)[:, :, :height, :width]


class TrainsInFloat32(nn.Conv2d):
    """Under autocast on a CPU computed in float32 wherever there will be a backward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        trains_in_16_bits = torch.is_autocast_enabled('cpu') and torch.is_grad_enabled()
        if x.device.type != 'cpu' or not trains_in_16_bits:
            return super().forward(x)
        with torch.autocast('cpu', enabled=False):
            return super().forward(x.float()).to(x.dtype)


def use_interleaved(model: nn.Module) -> None:
    """Put `DilatedDepthwise` over a network's dilated depthwise convolutions of stride 1 that keep
    the size."""
    for conv in model.modules():
        if _fits(conv):
            put_over(conv, DilatedDepthwise)


def train_in_float32(model: nn.Module) -> None:
    """Let a network's depthwise convolutions train in float32 on a CPU, whatever the rest is in."""
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d) and conv.in_channels == conv.groups > 1:
            put_over(conv, TrainsInFloat32)


def _fits(conv: nn.Module) -> bool:
    if (
        not isinstance(conv, nn.Conv2d)
        or not conv.in_channels == conv.out_channels == conv.groups
        or conv.stride != (1, 1)
    ):
        return False
    (size, _), (dilation, _) = conv.kernel_size, conv.dilation
    kept = (dilation * (size // 2),) * 2
    like_tensorflow = type(conv).__name__ == 'Conv2dSame'  # of timm: pads in forward
    return (
        size % 2 == 1
        and dilation > 1
        and conv.kernel_size == (size, size)
        and conv.dilation == (dilation, dilation)
        and conv.padding_mode == 'zeros'
        and (like_tensorflow or conv.padding in (kept, 'same'))
    )
