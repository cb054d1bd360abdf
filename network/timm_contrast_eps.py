"""EPS's CAM network on any ImageNet backbone of timm."""

from network.cam_net import EpsHeads
from network.timm_backbone import TimmBackbone
from voc12.classes import NUM_CLASSES


class Net(EpsHeads, TimmBackbone):
    """EPS's heads over a timm network.

    Args:
        model, output_stride: see TimmBackbone.
        num_classes: channels of every map, the background included.
    """

    def __init__(self, model: str, output_stride: int = 16, num_classes: int = NUM_CLASSES):
        super().__init__(model, output_stride)
        self.add_heads(num_classes=num_classes)
