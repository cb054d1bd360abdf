"""AffinityNet on ResNet-38 (docs/method.md §2.3)."""

from network.aff_net import CHANNELS, AffinityHeads
from network.resnet38d import ResNet38, scaled


class Net(AffinityHeads, ResNet38):
    """AffinityNet. Its state-dict keys are those of the published checkpoints.

    Args:
        width: factor on all channel counts, a multiple of 1/32; 1 is the published network.
    """

    def __init__(self, width: float = 1.0):
        super().__init__(width)
        low, middle, high = CHANNELS
        self.add_heads((scaled(low, width), scaled(middle, width), scaled(high, width)))
