"""SEAM's CAM network on any ImageNet backbone of timm."""

from network.cam_net import SeamHeads
from network.timm_backbone import TimmBackbone


class Net(SeamHeads, TimmBackbone):
    """Args: see TimmBackbone; `projection` is the attribute (and checkpoint key) of the projection
    head."""

    def __init__(self, model: str, output_stride: int = 16, projection: str = 'fc_proj'):
        super().__init__(model, output_stride)
        self.add_heads(projection)
