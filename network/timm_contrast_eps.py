"""EPS's CAM network on any ImageNet backbone of timm."""

from network.cam_net import EpsHeads
from network.timm_backbone import TimmBackbone


class Net(EpsHeads, TimmBackbone):
    """Args: see TimmBackbone."""

    def __init__(self, model: str, output_stride: int = 16):
        super().__init__(model, output_stride)
        self.add_heads()
