"""CAM networks without their backbone: class maps, projection head, PCM (docs/method.md §2).

SEAM's network and EPS's have the same layers and differ in what they do with them. Symbols are
those of docs/method.md: images X, class maps m, refined maps m̂, projected features f; N images,
C channels of a map (the background included), K' channels asked for, D channels of a feature.
"""

import torch
import torch.nn.functional as F
from torch import nn

from network.backbone import Backbone
from network.pcm_additions import ChangeMaps
from tool.method.maps import resize, spatial_size
from voc12.classes import NUM_CLASSES

PROJECTION_DIM = 128  # channels of f
# The PCM's features g are made of the image, of f8_3(conv4) and of f8_4(conv5).
IMAGE_DIM = 3  # channels of the image
LOW_DIM = 64  # channels of f8_3
HIGH_DIM = 128  # channels of f8_4
CORRELATION_DIM = 192  # channels of g
SLAB = 1 << 23  # affinities that inference holds at once (32 MB of float32)


def pcm_input(cam: torch.Tensor, bg_index: int) -> torch.Tensor:
    """m̄, the maps that the PCM spreads, [N, C, h, w], without gradient (docs/method.md §2.1).

        μ_c = ReLU(a_c − ε) / (max a_c + ε)        a = ReLU(m)
        m̄_b = 1 − max_k μ_k        m̄_k = μ_k where it is the maximum over the classes, else 0

    Args:
        cam: m, class maps [N, C, h, w].
        bg_index: b, the background's channel.
    """
    maps = F.relu(cam.detach().float())  # a; in 16 bits classes would tie for a pixel
    highest = maps.amax((2, 3), keepdim=True)
    scaled = F.relu(maps - 1e-5) / (highest + 1e-5)  # μ
    # compared on the device: to write False into a mask would copy it from the host
    channel_numbers = torch.arange(cam.shape[1], device=cam.device)
    is_foreground = (channel_numbers != bg_index).view(1, -1, 1, 1)
    foreground = scaled * is_foreground
    strongest = foreground.amax(1, keepdim=True)  # max_k μ_k
    strongest_only = foreground * (foreground == strongest)
    return torch.where(is_foreground, strongest_only, 1 - strongest)


def correlate(maps: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
    """m̂, maps spread over pixels with similar features, [N, C, h, w] (docs/method.md §2.1).

        A_{u',u} = ReLU(ḡ_u'ᵀ ḡ_u)        ḡ_u = g_u / (‖g_u‖ + ε)
        m̂_{c,u} = Σ_u' m̄_{c,u'} A_{u',u} / (Σ_u' A_{u',u} + ε)

    Without gradient the whole of A, [h·w, h·w], is never held: a slab of its columns is made, used
    and dropped before the next.

    Args:
        maps: m̄, [N, C, h, w]; C may be any number of channels.
        feature: g, [N, D, h, w].
    """
    n, channels, h, w = maps.shape
    feature = feature.flatten(2)
    feature = feature / (feature.norm(dim=1, keepdim=True) + 1e-5)  # ḡ, [N, D, h·w]
    rows = feature.transpose(1, 2)  # [N, h·w, D]
    # one more map, of ones, gives the sums of the columns
    ones = maps.new_ones(n, 1, h * w)
    maps = torch.cat([maps.flatten(2), ones], 1)  # [N, C + 1, h·w]
    if torch.is_grad_enabled():
        columns = h * w
    else:
        columns = max(1, SLAB // (n * h * w))
    slabs = []
    for part in feature.split(columns, dim=2):
        slabs.append(maps @ F.relu(rows @ part, inplace=True))
    spread, sums = torch.cat(slabs, 2).split(channels, 1)
    return (spread / (sums + 1e-5)).view(n, channels, h, w)


class CamHeads(Backbone):
    """The layers on top of the backbone that SEAM's and EPS's networks share (docs/method.md §2.1).

        m = fc8(fea)        f = ReLU(projection(fea))        g = f9([X, f8_3(conv4), f8_4(conv5)])

    fea is conv6, with dropout in SEAM's network. X is resized to h × w, f8_3 and f8_4 are followed
    by ReLU, and the PCM computes m̂ from m and g.

    A network inherits from SeamHeads or EpsHeads first and from its backbone second.
    """

    def make_heads(self, projection: str, bg_index: int, num_classes: int) -> None:
        """Make the heads; the backbone has to be made before.

        Args:
            projection: the projection head's attribute, which is also its key in checkpoints.
            bg_index: b, the channel of the background in every map.
            num_classes: C, the channels of every map, the background included.
        """
        self.projection = projection
        self.bg_index = bg_index
        conv4 = self.channels['conv4']
        conv5 = self.channels['conv5']
        conv6 = self.channels['conv6']
        concatenated = IMAGE_DIM + LOW_DIM + HIGH_DIM
        self.fc8 = nn.Conv2d(conv6, num_classes, kernel_size=1, bias=False)
        projection_head = nn.Conv2d(conv6, PROJECTION_DIM, kernel_size=1, bias=False)
        setattr(self, projection, projection_head)
        self.f8_3 = nn.Conv2d(conv4, LOW_DIM, kernel_size=1, bias=False)
        self.f8_4 = nn.Conv2d(conv5, HIGH_DIM, kernel_size=1, bias=False)
        self.f9 = nn.Conv2d(concatenated, CORRELATION_DIM, kernel_size=1, bias=False)
        nn.init.xavier_uniform_(self.fc8.weight)
        nn.init.xavier_uniform_(projection_head.weight)
        nn.init.kaiming_normal_(self.f8_3.weight)
        nn.init.kaiming_normal_(self.f8_4.weight)
        nn.init.xavier_uniform_(self.f9.weight, gain=4)

    def new_layers(self) -> list[nn.Module]:
        """The layers that ImageNet weights do not have."""
        return [self.fc8, getattr(self, self.projection), self.f8_3, self.f8_4, self.f9]

    def project(self, feature: torch.Tensor) -> torch.Tensor:
        """f, projected features [N, 128, h, w], at least 0, of fea [N, channels of conv6, h, w]."""
        projection_head = getattr(self, self.projection)
        return F.relu(projection_head(feature))

    def cam_and_taps(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """m, [N, C, h, w], and the taps that the PCM needs: what inference begins with.

        conv6, the largest tap, is not among them, and so its memory can be freed.
        """
        taps = self.features(x)
        cam = self.fc8(taps.pop('conv6'))
        return cam, taps

    def pcm_feature(self, x: torch.Tensor, taps: dict[str, torch.Tensor]) -> torch.Tensor:
        """g, the features [N, 192, h, w] whose similarity is the PCM's affinity.

        Args:
            x: X, images [N, 3, H, W].
            taps: of these images; no gradient reaches them.
        """
        small = resize(x, spatial_size(taps['conv5']))
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
        """m̂, the maps refined by the PCM, at feature size.

        Args:
            x: X, images [N, 3, H, W].
            taps: of these images.
            cam: m, [N, C, h, w]. All its channels decide what the PCM starts from.
            channels: [K'], the channels to return; None returns all.
        Returns:
            [N, C, h, w], or [N, K', h, w].
        """
        maps = pcm_input(cam, self.bg_index)
        if channels is not None:
            maps = maps[:, channels]
        return correlate(maps, self.pcm_feature(x, taps))


class SeamHeads(CamHeads):
    """The heads of SEAM's network; the background is channel 0 (docs/method.md §2.1)."""

    def add_heads(self, projection: str = 'fc_proj', num_classes: int = NUM_CLASSES) -> None:
        """Make the heads; the arguments are those of `make_heads`."""
        self.make_heads(projection, bg_index=0, num_classes=num_classes)
        self.dropout7 = nn.Dropout2d(0.5)

    def forward(
        self, x: torch.Tensor, upsample: bool = True, classify: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Maps and projected features of normalised images.

        Args:
            x: X, images [N, 3, H, W].
            upsample: resize cam and cam_rv to H × W; otherwise they stay at feature size, h × w.
            classify: compute and return only the spatial mean of cam, [N, C], for training with
                the classification loss alone.
        Returns:
            cam: m, class maps [N, C, H, W].
            cam_rv: m̂, refined maps [N, C, H, W], at least 0.
            f_proj: f, projected features [N, 128, h, w], at least 0.
            cam_rv_down: m̂ at feature size, [N, C, h, w].
        """
        taps = self.features(x)
        feature = self.dropout7(taps['conv6'])  # fea
        if classify:
            return self.fc8(feature).mean((2, 3))
        cam = self.fc8(feature)
        f_proj = self.project(feature)
        cam_rv_down = self.refine(x, taps, cam)
        if not upsample:
            return cam, cam_rv_down, f_proj, cam_rv_down
        size = spatial_size(x)
        return resize(cam, size), resize(cam_rv_down, size), f_proj, cam_rv_down

    def forward_cam_rv(
        self,
        x: torch.Tensor,
        channels: torch.Tensor,
        change_maps: ChangeMaps | None = None,
    ) -> torch.Tensor:
        """m̂ of some channels at the size of the images, [N, K', H, W]: what inference needs.

        Args:
            x: X, images [N, 3, H, W].
            channels: [K'], the channels to return.
            change_maps: applied to the class maps before the PCM (network/pcm_additions.py); None
                changes nothing, as published.
        """
        cam, taps = self.cam_and_taps(x)
        if change_maps is not None:
            cam = change_maps(cam)
        cam_rv = self.refine(x, taps, cam, channels)
        return resize(cam_rv, spatial_size(x))


class EpsHeads(CamHeads):
    """The heads of EPS's network; the background is the last channel (docs/method.md §2.2)."""

    def add_heads(self, projection: str = 'proj_fc', num_classes: int = NUM_CLASSES) -> None:
        """Make the heads; the arguments are those of `make_heads`."""
        self.make_heads(projection, bg_index=num_classes - 1, num_classes=num_classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Class scores, maps and projected features of normalised images, all at feature size.

        Args:
            x: X, images [N, 3, H, W].
        Returns:
            pred: the spatial mean of cam, [N, C].
            cam: m, class maps [N, C, h, w].
            pred_rv: the spatial mean of cam_rv, [N, C].
            cam_rv: m̂, refined maps [N, C, h, w], at least 0.
            f_proj: f, projected features [N, 128, h, w], at least 0.
        """
        taps = self.features(x)
        feature = taps['conv6']  # fea
        cam = self.fc8(feature)
        cam_rv = self.refine(x, taps, cam)
        pred = cam.mean((2, 3))
        pred_rv = cam_rv.mean((2, 3))
        f_proj = self.project(feature)
        return pred, cam, pred_rv, cam_rv, f_proj

    def forward_cam(self, x: torch.Tensor) -> torch.Tensor:
        """m, [N, C, h, w], without the PCM: what inference needs."""
        cam, _ = self.cam_and_taps(x)
        return cam
