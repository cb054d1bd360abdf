"""The interface between a backbone and the heads on top of it (docs/method.md §1)."""

from collections.abc import Iterable

import torch
from torch import nn

from tool.train.layer_types import BATCH_NORMS
from voc12.transforms import IMAGENET


class Backbone(nn.Module):
    """A backbone: feature maps of several depths, and what is frozen when it is fine-tuned.

    A subclass makes its layers, sets `channels`, defines `features`, `early` and `description`, and
    then calls `freeze`.

    Attributes:
        channels: the number of channels of each tap of `features`.
        fine_tune: BatchNorm stays in eval mode with frozen scale and shift, and the early layers
            are frozen: the published way, from ImageNet weights. `train_from_scratch()` ends it.
    """

    channels: dict[str, int]
    fine_tune: bool = True

    @property
    def normalisation(self) -> tuple[tuple, tuple]:
        """(mean, std) of the inputs, RGB in [0, 1]."""
        return IMAGENET

    @property
    def description(self) -> str:
        """A few words for the log."""
        raise NotImplementedError

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
            if isinstance(module, BATCH_NORMS):
                module.requires_grad_(not frozen)
        for parameter in self.early():
            parameter.requires_grad_(not frozen)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.fine_tune:
            for module in self.modules():
                if isinstance(module, BATCH_NORMS):
                    module.eval()
        return self
