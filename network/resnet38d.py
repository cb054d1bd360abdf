"""ResNet-38, the backbone of the published networks, at output stride 8 (docs/method.md §1).

It is model A1 of Wu, Shen, van den Hengel: "Wider or Deeper". Modules have the names of the
published checkpoints.
"""

from collections.abc import Iterator

import torch
from torch import nn

from network.backbone import Backbone
from network.norm_relu import norm_relu
from tool.run.errors import UserError

FULL_CHANNELS = 4096  # channels of the last feature map at width 1
FROZEN = ('conv1a', 'b2', 'b2_1', 'b2_2')  # layers that take no gradient when fine-tuning


def scaled(channels: int, width: float) -> int:
    """`channels` of the published network at a width, at least 16."""
    return max(16, round(channels * width))


def is_width(width: float) -> bool:
    """Whether a number is a multiple of 1/32 in (0, 4].

    With such a width the shapes of a checkpoint give the width back exactly.
    """
    return 0 < width <= 4 and width * 32 == int(width * 32)


def check_width(width: float) -> float:
    """Return `width` if `is_width`.

    Raises:
        UserError: it is no such number.
    """
    if not is_width(width):
        raise UserError(
            f'--width {width}: must be a multiple of 1/32 above 0 and at most 4, e.g. 1, 0.5, 0.25 '
            'or 0.125'
        )
    return width


def width_of(state: dict, prefix: str = '') -> float:
    """The width of the ResNet-38 in a state dict, from the shape of `<prefix>bn7.weight`.

    Raises:
        KeyError: the state dict holds no ResNet-38: no such vector, or one of another length than
            a ResNet-38 has at any width.
    """
    weight = state[prefix + 'bn7.weight']
    width = weight.numel() / FULL_CHANNELS
    if weight.ndim != 1 or not is_width(width):
        raise KeyError(prefix + 'bn7.weight')
    return width


def conv3x3(channels_in: int, channels_out: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3×3 convolution without bias. At stride 1 it keeps the size of the map."""
    return nn.Conv2d(
        channels_in,
        channels_out,
        kernel_size=3,
        stride=stride,
        padding=dilation,
        dilation=dilation,
        bias=False,
    )


def conv1x1(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """A 1×1 convolution without bias."""
    return nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=stride, bias=False)


class Block(nn.Module):
    """A plain block: twice BN → ReLU → 3×3 convolution, added to a shortcut.

    The shortcut is the input where the shape stays. Otherwise it is a 1×1 convolution of the first
    BN-ReLU output.

    Args:
        channels_in: channels of the input.
        channels_mid: channels between the two convolutions.
        channels_out: channels of the output.
        stride: stride of the first convolution and of the shortcut.
        first_dilation: dilation of the first convolution.
        dilation: dilation of the second convolution.
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
        self.conv_branch2b1 = conv3x3(channels_mid, channels_out, dilation=dilation)
        self.same_shape = channels_in == channels_out and stride == 1
        if not self.same_shape:
            self.conv_branch1 = conv1x1(channels_in, channels_out, stride)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The output and the first BN-ReLU output, which is a tap in some blocks."""
        first = norm_relu(self.bn_branch2a, x)
        y = self.conv_branch2a(first)
        y = norm_relu(self.bn_branch2b1, y)
        y = self.conv_branch2b1(y)
        if self.same_shape:
            y += x
        else:
            y += self.conv_branch1(first)
        return y, first


class Bottleneck(nn.Module):
    """A bottleneck: three times BN → ReLU → convolution (1×1, 3×3, 1×1), added to a shortcut.

    Dropout of whole channels precedes the second and the third convolution. The branch has a
    quarter of the output's channels after the first convolution and half of them after the second.
    The shortcut is a 1×1 convolution of the first BN-ReLU output.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        dilation: dilation of the 3×3 convolution.
        dropout: probability of dropping a channel.
    """

    def __init__(self, channels_in: int, channels_out: int, dilation: int, dropout: float):
        super().__init__()
        quarter = channels_out // 4
        half = channels_out // 2
        self.bn_branch2a = nn.BatchNorm2d(channels_in)
        self.conv_branch2a = conv1x1(channels_in, quarter)
        self.bn_branch2b1 = nn.BatchNorm2d(quarter)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = conv3x3(quarter, half, dilation=dilation)
        self.bn_branch2b2 = nn.BatchNorm2d(half)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = conv1x1(half, channels_out)
        self.conv_branch1 = conv1x1(channels_in, channels_out)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The output and the first BN-ReLU output, which is a tap in b6."""
        first = norm_relu(self.bn_branch2a, x)
        y = self.conv_branch2a(first)
        y = norm_relu(self.bn_branch2b1, y)
        y = self.conv_branch2b1(self.dropout_2b1(y))
        y = norm_relu(self.bn_branch2b2, y)
        y = self.conv_branch2b2(self.dropout_2b2(y))
        y += self.conv_branch1(first)
        return y, first


class ResNet38(Backbone):
    """The backbone: the rows of its constructor are those of the table in docs/method.md §1.

    Args:
        width: factor on all channel counts, a multiple of 1/32; 1 is the published network.
    """

    frozen_layers = 'BatchNorm and the first blocks'

    def __init__(self, width: float = 1.0):
        super().__init__()
        self.width = check_width(width)
        c64 = scaled(64, width)
        c128 = scaled(128, width)
        c256 = scaled(256, width)
        c512 = scaled(512, width)
        c1024 = scaled(1024, width)
        c2048 = scaled(2048, width)
        c4096 = scaled(4096, width)

        # stride 1
        self.conv1a = conv3x3(3, c64)
        # stride 2; the first block of a group halves the size of the map
        self.b2 = Block(c64, c128, c128, stride=2)
        self.b2_1 = Block(c128, c128, c128)
        self.b2_2 = Block(c128, c128, c128)
        # stride 4
        self.b3 = Block(c128, c256, c256, stride=2)
        self.b3_1 = Block(c256, c256, c256)
        self.b3_2 = Block(c256, c256, c256)
        # stride 8; tap conv3 is the first BN-ReLU output of b4, still at stride 4
        self.b4 = Block(c256, c512, c512, stride=2)
        self.b4_1 = Block(c512, c512, c512)
        self.b4_2 = Block(c512, c512, c512)
        self.b4_3 = Block(c512, c512, c512)
        self.b4_4 = Block(c512, c512, c512)
        self.b4_5 = Block(c512, c512, c512)
        # dilated from here on, and no more strides; tap conv4 is the first BN-ReLU output of b5
        self.b5 = Block(c512, c512, c1024, first_dilation=1, dilation=2)
        self.b5_1 = Block(c1024, c512, c1024, first_dilation=2, dilation=2)
        self.b5_2 = Block(c1024, c512, c1024, first_dilation=2, dilation=2)
        # tap conv5 is the first BN-ReLU output of b6
        self.b6 = Bottleneck(c1024, c2048, dilation=4, dropout=0.3)
        self.b7 = Bottleneck(c2048, c4096, dilation=4, dropout=0.5)
        # tap conv6 is bn7 followed by ReLU
        self.bn7 = nn.BatchNorm2d(c4096)
        self.channels = {'conv3': c256, 'conv4': c512, 'conv5': c1024, 'conv6': c4096}
        self.freeze(True)

    @property
    def description(self) -> str:
        return f'ResNet-38 of width {self.width}'

    def features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The taps of normalised images [N, 3, H, W].

        Returns:
            'conv3', [N, channels, ceil(H/4), ceil(W/4)], and 'conv4', 'conv5' and 'conv6',
            [N, channels, ceil(H/8), ceil(W/8)].
        """
        x, taps = self.before_b7(x)
        x = self.b7(x)[0]
        taps['conv6'] = norm_relu(self.bn7, x)
        return taps

    def before_b7(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The output of b6, and the taps conv3, conv4 and conv5."""
        taps = {}
        x = self.conv1a(x)
        # [0] is the output; a first BN-ReLU output that is no tap is freed at once
        for block in (self.b2, self.b2_1, self.b2_2):
            x = block(x)[0]
        for block in (self.b3, self.b3_1, self.b3_2):
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
        """Prepare for training without ImageNet weights: BatchNorm trains and nothing is frozen.

        The last convolution of every plain block starts at 0, so that the block starts as its
        shortcut (Goyal et al., 2017, section 5.1). A narrow network then learns to classify in far
        fewer steps.
        """
        super().train_from_scratch()
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.zeros_(module.conv_branch2b1.weight)

    def early(self) -> Iterator[nn.Parameter]:
        for name in FROZEN:
            yield from getattr(self, name).parameters()
