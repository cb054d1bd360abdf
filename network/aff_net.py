"""AffinityNet without its backbone: affinities of nearby pixel pairs (docs/method.md §2.3)."""

import torch
import torch.nn.functional as F
from torch import nn

from network.backbone import Backbone
from tool.method.affinity import RADIUS, dense_affinity, pair_offsets, pair_radius, shifted

CHANNELS = (64, 128, 256)  # channels taken from conv4, conv5 and conv6


class AffinityHeads(Backbone):
    """The heads of AffinityNet: features g from three depths, and the affinities of their pairs.

        g = ELU(f9([ELU(f8_3(conv4)), ELU(f8_4(conv5)), ELU(f8_5(conv6))]))
        a_{u,u'} = exp(−1/D Σ_d |g_{d,u} − g_{d,u'}|)

    D is the number of channels of g, 448 in the published network. The taps conv4, conv5 and conv6
    are not detached, so the backbone is trained too.

    A network inherits from this class first and from its backbone second.
    """

    def add_heads(self, mixed: tuple[int, int, int] = CHANNELS) -> None:
        """Make the heads; the backbone has to be made before.

        Args:
            mixed: the channels taken from conv4, conv5 and conv6; D is their sum.
        """
        self.f8_3 = nn.Conv2d(self.channels['conv4'], mixed[0], kernel_size=1, bias=False)
        self.f8_4 = nn.Conv2d(self.channels['conv5'], mixed[1], kernel_size=1, bias=False)
        self.f8_5 = nn.Conv2d(self.channels['conv6'], mixed[2], kernel_size=1, bias=False)
        self.f9 = nn.Conv2d(sum(mixed), sum(mixed), kernel_size=1, bias=False)
        nn.init.kaiming_normal_(self.f8_3.weight)
        nn.init.kaiming_normal_(self.f8_4.weight)
        nn.init.kaiming_normal_(self.f8_5.weight)
        nn.init.xavier_uniform_(self.f9.weight, gain=4)

    def new_layers(self) -> list[nn.Module]:
        """The layers that ImageNet weights do not have."""
        return [self.f8_3, self.f8_4, self.f8_5, self.f9]

    def forward(self, x: torch.Tensor, to_dense: bool = False) -> torch.Tensor:
        """Affinities of normalised images [N, 3, H, W].

        Args:
            x: the images. Their feature maps are h × w with h = ceil(H/8) and w = ceil(W/8).
            to_dense: return a matrix instead of pairs; for tests and tools, with N = 1.
        Returns:
            The pairs a, [N, 34, (h−4)(w−8)], in (0, 1]. There are fewer offsets than 34 where
            min(h, w) < 11.
            With `to_dense` the symmetric matrix A, [h·w, h·w]: 1 on the diagonal and 0 where there
            is no pair.
        """
        taps = self.features(x)
        low = F.elu(self.f8_3(taps['conv4']))
        middle = F.elu(self.f8_4(taps['conv5']))
        high = F.elu(self.f8_5(taps['conv6']))
        feature = F.elu(self.f9(torch.cat([low, middle, high], dim=1)))  # g
        # differences of 16-bit features would lose most of their digits
        pairs = pair_affinity(feature.float())
        if to_dense:
            return dense_affinity(pairs[0], feature.shape[2], feature.shape[3])
        return pairs


def pair_affinity(feature: torch.Tensor) -> torch.Tensor:
    """Affinities a of all pairs of a feature map (docs/method.md §2.3).

        a_{u,u'} = exp(−1/D Σ_d |g_{d,u} − g_{d,u'}|)

    Args:
        feature: g, [N, D, h, w].
    Returns:
        a, [N, offsets, pixels], in the order of `tool.method.affinity`.
    """
    radius = pair_radius(feature.shape[2], feature.shape[3], RADIUS)
    start = shifted(feature, radius)  # the "from" pixels, [N, D, rows, columns]
    # The loop works on views. To gather all pairs at once would copy the features 34 times.
    distances = []
    for dy, dx in pair_offsets(radius):
        difference = start - shifted(feature, radius, dy, dx)
        distances.append(difference.abs().mean(1).flatten(1))
    if not distances:
        pixels = start.shape[2] * start.shape[3]
        return feature.new_ones(len(feature), 0, pixels)
    return torch.exp(-torch.stack(distances, 1))
