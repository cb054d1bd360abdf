"""EPS's CAM network on an ImageNet backbone of timm (docs/method.md §2.2)."""

from network.cam_net import EpsHeads
from network.timm_backbone import TimmBackbone
from voc12.classes import NUM_CLASSES


class Net(EpsHeads, TimmBackbone):
    """EPS's network over a backbone of timm.

    Args:
        model: the backbone's name in timm, see TimmBackbone.
        output_stride: of the class maps, in image pixels.
        num_classes: C, the channels of every map, the background included.
    """

    def __init__(self, model: str, output_stride: int = 16, num_classes: int = NUM_CLASSES):
        super().__init__(model, output_stride)
        self.add_heads(num_classes=num_classes)
