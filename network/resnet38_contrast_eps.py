"""EPS's CAM network on ResNet-38 with the projection head of the contrast loss (method §2.2)."""

from network.cam_net import EpsHeads
from network.resnet38d import ResNet38


class Net(EpsHeads, ResNet38):
    """State-dict keys are those of the published checkpoints; `width`: see ResNet38, the heads'
    channels do not scale."""

    def __init__(self, width: float = 1.0):
        super().__init__(width)
        self.add_heads()
