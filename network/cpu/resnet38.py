"""ResNet-38 in less time and memory on a CPU (docs/method.md §1).

`speed_up_resnet38` puts the classes of this file over the modules of a network.
"""

from collections.abc import Callable

import torch
from torch import nn

from network.cam_net import CamHeads
from network.cpu.convolutions import StridedConv1x1, WinogradConv, infers_in_float32, infers_on_cpu
from network.cpu.dropout import after_dropout
from network.cpu.put_over import put_over
from network.norm_relu import norm_relu
from network.resnet38d import Block, Bottleneck, ResNet38

STRIP = 8  # rows of conv6 that are in memory at once
# Blocks without Winograd's algorithm: its rounding would pass through all layers after them.
DIRECT = ('b2', 'b2_1', 'b2_2')


class InPlaceBatchNorm(nn.BatchNorm2d):
    """A BatchNorm that overwrites its input with its output in inference.

    It is for places where nothing else needs the input.
    """

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
    """A block whose shortcut is its input.

    Its first BN-ReLU output is no tap. It is not returned, and so its memory is free before the
    second convolution.
    """

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        y = self.conv_branch2a(norm_relu(self.bn_branch2a, x))
        y = self.conv_branch2b1(norm_relu(self.bn_branch2b1, y))
        y += x
        return y, None


class BottleneckInHalves(Bottleneck):
    """A bottleneck in two halves, of which the wide one can be made a few rows at a time.

    It does not compute the channels that its dropout dropped.
    """

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, y = self.narrow(x)
        return self.widen(first, y), first

    def narrow(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first BN-ReLU output, and the branch before its last, widest convolution."""
        first = norm_relu(self.bn_branch2a, x)
        y = self.conv_branch2a(first)
        y = norm_relu(self.bn_branch2b1, y)
        y = after_dropout(self.conv_branch2b1, self.dropout_2b1, y)
        return first, norm_relu(self.bn_branch2b2, y)

    def widen(self, first: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The output, made from the results of `narrow`; each pixel depends on itself alone."""
        y = after_dropout(self.conv_branch2b2, self.dropout_2b2, y)
        y += self.conv_branch1(first)
        return y


class CamInStrips:
    """A CAM network on ResNet-38 that makes conv6 a few rows at a time in inference.

    Only the fc8 output of the rows is kept.
    """

    # attributes of the network that this class is put over
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
        strips = []
        for first_strip, y_strip in zip(first.split(STRIP, 2), y.split(STRIP, 2)):
            strips.append(self.cam_of_strip(first_strip, y_strip))
        return torch.cat(strips, 2), taps

    def cam_of_strip(self, first: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The fc8 output, [N, C, rows, w], of some rows of the results of `b7.narrow`."""
        conv6 = norm_relu(self.bn7, self.b7.widen(first, y))
        return self.fc8(conv6)


def speed_up_resnet38(net: ResNet38) -> None:
    """Put the classes of this file over the modules of a ResNet-38, or of a network on one."""
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
    """Put faster classes over a plain block; `winograd`: over its 3×3 convolutions too."""
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
