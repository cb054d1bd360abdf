"""SEAM's CAM network on ResNet-38, with a projection head (docs/method.md §2.1)."""

from network.cam_net import SeamHeads
from network.resnet38d import ResNet38
from voc12.classes import NUM_CLASSES


class Net(SeamHeads, ResNet38):
    """SEAM's network. Its state-dict keys are those of the published checkpoints.

    Args:
        width: factor on the backbone's channel counts, see ResNet38; the heads do not scale.
        projection: the projection head's attribute, which is also its key in checkpoints.
        num_classes: C, the channels of every map, the background included.
    """

    def __init__(
        self, width: float = 1.0, projection: str = 'fc_proj', num_classes: int = NUM_CLASSES
    ):
        super().__init__(width)
        self.add_heads(projection, num_classes)
