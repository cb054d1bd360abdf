"""ResNet-38 (Wu et al., model A1) at output stride 8: the backbone of every ResNet-38 network here (method §1)."""
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from network.backbone import Backbone
from tool.errors import UserError

FULL_CHANNELS = 4096  # of the last feature map at width 1
FROZEN = ('conv1a', 'b2', 'b2_1', 'b2_2')  # when fine-tuning


def scaled(channels: int, width: float) -> int:
    """Channels at a width, never fewer than 16."""
    return max(16, round(channels * width))


def check_width(width: float) -> float:
    """`width` if it is a multiple of 1/32 in (0, 4], so that a checkpoint's shapes give it back exactly."""
    if not 0 < width <= 4 or width * 32 != int(width * 32):
        raise UserError(f'--width {width}: must be a multiple of 1/32 above 0, e.g. 1, 0.5, 0.25 or 0.125')
    return width


def width_of(state: dict, prefix: str = '') -> float:
    """Width of the backbone in a state dict, from the shape of `<prefix>bn7.weight`.

    Raises:
        KeyError: no ResNet-38 in it.
    """
    return len(state[prefix + 'bn7.weight']) / FULL_CHANNELS


def _bn_relu(bn: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    return F.relu(bn(x), inplace=True)


class Block(nn.Module):
    """Pre-activation block of two 3×3 convolutions; returns (output, its first BN-ReLU output)."""

    def __init__(self, channels_in: int, channels_mid: int, channels_out: int, stride: int = 1, first_dilation: int = 1,
                 dilation: int = 1):
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(channels_in)
        self.conv_branch2a = nn.Conv2d(channels_in, channels_mid, 3, stride, first_dilation, first_dilation, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(channels_mid)
        self.conv_branch2b1 = nn.Conv2d(channels_mid, channels_out, 3, 1, dilation, dilation, bias=False)
        self.same_shape = channels_in == channels_out and stride == 1
        if not self.same_shape:
            self.conv_branch1 = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = _bn_relu(self.bn_branch2a, x)
        shortcut = x if self.same_shape else self.conv_branch1(first)
        return shortcut + self.conv_branch2b1(_bn_relu(self.bn_branch2b1, self.conv_branch2a(first))), first


class Bottleneck(nn.Module):
    """Pre-activation bottleneck with dropout and a projected shortcut; returns (output, its first BN-ReLU output)."""

    def __init__(self, channels_in: int, channels_out: int, dilation: int, dropout: float):
        super().__init__()
        quarter, half = channels_out // 4, channels_out // 2
        self.bn_branch2a = nn.BatchNorm2d(channels_in)
        self.conv_branch2a = nn.Conv2d(channels_in, quarter, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(quarter)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = nn.Conv2d(quarter, half, 3, 1, dilation, dilation, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(half)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = nn.Conv2d(half, channels_out, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = _bn_relu(self.bn_branch2a, x)
        y = self.conv_branch2a(first)
        y = self.conv_branch2b1(self.dropout_2b1(_bn_relu(self.bn_branch2b1, y)))
        y = self.conv_branch2b2(self.dropout_2b2(_bn_relu(self.bn_branch2b2, y)))
        return self.conv_branch1(first) + y, first


class ResNet38(Backbone):
    """The backbone. `features` holds what the heads read; attributes are named as in the published checkpoints.

    Args:
        width: factor on all channel counts (multiple of 1/32); 1 is the published network.
    """

    def __init__(self, width: float = 1.0):
        super().__init__()
        self.width = check_width(width)
        c64, c128, c256, c512, c1024, c2048, c4096 = (scaled(64 << i, width) for i in range(7))
        self.conv1a = nn.Conv2d(3, c64, 3, 1, 1, bias=False)
        self.b2 = Block(c64, c128, c128, stride=2)
        self.b2_1 = Block(c128, c128, c128)
        self.b2_2 = Block(c128, c128, c128)
        self.b3 = Block(c128, c256, c256, stride=2)
        self.b3_1 = Block(c256, c256, c256)
        self.b3_2 = Block(c256, c256, c256)
        self.b4 = Block(c256, c512, c512, stride=2)
        for i in range(1, 6):
            setattr(self, f'b4_{i}', Block(c512, c512, c512))
        self.b5 = Block(c512, c512, c1024, first_dilation=1, dilation=2)
        self.b5_1 = Block(c1024, c512, c1024, first_dilation=2, dilation=2)
        self.b5_2 = Block(c1024, c512, c1024, first_dilation=2, dilation=2)
        self.b6 = Bottleneck(c1024, c2048, dilation=4, dropout=0.3)
        self.b7 = Bottleneck(c2048, c4096, dilation=4, dropout=0.5)
        self.bn7 = nn.BatchNorm2d(c4096)
        self.channels = {'conv3': c256, 'conv4': c512, 'conv5': c1024, 'conv6': c4096}
        self.freeze(True)

    @property
    def description(self) -> str:
        return f'ResNet-38 of width {self.width}'

    def features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Taps of a normalised image [N, 3, H, W]: conv3 (stride 4), conv4, conv5 and conv6 (stride 8, ceil(H/8))."""
        x = self.conv1a(x)
        taps = {}
        for name in ('b2', 'b2_1', 'b2_2', 'b3', 'b3_1', 'b3_2', 'b4', 'b4_1', 'b4_2', 'b4_3', 'b4_4', 'b4_5',
                     'b5', 'b5_1', 'b5_2', 'b6', 'b7'):
            x, first = getattr(self, name)(x)
            if name in _TAPS:
                taps[_TAPS[name]] = first
        taps['conv6'] = _bn_relu(self.bn7, x)
        return taps

    def early(self) -> Iterator[nn.Parameter]:
        return (parameter for name in FROZEN for parameter in getattr(self, name).parameters())


_TAPS = {'b4': 'conv3', 'b5': 'conv4', 'b6': 'conv5'}
