"""IRN's boundary head on an ImageNet backbone of timm (docs/method.md §10.13)."""

import torch
import torch.nn.functional as F

from network.boundary_net import COARSEST_STRIDE, BoundaryHead
from network.timm_backbone import TimmBackbone
from network.timm_models import BackboneError
from tool.method.boundary import BOUNDARY_STRIDE


class Net(BoundaryHead, TimmBackbone):
    """The boundary head over the stages of a network of timm.

    A ResNet has five: the stem after its pooling and the four layers, at strides 4, 4, 8, 16, 16.

    Args:
        model: the backbone's name in timm, see TimmBackbone.
        output_stride: of the deepest stages, in image pixels; no other than 16 is used.
    Raises:
        BackboneError: the network cannot be dilated, or timm has no such model.
    """

    strides = (COARSEST_STRIDE,)

    def __init__(self, model: str, output_stride: int = COARSEST_STRIDE):
        super().__init__(model, output_stride)
        if not self.source.is_dilated:
            raise BackboneError(
                model,
                'the boundary head takes networks that can be dilated, e.g. resnet50, '
                'convnext_tiny; AffinityNet takes any',
            )
        self.eval()
        with torch.no_grad():
            depths = self.depths(torch.zeros(1, 3, 4 * COARSEST_STRIDE, 4 * COARSEST_STRIDE))
        self.train()
        self.add_heads([depth.shape[1] for depth in depths])

    def depths(self, x: torch.Tensor) -> list[torch.Tensor]:
        """timm's maps of every stage; those of a finer stride are pooled as the stem of a ResNet.

        That is a maximum over 3×3 cells at every second cell.
        """
        rows = x.shape[2] // BOUNDARY_STRIDE
        pooled = []
        for stage in self.model.forward_intermediates(x, intermediates_only=True):
            while stage.shape[2] > rows:
                stage = F.max_pool2d(stage, kernel_size=3, stride=2, padding=1)
            pooled.append(stage)
        return pooled
