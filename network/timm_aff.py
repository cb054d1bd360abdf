"""AffinityNet on any ImageNet backbone of timm; always at output stride 8, the walk's (method §2.3,
§7)."""

from network.aff_net import AffinityHeads
from network.timm_backbone import TimmBackbone
from tool.method.affinity import FEATURE_STRIDE


class Net(AffinityHeads, TimmBackbone):
    """Args: see TimmBackbone."""

    strides = (FEATURE_STRIDE,)

    def __init__(self, model: str, output_stride: int = FEATURE_STRIDE):
        super().__init__(model, output_stride)
        self.add_heads()
