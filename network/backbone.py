"""What every backbone here is to the networks on it: taps, what is frozen when fine-tuning, its
inputs (method §1)."""

from collections.abc import Iterable

import torch
from torch import nn

from voc12.transforms import IMAGENET


class Backbone(nn.Module):
    """A subclass makes its layers, sets `channels`, defines `features`, `early` and `description`,
    then calls `freeze`.

    Attributes:
        channels: of each tap of `features`.
        fine_tune: BatchNorm in eval mode with frozen affine, and the early layers frozen (the
            published way, from ImageNet weights). `train_from_scratch()` switches it off.
        normalisation: (mean, std) of its inputs, RGB in [0, 1].
        description: a few words for the log.
    """

    channels: dict[str, int]
    fine_tune: bool = True
    normalisation: tuple[tuple, tuple] = IMAGENET
    description: str

    def features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Taps of a normalised image [N, 3, H, W]: conv3 (stride 4), conv4, conv5 and conv6 (output
        stride s, ceil(H/s))."""
        raise NotImplementedError

    def early(self) -> Iterable[nn.Parameter]:
        """Parameters of the early layers, frozen when fine-tuning."""
        raise NotImplementedError

    def train_from_scratch(self) -> None:
        """No ImageNet weights: BatchNorm trains and nothing is frozen."""
        self.fine_tune = False
        self.freeze(False)
        self.train(self.training)

    def freeze(self, frozen: bool) -> None:
        """Whether BatchNorm's affine parameters and the early layers take no gradient."""
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # SyncBatchNorm too
                module.requires_grad_(not frozen)
        for parameter in self.early():
            parameter.requires_grad_(not frozen)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.fine_tune:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self
