"""This project's additions to SEAM's PCM in inference (docs/method.md §10.7, §10.8).

They are not in the paper. Both change the class maps before the PCM sees them, and neither is on by
default.
"""

from collections.abc import Callable

import torch

# A function of the class maps [N, C, h, w] of one pass of the network, of the same shape.
ChangeMaps = Callable[[torch.Tensor], torch.Tensor]


def is_channel(channels: torch.Tensor, count: int) -> torch.Tensor:
    """True where a channel is one of `channels`, [1, count, 1, 1].

    Args:
        channels: [any], numbers of channels.
        count: how many channels there are.
    """
    chosen = torch.zeros(count, dtype=torch.bool, device=channels.device)
    return chosen.index_fill(0, channels, True).view(1, -1, 1, 1)


def gate(cam: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """The class maps with all but the given channels at 0 (docs/method.md §10.7).

        μ_k ← y_k μ_k

    So an absent class can neither win a pixel in the PCM nor lower the background. The background's
    own map does not enter the PCM, and is set to 0 as well.

    Args:
        cam: m, class maps [N, C, h, w].
        channels: [K'], those of the picture's classes.
    """
    return torch.where(is_channel(channels, cam.shape[1]), cam, 0)


def lift(cam: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """The class maps with the minimum of the given channels moved to 0 (docs/method.md §10.8).

        m_k ← m_k − min m_k

    The PCM sees nothing of a class whose map is positive nowhere. Of a lifted map it sees where the
    class is least unlikely.

    Args:
        cam: m, class maps [N, C, h, w].
        channels: [any], those to lift.
    Returns:
        float32 [N, C, h, w].
    """
    cam = cam.float()
    lifted = cam - cam.amin((2, 3), keepdim=True)
    return torch.where(is_channel(channels, cam.shape[1]), lifted, cam)


def fill_empty(
    maps: torch.Tensor,
    channels: torch.Tensor,
    infer: Callable[[ChangeMaps], torch.Tensor],
) -> torch.Tensor:
    """Fused maps in which a map that is positive nowhere is inferred again (docs/method.md §10.8).

    The second inference lifts the class maps of the empty ones. Its PCM sees only the picture's
    classes: the others may be weak as well, and would win the pixels of a lifted map.

    Args:
        maps: G, fused maps [K', H, W] of the picture's classes.
        channels: [K'], their channels.
        infer: a function that takes a change of the class maps and makes fused maps [K', H, W].
    """
    empty = maps.amax((1, 2)) <= 0  # [K']
    if not empty.any():
        return maps
    empty_channels = channels[empty]

    def lift_and_gate(cam: torch.Tensor) -> torch.Tensor:
        return gate(lift(cam, empty_channels), channels)

    maps_of_lifted = infer(lift_and_gate)
    return torch.where(empty.view(-1, 1, 1), maps_of_lifted, maps)
