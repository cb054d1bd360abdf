"""AffinityNet on an ImageNet backbone of timm (docs/method.md §2.3).

Its output stride is always 8, which is that of the random walk (docs/method.md §7).
"""

from network.aff_net import AffinityHeads
from network.timm_backbone import TimmBackbone
from tool.method.affinity import FEATURE_STRIDE


class Net(AffinityHeads, TimmBackbone):
    """AffinityNet over a backbone of timm.

    Args:
        model: the backbone's name in timm, see TimmBackbone.
        output_stride: of the affinities, in image pixels; no other than 8 is used.
    """

    strides = (FEATURE_STRIDE,)

    def __init__(self, model: str, output_stride: int = FEATURE_STRIDE):
        super().__init__(model, output_stride)
        self.add_heads()
