"""EPS's saliency loss as a pure function of tensors (docs/method.md §3.4); its other losses are
those of seam_losses.py."""

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
    """EPS's saliency loss for one stack of maps with the background last (docs/method.md §3.4).

    P = softmax(cam). A class k of the picture counts as foreground where
    Σ round(P_k) · round(s) / Σ (round(P_k) + 1e-4) > τ, else as background. Then
    M_fg = Σ P_k over the classes that count as foreground,
    M_bg = 1 − P_background − Σ P_k over the picture's other classes,
    loss = mean (α M_fg + (1 − α) M_bg − s)².

    Args:
        cam: [N, K + 1, h, w].
        saliency: s, [N, 1, H, W] in [0, 1]; it is resized to the maps (nearest pixel).
        label: y [N, K].
        tau: τ, the share of a class's area that has to be exceeded by what is salient of it.
        alpha: α, the weight of the foreground's estimate against the background's.
    """
    saliency = F.interpolate(saliency, cam.shape[2:])
    probs = cam.softmax(1)
    foreground = probs[:, :-1]
    background = probs[:, -1:]
    with torch.no_grad():
        area = foreground.round()
        salient_share = (area * saliency.round()).sum((2, 3)) / (area + 1e-4).sum((2, 3))
        is_salient = (salient_share > tau).to(cam.dtype)
    salient_classes = (label * is_salient)[..., None, None]
    other_classes = (label * (1 - is_salient))[..., None, None]
    inside = (foreground * salient_classes).sum(1, keepdim=True)
    outside = background + (foreground * other_classes).sum(1, keepdim=True)
    return F.mse_loss(alpha * inside + (1 - alpha) * (1 - outside), saliency)
