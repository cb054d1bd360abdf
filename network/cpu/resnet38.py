"""ResNet-38 on a CPU in less time and memory (method §1); put over a network by
`speed_up_resnet38`."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from network.cam_net import CamHeads
from network.cpu.convolutions import StridedConv1x1, WinogradConv, infers_in_float32, infers_on_cpu
from network.cpu.dropout import after_dropout
from network.cpu.put_over import put_over
from network.resnet38d import Block, Bottleneck, ResNet38

STRIP = 8  # rows of conv6 that are there at once
DIRECT = ('b2', 'b2_1', 'b2_2')  # Winograd's rounding here would pass through all that follows


class InPlaceBatchNorm(nn.BatchNorm2d):
    """A BatchNorm whose input nobody else needs: in inference its output takes the input's
    place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training or not infers_in_float32(x):
            return super().forward(x)
        mean = self.running_mean
        variance = self.running_var
        assert mean is not None and variance is not None  # a network's BatchNorms track both
        scale = self.weight / torch.sqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None], out=x)


class SameShapeBlock(Block):
    """A block whose shortcut is its input: its first BN-ReLU output is no tap, and is given back
    before the second convolution."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        y = self.conv_branch2a(F.relu(self.bn_branch2a(x), inplace=True))
        y = self.conv_branch2b1(F.relu(self.bn_branch2b1(y), inplace=True))
        y += x
        return y, None


class BottleneckInHalves(Bottleneck):
    """A bottleneck whose wide half can be made a few rows at a time, and which does not compute
    what its dropout dropped."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, y = self.narrow(x)
        return self.widen(first, y), first

    def narrow(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first BN-ReLU output, and the branch as far as it has fewer channels."""
        first = F.relu(self.bn_branch2a(x), inplace=True)
        y = self.conv_branch2a(first)
        y = F.relu(self.bn_branch2b1(y), inplace=True)
        y = after_dropout(self.conv_branch2b1, self.dropout_2b1, y)
        return first, F.relu(self.bn_branch2b2(y), inplace=True)

    def widen(self, first: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The output from what `narrow` gives, pixel by pixel."""
        y = after_dropout(self.conv_branch2b2, self.dropout_2b2, y)
        y += self.conv_branch1(first)
        return y


class CamInStrips:
    """Put over a CAM network on ResNet-38: inference makes conv6 a few rows at a time and keeps
    only their fc8 output."""

    # of the network that it is put over
    before_b7: Callable[[torch.Tensor], tuple[torch.Tensor, dict[str, torch.Tensor]]]
    b7: BottleneckInHalves
    bn7: nn.BatchNorm2d
    fc8: nn.Conv2d

    def cam_and_taps(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if not infers_on_cpu(x):
            return super().cam_and_taps(x)  # type: ignore[misc]
        x, taps = self.before_b7(x)
        first, y = self.b7.narrow(x)
        del x
        cam = [
            self.cam_of_strip(first_strip, y_strip)
            for first_strip, y_strip in zip(first.split(STRIP, 2), y.split(STRIP, 2))
        ]
        return torch.cat(cam, 2), taps

    def cam_of_strip(self, first: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """fc8 output [N, C, rows, w] of some rows of what `b7.narrow` gives."""
        conv6 = F.relu(self.bn7(self.b7.widen(first, y)), inplace=True)
        return self.fc8(conv6)


def speed_up_resnet38(net: ResNet38) -> None:
    """Put all of this over a network that is, or stands on, a ResNet-38."""
    for name, block in net.named_children():
        if isinstance(block, Block):
            _speed_up_block(block, winograd=name not in DIRECT)
        elif isinstance(block, Bottleneck):
            put_over(block, BottleneckInHalves)
            put_over(block.conv_branch2b1, WinogradConv)
            for norm in (block.bn_branch2a, block.bn_branch2b1, block.bn_branch2b2):
                put_over(norm, InPlaceBatchNorm)
    put_over(net.bn7, InPlaceBatchNorm)
    if isinstance(net, CamHeads):
        put_over(net, CamInStrips)


def _speed_up_block(block: Block, winograd: bool) -> None:
    put_over(block.bn_branch2b1, InPlaceBatchNorm)
    if block.same_shape:
        put_over(block, SameShapeBlock)
    else:
        put_over(block.bn_branch2a, InPlaceBatchNorm)  # its input is not the shortcut
    if winograd:
        for conv in (block.conv_branch2a, block.conv_branch2b1):
            if conv.stride == (1, 1):
                put_over(conv, WinogradConv)
    if not block.same_shape and block.conv_branch1.stride != (1, 1):
        put_over(block.conv_branch1, StridedConv1x1)
