"""AffinityNet without its backbone: affinities of nearby pixel pairs (method §2.3)."""

import torch
import torch.nn.functional as F
from torch import nn

from network.backbone import Backbone
from tool.method.affinity import RADIUS, dense_affinity, pair_offsets, pair_radius, shifted

CHANNELS = (64, 128, 256)  # of what is taken from conv4, conv5 and conv6


class AffinityHeads(Backbone):
    """Pair affinities exp(−mean over channels |f_i − f_j|) on features of three depths, at output
    stride 8.

    Stands before the backbone in a network's bases.
    """

    def add_heads(self, mixed: tuple[int, int, int] = CHANNELS) -> None:
        """Make the heads, once the backbone is made; `mixed`: the channels taken from each
        depth."""
        self.f8_3 = nn.Conv2d(self.channels['conv4'], mixed[0], 1, bias=False)
        self.f8_4 = nn.Conv2d(self.channels['conv5'], mixed[1], 1, bias=False)
        self.f8_5 = nn.Conv2d(self.channels['conv6'], mixed[2], 1, bias=False)
        self.f9 = nn.Conv2d(sum(mixed), sum(mixed), 1, bias=False)
        for head in (self.f8_3, self.f8_4, self.f8_5):
            nn.init.kaiming_normal_(head.weight)
        nn.init.xavier_uniform_(self.f9.weight, gain=4)

    def new_layers(self) -> list[nn.Module]:
        """The layers that ImageNet weights do not have."""
        return [self.f8_3, self.f8_4, self.f8_5, self.f9]

    def forward(self, x: torch.Tensor, to_dense: bool = False) -> torch.Tensor:
        """Affinities of a normalised image [N, 3, H, W], with h = ceil(H/8), w = ceil(W/8).

        Returns:
            The pairs [N, 34, (h−4)(w−8)], values in (0, 1]; fewer offsets where min(h, w) < 11.
            With `to_dense` (N = 1, tests and tools) the symmetric matrix [h·w, h·w], 1 on the
            diagonal and 0 where there is no pair.
        """
        taps = self.features(x)
        mixed = torch.cat(
            [
                F.elu(self.f8_3(taps['conv4'])),
                F.elu(self.f8_4(taps['conv5'])),
                F.elu(self.f8_5(taps['conv6'])),
            ],
            dim=1,
        )
        feature = F.elu(self.f9(mixed))
        # differences of 16-bit features would lose most of their digits
        pairs = pair_affinity(feature.float())
        if to_dense:
            return dense_affinity(pairs[0], feature.shape[2], feature.shape[3])
        return pairs


def pair_affinity(feature: torch.Tensor) -> torch.Tensor:
    """exp(−mean |f_i − f_j|) of all pairs of a feature map [N, C, h, w] → [N, offsets, pixels]."""
    radius = pair_radius(feature.shape[2], feature.shape[3], RADIUS)
    start = shifted(feature, radius)
    # offset by offset on views: gathering all pairs at once would copy the features 34 times
    distances = []
    for dy, dx in pair_offsets(radius):
        difference = start - shifted(feature, radius, dy, dx)
        distances.append(difference.abs().mean(1).flatten(1))
    if not distances:
        return feature.new_ones(len(feature), 0, start[0, 0].numel())
    return torch.exp(-torch.stack(distances, 1))
