"""SEAM's CAM network with the projection head of the contrast loss; the background is channel 0 (method §2.1)."""
import torch
import torch.nn.functional as F
from torch import nn

from network.cam_net import CamNet


class Net(CamNet):
    """State-dict keys are those of the published checkpoints."""

    def __init__(self, width: float = 1.0, projection: str = 'fc_proj'):
        super().__init__(width, projection, bg_index=0)
        self.dropout7 = nn.Dropout2d(0.5)

    def forward(self, x: torch.Tensor, upsample: bool = True, classify: bool = False):
        """Maps and projected features of normalised images x [N, 3, H, W].

        Returns:
            cam [N, 21, H, W]: fc8 output (at feature size (h, w) when `upsample` is False).
            cam_rv [N, 21, H, W]: PCM-refined maps, ≥ 0 (likewise).
            f_proj [N, 128, h, w].
            cam_rv_down [N, 21, h, w].
        With `classify` only the spatial mean [N, 21] of cam is computed and returned (plain classification training).
        """
        taps = self.features(x)
        feature = self.dropout7(taps['conv6'])
        if classify:
            return self.fc8(feature).mean((2, 3))
        cam, f_proj = self.fc8(feature), self.project(feature)
        cam_rv_down = self.refine(x, taps, cam)
        if not upsample:
            return cam, cam_rv_down, f_proj, cam_rv_down
        cam_rv = F.interpolate(cam_rv_down, x.shape[2:], mode='bilinear', align_corners=True)
        return F.interpolate(cam, x.shape[2:], mode='bilinear', align_corners=True), cam_rv, f_proj, cam_rv_down

    def forward_cam_rv(self, x: torch.Tensor, classes: torch.Tensor, gate: bool = False) -> torch.Tensor:
        """cam_rv [N, K, H, W] of the K channels `classes` only: what inference needs; `gate`: see `refine`."""
        taps = self.features(x, head=self.fc8)
        cam_rv = self.refine(x, taps, taps['conv6'], classes, gate)
        return F.interpolate(cam_rv, x.shape[2:], mode='bilinear', align_corners=True)
