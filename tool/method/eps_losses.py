"""EPS's own loss, of saliency maps, as a pure function (method §3.4); its other losses are those of
seam_losses.py."""

import torch
import torch.nn.functional as F


def eps_loss(
    cam: torch.Tensor,
    saliency: torch.Tensor,
    label: torch.Tensor,
    *,
    tau: float = 0.4,
    alpha: float = 0.5,
) -> torch.Tensor:
    """EPS's saliency loss for one map stack with the background last (method §3.4).

    Args:
        cam: [N, 21, h, w].
        saliency: [N, 1, H, W] in [0, 1].
        tau: a labelled class is foreground if more than this share of its area is salient, else
            it counts as background.
        alpha: weight of the foreground estimate against the background's.
    """
    saliency = F.interpolate(saliency, cam.shape[2:])
    probs = cam.softmax(1)
    foreground, background = probs[:, :-1], probs[:, -1:]
    with torch.no_grad():
        area = foreground.round()
        overlap = (area * saliency.round()).sum((2, 3)) / (area + 1e-4).sum((2, 3))
        salient = (overlap > tau).to(cam.dtype)
    inside = (foreground * (label * salient)[..., None, None]).sum(1, keepdim=True)
    outside = background + (foreground * (label * (1 - salient))[..., None, None]).sum(
        1, keepdim=True
    )
    return F.mse_loss(alpha * inside + (1 - alpha) * (1 - outside), saliency)
