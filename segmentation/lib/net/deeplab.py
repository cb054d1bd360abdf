"""DeepLab v1, v2, v3 and v3+ over any backbone (docs/method.md §8).

Module names are those of the published checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import nn

from tool.method.maps import resize, spatial_size
from tool.train.layer_types import BATCH_NORMS


def _conv_bn(channels_in: int, channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, BatchNorm and ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, 1, padding, dilation, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling with a global branch; branches are concatenated and projected.

    Args:
        channels_in: channels of the input.
        channels: channels of every branch and of the output.
        rates: dilation of each branch's 3×3 convolution; rate 1 stands for a 1×1 convolution.
    """

    def __init__(self, channels_in: int, channels: int, rates: tuple[int, ...]):
        super().__init__()
        self.branches = len(rates)
        for i, rate in enumerate(rates, 1):
            kernel = 1 if rate == 1 else 3
            setattr(self, f'branch{i}', _conv_bn(channels_in, channels, kernel, rate))
        self.branch5_conv = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.branch5_bn = nn.BatchNorm2d(channels)
        self.conv_cat = _conv_bn((self.branches + 1) * channels, channels, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = [getattr(self, f'branch{i}')(x) for i in range(1, self.branches + 1)]
        mean = x.mean((2, 3), keepdim=True)  # [N, C, 1, 1]
        pooled = F.relu(self.branch5_bn(self.branch5_conv(mean)))
        maps.append(pooled.expand(-1, -1, *x.shape[2:]))
        return self.dropout(self.conv_cat(torch.cat(maps, 1)))


class DeepLab(nn.Module):
    """Base class of the versions: a backbone with new layers on top.

    A version defines `build(config)`, which makes the new layers, and `head(features)`, which
    computes logits at the feature size.

    Args:
        backbone: a network with a method `features(x)`, which returns {tap: map [N, C, h, w]}, and
            an attribute `channels`, {tap: C}.
        taps: names of the low-level tap and of the last tap.
        config: a complete config of an experiment.
        freeze_bn: keep the backbone's BatchNorm in eval mode.
    """

    def __init__(self, backbone: nn.Module, taps: tuple[str, str], config: dict, freeze_bn: bool):
        super().__init__()
        self.backbone = backbone
        self.low, self.high = taps
        self.freeze_bn = freeze_bn
        self.build(config)
        for module in self.new_layers():
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, mode='fan_out', nonlinearity='relu')
                elif isinstance(layer, nn.BatchNorm2d):
                    layer.momentum = config['TRAIN_BN_MOM']
        if config['MODEL_CLS_STD']:
            # Kaiming weights, as published, give logits of about ±5. It takes a thousand iterations
            # to unlearn them.
            nn.init.normal_(self.cls_conv.weight, std=config['MODEL_CLS_STD'])
            nn.init.zeros_(self.cls_conv.bias)

    def build(self, config: dict) -> None:
        """Make the new layers of the version."""
        raise NotImplementedError

    def head(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits [N, C, h, w] at the feature size, from the backbone's taps."""
        raise NotImplementedError

    def new_layers(self) -> list[nn.Module]:
        """All modules but the backbone. They train at ten times the backbone's learning rate."""
        return [module for module in self.children() if module is not self.backbone]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, float32 [N, C, H, W], of a batch of normalised images [N, 3, H, W]."""
        logits = self.head(self.backbone.features(x))
        # in 16 bits the steps between the values of the larger map would be visible in the loss
        return resize(logits.float(), spatial_size(x))

    def train(self, mode: bool = True) -> 'DeepLab':
        """Set the training mode; with freeze_bn the backbone's BatchNorm stays in eval mode."""
        super().train(mode)
        if self.freeze_bn:
            for module in self.backbone.modules():
                if isinstance(module, BATCH_NORMS):
                    module.eval()
        return self


class DeepLabV1(DeepLab):
    """A 3×3 convolution of dilation 12 and a 1×1 convolution, 512 channels each.

    At output stride 16 the dilation is 6, which reaches over as many pixels of the picture.
    """

    def build(self, config: dict) -> None:
        channels_in = self.backbone.channels[self.high]
        rate = 12 * 8 // config['MODEL_OUTPUT_STRIDE']
        self.conv_fov = nn.Conv2d(channels_in, 512, 3, 1, rate, rate, bias=False)
        self.bn_fov = nn.BatchNorm2d(512)
        self.conv_fov2 = nn.Conv2d(512, 512, 1, bias=False)
        self.bn_fov2 = nn.BatchNorm2d(512)
        self.dropout = nn.Dropout(0.5)
        self.cls_conv = nn.Conv2d(512, config['MODEL_NUM_CLASSES'], 1)

    def head(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        x = F.relu(self.bn_fov(self.conv_fov(features[self.high])), inplace=True)
        x = F.relu(self.bn_fov2(self.conv_fov2(x)), inplace=True)
        return self.cls_conv(self.dropout(x))


class DeepLabV2(DeepLab):
    """ASPP of four 3×3 branches with the global branch of v3, as in the published code.

    The rates are 6, 12, 18 and 24 at output stride 8, and half of that at stride 16.
    """

    def build(self, config: dict) -> None:
        channels = config['MODEL_ASPP_OUTDIM']
        self.aspp = ASPP(self.backbone.channels[self.high], channels, self.rates(config))
        self.dropout = nn.Dropout(0.5)
        self.cls_conv = nn.Conv2d(channels, config['MODEL_NUM_CLASSES'], 1)

    def rates(self, config: dict) -> tuple[int, ...]:
        """Dilations of the ASPP branches."""
        return (6, 12, 18, 24) if config['MODEL_OUTPUT_STRIDE'] == 8 else (3, 6, 9, 12)

    def head(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.cls_conv(self.dropout(self.aspp(features[self.high])))


class DeepLabV3(DeepLabV2):
    """ASPP of a 1×1 branch and three 3×3 branches.

    The rates of the latter are 6, 12 and 18 at output stride 16, and twice that at stride 8.
    """

    def rates(self, config: dict) -> tuple[int, ...]:
        factor = 2 if config['MODEL_OUTPUT_STRIDE'] == 8 else 1
        return (1, 6 * factor, 12 * factor, 18 * factor)


class DeepLabV3Plus(DeepLabV3):
    """DeepLab v3 with a decoder that joins the low-level features at stride 4."""

    def build(self, config: dict) -> None:
        channels = config['MODEL_ASPP_OUTDIM']
        shortcut = config['MODEL_SHORTCUT_DIM']
        self.aspp = ASPP(self.backbone.channels[self.high], channels, self.rates(config))
        self.shortcut_conv = _conv_bn(self.backbone.channels[self.low], shortcut, 1)
        self.cat_conv = nn.Sequential(
            *_conv_bn(channels + shortcut, channels, 3),
            nn.Dropout(0.5),
            *_conv_bn(channels, channels, 3),
            nn.Dropout(0.1),
        )
        self.cls_conv = nn.Conv2d(channels, config['MODEL_NUM_CLASSES'], 1)

    def head(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        low = self.shortcut_conv(features[self.low])
        x = resize(self.aspp(features[self.high]), spatial_size(low))
        return self.cls_conv(self.cat_conv(torch.cat([x, low], 1)))


VERSIONS = {
    'deeplabv1': DeepLabV1,
    'deeplabv2': DeepLabV2,
    'deeplabv3': DeepLabV3,
    'deeplabv3plus': DeepLabV3Plus,
}
