"""IRN's boundary head on ResNet-38 (docs/method.md §10.13)."""

import torch

from network.boundary_net import BoundaryHead
from network.resnet38d import ResNet38


class Net(BoundaryHead, ResNet38):
    """The boundary head over the four taps of ResNet-38, at strides 4, 8, 8 and 8.

    Args:
        width: factor on the channel counts of the backbone, a multiple of 1/32.
    """

    def __init__(self, width: float = 1.0):
        super().__init__(width)
        self.add_heads(list(self.channels.values()))

    def depths(self, x: torch.Tensor) -> list[torch.Tensor]:
        taps = self.features(x)
        return [taps[name] for name in self.channels]
