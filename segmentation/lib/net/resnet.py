"""ResNet backbones at output stride 8, 16 or 32, with torchvision's names and either stem
(docs/method.md §8)."""

import torch
import torch.nn.functional as F
from torch import nn

BLOCKS = {
    'resnet18': (2, 2, 2, 2),
    'resnet34': (3, 4, 6, 3),
    'resnet50': (3, 4, 6, 3),
    'resnet101': (3, 4, 23, 3),
    'resnet152': (3, 8, 36, 3),
}
# strides and dilations of layer1 … layer4
STAGES = {
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
}


def _conv3(channels_in: int, channels: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 3, stride, dilation, dilation, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions (ResNet-18 and 34)."""

    expansion = 1

    def __init__(
        self,
        channels_in: int,
        channels: int,
        stride: int,
        dilation: int,
        downsample: nn.Module | None,
    ):
        super().__init__()
        self.conv1 = _conv3(channels_in, channels, stride, dilation)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3(channels, channels, 1, dilation)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class Bottleneck(nn.Module):
    """1×1, 3×3 (with the stride and the dilation), 1×1 convolutions (ResNet-50, 101 and 152)."""

    expansion = 4

    def __init__(
        self,
        channels_in: int,
        channels: int,
        stride: int,
        dilation: int,
        downsample: nn.Module | None,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3(channels, channels, stride, dilation)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)) + shortcut, inplace=True)


class ResNet(nn.Module):
    """The backbone without pooling and classifier; state-dict keys are torchvision's.

    Args:
        name: a key of BLOCKS.
        deep_stem: 3×3 convolutions of 64, 64, 128 channels in place of the 7×7 of 64.
        stride: of the last feature map: 8 (dilation 2 in layer3, 4 in layer4), 16 (2 in layer4) or
            32 (no dilation). The first block of a dilated layer has half its dilation.
    """

    def __init__(self, name: str, deep_stem: bool, stride: int = 8):
        super().__init__()
        block = BasicBlock if name in ('resnet18', 'resnet34') else Bottleneck
        channels_in = 128 if deep_stem else 64
        if deep_stem:
            self.conv1 = nn.Sequential(
                _conv3(3, 64, 2),
                nn.BatchNorm2d(64),
                nn.ReLU(inplace=True),
                _conv3(64, 64),
                nn.BatchNorm2d(64),
                nn.ReLU(inplace=True),
                _conv3(64, 128),
            )
        else:
            self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_in)
        strides, dilations = STAGES[stride]
        for i, blocks in enumerate(BLOCKS[name]):
            channels = 64 * 2**i
            channels_out = channels * block.expansion
            downsample = None
            if strides[i] > 1 or channels_in != channels_out:
                downsample = nn.Sequential(
                    nn.Conv2d(channels_in, channels_out, 1, strides[i], bias=False),
                    nn.BatchNorm2d(channels_out),
                )
            half_dilation = max(1, dilations[i] // 2)
            layer = [block(channels_in, channels, strides[i], half_dilation, downsample)]
            for _ in range(blocks - 1):
                layer.append(block(channels_out, channels, 1, dilations[i], None))
            setattr(self, f'layer{i + 1}', nn.Sequential(*layer))
            channels_in = channels_out
        self.channels = {'layer1': 64 * block.expansion, 'layer4': channels_in}
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')

    def features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Taps of a normalised image [N, 3, H, W]: layer1 (stride 4), layer4 (output stride)."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        low = self.layer1(F.max_pool2d(x, 3, 2, 1))
        return {'layer1': low, 'layer4': self.layer4(self.layer3(self.layer2(low)))}
