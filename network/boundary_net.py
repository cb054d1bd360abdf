"""IRN's boundary head without its backbone (docs/method.md §10.13)."""

import torch
import torch.nn.functional as F
from torch import nn

from network.backbone import Backbone
from tool.method.boundary import BOUNDARY_STRIDE
from tool.run.errors import UserError

SIDE_CHANNELS = 32  # that each depth is reduced to
SIDE_GROUPS = 4  # of the GroupNorm behind it
# Images are padded to a multiple of this, so that the maps of all depths cover the same pixels.
COARSEST_STRIDE = 16
# The attributes of the head; all others are the backbone's.
HEAD = ('sides', 'boundary')


class Side(nn.Module):
    """The features of one depth at stride 4: ReLU(up(GroupNorm(1×1 convolution))).

    Args:
        channels: of the depth.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, SIDE_CHANNELS, kernel_size=1, bias=False)
        self.norm = nn.GroupNorm(SIDE_GROUPS, SIDE_CHANNELS)

    def forward(self, depth: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The features of a depth, [N, channels, h', w'], at size (h, w): [N, 32, h, w]."""
        side = self.norm(self.conv(depth))
        side = F.interpolate(side, size, mode='bilinear', align_corners=False)
        return F.relu(side)


class BoundaryHead(Backbone):
    """The head that finds class boundaries, over several depths of a frozen backbone.

        B = σ(1×1 convolution([side of each depth]))

    The backbone is not trained: it stays in evaluation mode, and no gradient reaches it.

    A network inherits from this class first and from its backbone second.
    """

    frozen_layers = 'all layers of the backbone'

    def add_heads(self, channels: list[int]) -> None:
        """Make the head; the backbone has to be made before.

        Args:
            channels: of each of the `depths`.
        """
        self.sides = nn.ModuleList([Side(count) for count in channels])
        self.boundary = nn.Conv2d(SIDE_CHANNELS * len(channels), 1, kernel_size=1)
        self.freeze(True)

    def new_layers(self) -> list[nn.Module]:
        """The layers that ImageNet weights do not have."""
        return [self.sides, self.boundary]

    def depths(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The backbone's maps of images [N, 3, H, W], the shallowest first.

        H and W are multiples of 16. Maps are at most as large as [H/4, W/4].
        """
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the boundary, float32 [N, ceil(H/4), ceil(W/4)], of normalised images.

        Args:
            x: the images, [N, 3, H, W]; they are zero-padded on the right and below.
        """
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % COARSEST_STRIDE, 0, -height % COARSEST_STRIDE))
        size = (x.shape[2] // BOUNDARY_STRIDE, x.shape[3] // BOUNDARY_STRIDE)
        with torch.no_grad():
            depths = self.depths(x)
        sides = [side(depth, size) for side, depth in zip(self.sides, depths, strict=True)]
        logits = self.boundary(torch.cat(sides, 1))[:, 0]
        rows = -(-height // BOUNDARY_STRIDE)
        columns = -(-width // BOUNDARY_STRIDE)
        return logits[:, :rows, :columns].float()

    def freeze(self, frozen: bool) -> None:
        """Freeze the backbone, whatever `frozen` is."""
        for backbone_layer in self._backbone_layers():
            backbone_layer.requires_grad_(False)

    def train(self, mode: bool = True) -> 'BoundaryHead':
        """Set training mode, in which the backbone stays in evaluation mode."""
        super().train(mode)
        for backbone_layer in self._backbone_layers():
            backbone_layer.eval()
        return self

    def train_from_scratch(self) -> None:
        """Refuse: only the head is trained.

        Raises:
            UserError: always.
        """
        raise UserError(
            '--weights scratch: the boundary head needs a trained backbone; give ImageNet weights '
            'or a checkpoint of stage 1'
        )

    def _backbone_layers(self) -> list[nn.Module]:
        return [module for name, module in self.named_children() if name not in HEAD]
