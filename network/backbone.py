"""The interface between a backbone and the heads on top of it (docs/method.md §1)."""

from collections.abc import Iterable

import torch
from torch import nn

from tool.train.layer_types import BATCH_NORMS
from voc12.normalisation import IMAGENET


class Backbone(nn.Module):
    """A network that gives feature maps of several depths, and knows what fine-tuning freezes.

    The feature maps that heads read are called taps: conv3, conv4, conv5 and conv6, from the
    shallowest to the deepest.

    The constructor of a subclass makes the layers, sets `channels`, and then calls `freeze(True)`.
    A subclass also defines `features`, `early` and `description`.

    Attributes:
        channels: the number of channels of each tap, {name of the tap: channels}.
        fine_tune: True when training starts from ImageNet weights, as published. BatchNorm then
            stays in evaluation mode with frozen scale and shift, and the early layers are frozen.
            `train_from_scratch` sets it to False.
    """

    channels: dict[str, int]
    fine_tune: bool = True

    @property
    def normalisation(self) -> tuple[tuple, tuple]:
        """(mean, standard deviation) of the input's RGB channels, whose values are in [0, 1]."""
        return IMAGENET

    @property
    def frozen_layers(self) -> str:
        """The layers that are frozen when fine-tuning, in words for the log."""
        return 'BatchNorm and the first stages'

    @property
    def description(self) -> str:
        """The network's name and size in a few words, for the log."""
        raise NotImplementedError

    def features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The taps of normalised images [N, 3, H, W], by name.

        conv3 has stride 4. conv4, conv5 and conv6 have the network's output stride s, and the size
        [ceil(H/s), ceil(W/s)].
        """
        raise NotImplementedError

    def early(self) -> Iterable[nn.Parameter]:
        """The parameters of the early layers, which are frozen when fine-tuning."""
        raise NotImplementedError

    def train_from_scratch(self) -> None:
        """Prepare for training without ImageNet weights: BatchNorm trains and nothing is frozen."""
        self.fine_tune = False
        self.freeze(False)
        self.train(self.training)

    def freeze(self, frozen: bool) -> None:
        """Freeze (or unfreeze) the scales and shifts of BatchNorm and the early layers."""
        for module in self.modules():
            if isinstance(module, BATCH_NORMS):
                module.requires_grad_(not frozen)
        for parameter in self.early():
            parameter.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> 'Backbone':
        """Set training mode, in which BatchNorm stays in evaluation mode when fine-tuning."""
        super().train(mode)
        if self.fine_tune:
            for module in self.modules():
                if isinstance(module, BATCH_NORMS):
                    module.eval()
        return self
