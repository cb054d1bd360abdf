"""ResNet-38 (Wu et al., model A1) at output stride 8: the backbone of every ResNet-38 network here
(method §1)."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from network.backbone import Backbone
from tool.run.errors import UserError

FULL_CHANNELS = 4096  # of the last feature map at width 1
FROZEN = ('conv1a', 'b2', 'b2_1', 'b2_2')  # when fine-tuning


def scaled(channels: int, width: float) -> int:
    """Channels at a width, never fewer than 16."""
    return max(16, round(channels * width))


def check_width(width: float) -> float:
    """`width` if it is a multiple of 1/32 in (0, 4], so that a checkpoint's shapes give it back
    exactly."""
    if not 0 < width <= 4 or width * 32 != int(width * 32):
        raise UserError(
            f'--width {width}: must be a multiple of 1/32 above 0, e.g. 1, 0.5, 0.25 or 0.125'
        )
    return width


def width_of(state: dict, prefix: str = '') -> float:
    """Width of the backbone in a state dict, from the shape of `<prefix>bn7.weight`.

    Raises:
        KeyError: no ResNet-38 in it.
    """
    return len(state[prefix + 'bn7.weight']) / FULL_CHANNELS


def conv3x3(channels_in: int, channels_out: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3×3 convolution without bias; at stride 1 it keeps the size."""
    return nn.Conv2d(channels_in, channels_out, 3, stride, dilation, dilation, bias=False)


def conv1x1(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """A 1×1 convolution without bias."""
    return nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)


class Block(nn.Module):
    """Plain block: BN, ReLU, 3×3 convolution, twice, added to the shortcut.

    The shortcut is the input where the shape stays, else a 1×1 convolution of the first BN-ReLU
    output.
    """

    def __init__(
        self,
        channels_in: int,
        channels_mid: int,
        channels_out: int,
        stride: int = 1,
        first_dilation: int = 1,
        dilation: int = 1,
    ):
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(channels_in)
        self.conv_branch2a = conv3x3(channels_in, channels_mid, stride, first_dilation)
        self.bn_branch2b1 = nn.BatchNorm2d(channels_mid)
        self.conv_branch2b1 = conv3x3(channels_mid, channels_out, 1, dilation)
        self.same_shape = channels_in == channels_out and stride == 1
        if not self.same_shape:
            self.conv_branch1 = conv1x1(channels_in, channels_out, stride)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(output, first BN-ReLU output)."""
        first = F.relu(self.bn_branch2a(x), inplace=True)
        y = self.conv_branch2a(first)
        y = F.relu(self.bn_branch2b1(y), inplace=True)
        y = self.conv_branch2b1(y)
        y += x if self.same_shape else self.conv_branch1(first)
        return y, first


class Bottleneck(nn.Module):
    """Bottleneck: BN, ReLU, convolution, three times (1×1, 3×3, 1×1), with dropout before the last
    two convolutions.

    The shortcut is a 1×1 convolution of the first BN-ReLU output.
    """

    def __init__(self, channels_in: int, channels_out: int, dilation: int, dropout: float):
        super().__init__()
        quarter = channels_out // 4
        half = channels_out // 2
        self.bn_branch2a = nn.BatchNorm2d(channels_in)
        self.conv_branch2a = conv1x1(channels_in, quarter)
        self.bn_branch2b1 = nn.BatchNorm2d(quarter)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = conv3x3(quarter, half, 1, dilation)
        self.bn_branch2b2 = nn.BatchNorm2d(half)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = conv1x1(half, channels_out)
        self.conv_branch1 = conv1x1(channels_in, channels_out)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(output, first BN-ReLU output)."""
        first = F.relu(self.bn_branch2a(x), inplace=True)
        y = self.conv_branch2a(first)
        y = F.relu(self.bn_branch2b1(y), inplace=True)
        y = self.conv_branch2b1(self.dropout_2b1(y))
        y = F.relu(self.bn_branch2b2(y), inplace=True)
        y = self.conv_branch2b2(self.dropout_2b2(y))
        y += self.conv_branch1(first)
        return y, first


class ResNet38(Backbone):
    """The backbone. `features` holds what the heads read; attributes are named as in the published
    checkpoints.

    Args:
        width: factor on all channel counts (multiple of 1/32); 1 is the published network.
    """

    def __init__(self, width: float = 1.0):
        super().__init__()
        self.width = check_width(width)
        c64, c128, c256, c512, c1024, c2048, c4096 = (scaled(64 << i, width) for i in range(7))
        self.conv1a = conv3x3(3, c64)
        self.b2 = Block(c64, c128, c128, stride=2)
        self.b2_1 = Block(c128, c128, c128)
        self.b2_2 = Block(c128, c128, c128)
        self.b3 = Block(c128, c256, c256, stride=2)
        self.b3_1 = Block(c256, c256, c256)
        self.b3_2 = Block(c256, c256, c256)
        self.b4 = Block(c256, c512, c512, stride=2)
        self.b4_1 = Block(c512, c512, c512)
        self.b4_2 = Block(c512, c512, c512)
        self.b4_3 = Block(c512, c512, c512)
        self.b4_4 = Block(c512, c512, c512)
        self.b4_5 = Block(c512, c512, c512)
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
        """Taps of a normalised image [N, 3, H, W]: conv3 (stride 4), conv4, conv5 and conv6 (stride
        8, ceil(H/8))."""
        x, taps = self.before_b7(x)
        x = self.b7(x)[0]
        taps['conv6'] = F.relu(self.bn7(x), inplace=True)
        return taps

    def before_b7(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The output of b6, and the taps conv3, conv4 and conv5: the first BN-ReLU outputs of b4,
        b5 and b6."""
        taps = {}
        x = self.conv1a(x)
        for block in (self.b2, self.b2_1, self.b2_2, self.b3, self.b3_1, self.b3_2):
            x = block(x)[0]
        x, taps['conv3'] = self.b4(x)
        for block in (self.b4_1, self.b4_2, self.b4_3, self.b4_4, self.b4_5):
            x = block(x)[0]
        x, taps['conv4'] = self.b5(x)
        for block in (self.b5_1, self.b5_2):
            x = block(x)[0]
        x, taps['conv5'] = self.b6(x)
        return x, taps

    def train_from_scratch(self) -> None:
        """No ImageNet weights: BatchNorm trains, nothing is frozen, and every block starts as its
        shortcut alone.

        That last (Goyal et al., 2017, section 5.1) lets a narrow network learn to classify in far
        fewer steps.
        """
        super().train_from_scratch()
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.zeros_(module.conv_branch2b1.weight)

    def early(self) -> Iterator[nn.Parameter]:
        return (parameter for name in FROZEN for parameter in getattr(self, name).parameters())
