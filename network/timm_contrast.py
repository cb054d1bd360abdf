"""SEAM's CAM network on any ImageNet backbone of timm."""

from network.cam_net import SeamHeads
from network.timm_backbone import TimmBackbone
from voc12.classes import NUM_CLASSES


class Net(SeamHeads, TimmBackbone):
    """SEAM's heads over a timm network.

    Args:
        model, output_stride: see TimmBackbone.
        projection: attribute (and checkpoint key) of the projection head.
        num_classes: channels of every map, the background included.
    """

    def __init__(
        self,
        model: str,
        output_stride: int = 16,
        projection: str = 'fc_proj',
        num_classes: int = NUM_CLASSES,
    ):
        super().__init__(model, output_stride)
        self.add_heads(projection, num_classes)
