"""CAM networks without their backbone: class map fc8, projection head, pixel correlation module;
SEAM's and EPS's (method §2)."""

import torch
import torch.nn.functional as F
from torch import nn

from network.backbone import Backbone
from network.pcm_additions import ChangeMaps
from voc12.classes import NUM_CLASSES

PROJECTION_DIM = 128
SLAB = 1 << 23  # affinity entries held at once in inference (32 MB of float32)


def pcm_input(cam: torch.Tensor, bg_index: int) -> torch.Tensor:
    """m̄, the maps that the PCM spreads, [N, C, h, w], without gradient (docs/method.md §2.1).

        μ_c = ReLU(a_c − ε) / (max a_c + ε)        a = ReLU(m)
        m̄_b = 1 − max_k μ_k        m̄_k = μ_k where it is the maximum over the classes, else 0

    Args:
        cam: m, class maps [N, C, h, w].
        bg_index: b, the background's channel.
    """
    maps = F.relu(cam.detach().float())  # in 16 bits classes would tie for a pixel
    scaled = F.relu(maps - 1e-5) / (maps.amax((2, 3), keepdim=True) + 1e-5)
    is_foreground = torch.ones(cam.shape[1], dtype=torch.bool, device=cam.device)
    is_foreground[bg_index] = False
    is_foreground = is_foreground.view(1, -1, 1, 1)
    foreground = scaled * is_foreground
    strongest = foreground.amax(1, keepdim=True)
    strongest_only = foreground * (foreground == strongest)
    return torch.where(is_foreground, strongest_only, 1 - strongest)


def correlate(maps: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
    """Spread maps [N, C, h, w] over similar pixels: maps · A, A = ReLU(fᵀf) with columns divided by
    their sum + 1e-5.

    `feature` [N, D, h, w] is L2-normalised here. Without gradient the hw × hw affinity is never
    held: slabs of its columns are made, used and dropped.
    """
    n, channels, h, w = maps.shape
    feature = feature.flatten(2)
    feature = feature / (feature.norm(dim=1, keepdim=True) + 1e-5)
    rows = feature.transpose(1, 2)
    # a row of ones besides the maps gives the columns' sums
    maps = torch.cat([maps.flatten(2), maps.new_ones(n, 1, h * w)], 1)
    columns = h * w if torch.is_grad_enabled() else max(1, SLAB // (n * h * w))
    slabs = [maps @ F.relu(rows @ part, inplace=True) for part in feature.split(columns, dim=2)]
    spread, sums = torch.cat(slabs, 2).split(channels, 1)
    return (spread / (sums + 1e-5)).view(n, channels, h, w)


class CamHeads(Backbone):
    """fc8, a projection head of a given name, and the PCM's layers: stands before the backbone in a
    network's bases."""

    def make_heads(self, projection: str, bg_index: int, num_classes: int) -> None:
        """Make the heads, once the backbone is made.

        Args:
            projection: attribute (and checkpoint key) of the projection head.
            bg_index: channel of the background in every map.
            num_classes: channels C of every map, the background included.
        """
        self.projection = projection
        self.bg_index = bg_index
        conv6 = self.channels['conv6']
        self.fc8 = nn.Conv2d(conv6, num_classes, 1, bias=False)
        setattr(self, projection, nn.Conv2d(conv6, PROJECTION_DIM, 1, bias=False))
        self.f8_3 = nn.Conv2d(self.channels['conv4'], 64, 1, bias=False)
        self.f8_4 = nn.Conv2d(self.channels['conv5'], 128, 1, bias=False)
        self.f9 = nn.Conv2d(195, 192, 1, bias=False)
        nn.init.xavier_uniform_(self.fc8.weight)
        nn.init.xavier_uniform_(getattr(self, projection).weight)
        nn.init.kaiming_normal_(self.f8_3.weight)
        nn.init.kaiming_normal_(self.f8_4.weight)
        nn.init.xavier_uniform_(self.f9.weight, gain=4)

    def new_layers(self) -> list[nn.Module]:
        """The layers that ImageNet weights do not have."""
        return [self.fc8, getattr(self, self.projection), self.f8_3, self.f8_4, self.f9]

    def project(self, feature: torch.Tensor) -> torch.Tensor:
        """Projected features [N, 128, h, w], ≥ 0."""
        return F.relu(getattr(self, self.projection)(feature))

    def cam_and_taps(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """fc8 output [N, C, h, w], and the taps but conv6, the largest: what inference needs."""
        taps = self.features(x)
        cam = self.fc8(taps.pop('conv6'))
        return cam, taps

    def pcm_feature(self, x: torch.Tensor, taps: dict[str, torch.Tensor]) -> torch.Tensor:
        """f9 output [N, 192, h, w] that the correlation is computed on."""
        small = F.interpolate(x, taps['conv5'].shape[2:], mode='bilinear', align_corners=True)
        low = F.relu(self.f8_3(taps['conv4'].detach()), inplace=True)
        high = F.relu(self.f8_4(taps['conv5'].detach()), inplace=True)
        return self.f9(torch.cat([small, low, high], 1))

    def refine(
        self,
        x: torch.Tensor,
        taps: dict[str, torch.Tensor],
        cam: torch.Tensor,
        channels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """PCM-refined maps at feature size, [N, C, h, w], or [N, K', h, w] of the K' channels asked
        for."""
        maps = pcm_input(cam, self.bg_index)
        if channels is not None:
            maps = maps[:, channels]
        return correlate(maps, self.pcm_feature(x, taps))


class SeamHeads(CamHeads):
    """SEAM's network; the background is channel 0 (method §2.1)."""

    def add_heads(self, projection: str = 'fc_proj', num_classes: int = NUM_CLASSES) -> None:
        self.make_heads(projection, 0, num_classes)
        self.dropout7 = nn.Dropout2d(0.5)

    def forward(self, x: torch.Tensor, upsample: bool = True, classify: bool = False):
        """Maps and projected features of normalised images x [N, 3, H, W].

        Returns:
            cam [N, C, H, W]: fc8 output (at feature size (h, w) when `upsample` is False).
            cam_rv [N, C, H, W]: PCM-refined maps, ≥ 0 (likewise).
            f_proj [N, 128, h, w].
            cam_rv_down [N, C, h, w].
        With `classify` only the spatial mean [N, C] of cam is computed and returned (plain
        classification training).
        """
        taps = self.features(x)
        feature = self.dropout7(taps['conv6'])
        if classify:
            return self.fc8(feature).mean((2, 3))
        cam = self.fc8(feature)
        f_proj = self.project(feature)
        cam_rv_down = self.refine(x, taps, cam)
        if not upsample:
            return cam, cam_rv_down, f_proj, cam_rv_down
        cam_rv = F.interpolate(cam_rv_down, x.shape[2:], mode='bilinear', align_corners=True)
        cam = F.interpolate(cam, x.shape[2:], mode='bilinear', align_corners=True)
        return cam, cam_rv, f_proj, cam_rv_down

    def forward_cam_rv(
        self,
        x: torch.Tensor,
        channels: torch.Tensor,
        change_maps: ChangeMaps | None = None,
    ) -> torch.Tensor:
        """cam_rv [N, K', H, W] of some channels [K'] only: what inference needs.

        `change_maps` is applied to the class maps before the PCM (network/pcm_additions.py); None:
        as published.
        """
        cam, taps = self.cam_and_taps(x)
        if change_maps is not None:
            cam = change_maps(cam)
        cam_rv = self.refine(x, taps, cam, channels)
        return F.interpolate(cam_rv, x.shape[2:], mode='bilinear', align_corners=True)


class EpsHeads(CamHeads):
    """EPS's network; the background is the last channel, of VOC number 20 (method §2.2)."""

    def add_heads(self, projection: str = 'proj_fc', num_classes: int = NUM_CLASSES) -> None:
        self.make_heads(projection, num_classes - 1, num_classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Class scores, maps and projected features of normalised images x [N, 3, H, W], all at
        feature size (h, w).

        Returns:
            pred [N, C]: spatial mean of cam.
            cam [N, C, h, w]: fc8 output.
            pred_rv [N, C]: spatial mean of cam_rv.
            cam_rv [N, C, h, w]: PCM-refined maps, ≥ 0.
            f_proj [N, 128, h, w].
        """
        taps = self.features(x)
        cam = self.fc8(taps['conv6'])
        cam_rv = self.refine(x, taps, cam)
        return cam.mean((2, 3)), cam, cam_rv.mean((2, 3)), cam_rv, self.project(taps['conv6'])

    def forward_cam(self, x: torch.Tensor) -> torch.Tensor:
        """The fc8 map [N, C, h, w] alone: what inference needs (no PCM)."""
        return self.cam_and_taps(x)[0]
