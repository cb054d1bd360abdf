"""ResNet-38 (Wu et al., model A1) at output stride 8: the backbone of every ResNet-38 network here
(method §1)."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from network.backbone import Backbone
from network.cpu.convolutions import Conv1x1, Conv3x3, infers_on_cpu, lean
from network.cpu.dropout import after_dropout
from tool.run.errors import UserError

FULL_CHANNELS = 4096  # of the last feature map at width 1
FROZEN = ('conv1a', 'b2', 'b2_1', 'b2_2')  # when fine-tuning
STRIP = 8  # rows


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


def _bn_relu(bn: nn.BatchNorm2d, x: torch.Tensor, spent: bool = False) -> torch.Tensor:
    """ReLU(bn(x)); in inference on a CPU it takes the place of an x that is `spent`."""
    if not spent or bn.training or not lean(x):
        return F.relu(bn(x), inplace=True)
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    scale, shift = scale[:, None, None], (bn.bias - bn.running_mean * scale)[:, None, None]
    return torch.addcmul(shift, x, scale, out=x).relu_()


class Block(nn.Module):
    """Pre-activation block of two 3×3 convolutions; returns (output, its first BN-ReLU output or
    None if of the same shape).

    In inference on a CPU a block may write over its input.
    """

    def __init__(
        self,
        channels_in: int,
        channels_mid: int,
        channels_out: int,
        stride: int = 1,
        first_dilation: int = 1,
        dilation: int = 1,
        direct: bool = False,
    ):
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(channels_in)
        self.conv_branch2a = Conv3x3(channels_in, channels_mid, stride, first_dilation, direct)
        self.bn_branch2b1 = nn.BatchNorm2d(channels_mid)
        self.conv_branch2b1 = Conv3x3(channels_mid, channels_out, 1, dilation, direct)
        self.same_shape = channels_in == channels_out and stride == 1
        if not self.same_shape:
            self.conv_branch1 = Conv1x1(channels_in, channels_out, stride)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.same_shape:
            first, y = None, self.conv_branch2a(_bn_relu(self.bn_branch2a, x))
        else:
            first = _bn_relu(self.bn_branch2a, x, spent=True)
            y = self.conv_branch2a(first)
        y = self.conv_branch2b1(_bn_relu(self.bn_branch2b1, y, spent=True))
        return y.add_(x if self.same_shape else self.conv_branch1(first)), first


class Bottleneck(nn.Module):
    """Pre-activation bottleneck with dropout and a projected shortcut; returns (output, its first
    BN-ReLU output)."""

    def __init__(self, channels_in: int, channels_out: int, dilation: int, dropout: float):
        super().__init__()
        quarter, half = channels_out // 4, channels_out // 2
        self.bn_branch2a = nn.BatchNorm2d(channels_in)
        self.conv_branch2a = nn.Conv2d(channels_in, quarter, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(quarter)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = Conv3x3(quarter, half, 1, dilation)
        self.bn_branch2b2 = nn.BatchNorm2d(half)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = nn.Conv2d(half, channels_out, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, y = self.narrow(x)
        return self.widen(first, y), first

    def narrow(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first BN-ReLU output, and the branch as far as it has fewer channels."""
        first = _bn_relu(self.bn_branch2a, x, spent=True)
        y = self.conv_branch2a(first)
        y = after_dropout(
            self.conv_branch2b1, self.dropout_2b1, _bn_relu(self.bn_branch2b1, y, spent=True)
        )
        return first, _bn_relu(self.bn_branch2b2, y, spent=True)

    def widen(self, first: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The output from what `narrow` gives, pixel by pixel."""
        return after_dropout(self.conv_branch2b2, self.dropout_2b2, y).add_(
            self.conv_branch1(first)
        )


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
        self.conv1a = nn.Conv2d(3, c64, 3, 1, 1, bias=False)
        self.b2 = Block(
            c64, c128, c128, stride=2, direct=True
        )  # its rounding would pass through all that follows
        self.b2_1 = Block(c128, c128, c128, direct=True)
        self.b2_2 = Block(c128, c128, c128, direct=True)
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

    def features(
        self, x: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor] = None
    ) -> dict[str, torch.Tensor]:
        """Taps of a normalised image [N, 3, H, W]: conv3 (stride 4), conv4, conv5 and conv6 (stride
        8, ceil(H/8)).

        With `head`, which must work pixel by pixel, the tap conv6 is head(conv6). Inference on a
        CPU then makes conv6, the largest map, a few rows at a time.
        """
        x, taps = self.conv1a(x), {}
        for name in (
            'b2',
            'b2_1',
            'b2_2',
            'b3',
            'b3_1',
            'b3_2',
            'b4',
            'b4_1',
            'b4_2',
            'b4_3',
            'b4_4',
            'b4_5',
            'b5',
            'b5_1',
            'b5_2',
            'b6',
        ):
            x, first = getattr(self, name)(x)
            if name in _TAPS:
                taps[_TAPS[name]] = first
            del first  # or it would be there while the next block runs
        first, y = self.b7.narrow(x)
        rows = STRIP if head is not None and infers_on_cpu(y) else y.shape[2]
        strips = [
            self._conv6(*strip, head) for strip in zip(first.split(rows, 2), y.split(rows, 2))
        ]
        return {**taps, 'conv6': torch.cat(strips, 2) if len(strips) > 1 else strips[0]}

    def _conv6(self, first: torch.Tensor, y: torch.Tensor, head: Callable | None) -> torch.Tensor:
        feature = _bn_relu(self.bn7, self.b7.widen(first, y), spent=True)
        return feature if head is None else head(feature)

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


_TAPS = {'b4': 'conv3', 'b5': 'conv4', 'b6': 'conv5'}
