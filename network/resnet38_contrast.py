"""SEAM's CAM network on ResNet-38 with the projection head of the contrast loss (method §2.1)."""

from network.cam_net import SeamHeads
from network.resnet38d import ResNet38
from voc12.classes import NUM_CLASSES


class Net(SeamHeads, ResNet38):
    """State-dict keys are those of the published checkpoints.

    Args:
        width: see ResNet38; the heads' own channels do not scale.
        projection: attribute (and checkpoint key) of the projection head.
        num_classes: channels of every map, the background included.
    """

    def __init__(
        self, width: float = 1.0, projection: str = 'fc_proj', num_classes: int = NUM_CLASSES
    ):
        super().__init__(width)
        self.add_heads(projection, num_classes)
