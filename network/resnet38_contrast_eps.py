"""EPS's CAM network with the projection head of the contrast loss; the background is channel 20, the last (method §2.2)."""
import torch

from network.cam_net import CamNet


class Net(CamNet):
    """State-dict keys are those of the published checkpoints."""

    def __init__(self, width: float = 1.0):
        super().__init__(width, 'proj_fc', bg_index=20)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Class scores, maps and projected features of normalised images x [N, 3, H, W], all at feature size (h, w).

        Returns:
            pred [N, 21]: spatial mean of cam.
            cam [N, 21, h, w]: fc8 output.
            pred_rv [N, 21]: spatial mean of cam_rv.
            cam_rv [N, 21, h, w]: PCM-refined maps, ≥ 0.
            f_proj [N, 128, h, w].
        """
        taps = self.features(x)
        cam = self.fc8(taps['conv6'])
        cam_rv = self.refine(x, taps, cam)
        return cam.mean((2, 3)), cam, cam_rv.mean((2, 3)), cam_rv, self.project(taps['conv6'])

    def forward_cam(self, x: torch.Tensor) -> torch.Tensor:
        """The fc8 map [N, 21, h, w] alone: what inference needs (no PCM)."""
        return self.features(x, head=self.fc8)['conv6']
