"""SEAM's CAM network on an ImageNet backbone of timm (docs/method.md §2.1)."""

from network.cam_net import SeamHeads
from network.timm_backbone import TimmBackbone
from voc12.classes import NUM_CLASSES


class Net(SeamHeads, TimmBackbone):
    """SEAM's network over a backbone of timm.

    Args:
        model: the backbone's name in timm, see TimmBackbone.
        output_stride: of the class maps, in image pixels.
        projection: the projection head's attribute, which is also its key in checkpoints.
        num_classes: C, the channels of every map, the background included.
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
