"""SEAM's losses as pure functions of tensors (docs/method.md §3.1, §3.2).

EPS takes over the classification, rvmin and consistency losses; its own saliency loss is in
eps_losses.py.

Symbols: m and m̂ are class maps and refined maps [N, C, h, w] (C = K + 1 channels, the background in
channel `bg_index`), y are image labels [N, K], multi-hot. After m · y only a picture's own classes
are non-zero. So where `max_classes` tells how many classes a picture has at most, only these
channels are resized and compared. The values are the same, and nothing waits for the device.
"""

import torch
import torch.nn.functional as F

from tool.method.maps import ViewMaps, resize, scale_maps, spatial_size, split, with_background

Size = tuple[int, int]  # (height, width)

# the share of a picture's differences, over all channels, that ecr counts: the largest ones
ECR_SHARE = 0.2


def classification_loss(pred: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Multi-label soft margin loss: −mean of y log σ(x) + (1 − y) log(1 − σ(x)).

    Args:
        pred: class scores x [N, K], without the background.
        label: y [N, K].
    """
    return F.multilabel_soft_margin_loss(pred, label)


def mean_of_resized(maps: torch.Tensor, size: Size | None) -> torch.Tensor:
    """Spatial mean [N, C] that the maps [N, C, h, w] would have after `resize` to `size`.

    Resizing is linear in rows and in columns. So the mean is a weighted mean of the small map, and
    nothing is resized: mean = Σ_hw m[h, w] · a[h] · b[w].
    """
    if size is None:
        return maps.mean((2, 3))
    row_weights = _share_of_each_cell(maps, maps.shape[2], size[0])
    column_weights = _share_of_each_cell(maps, maps.shape[3], size[1])
    return torch.einsum('nchw,h,w->nc', maps, row_weights, column_weights)


def _share_of_each_cell(maps: torch.Tensor, cells: int, length: int) -> torch.Tensor:
    """Weights [cells] of the cells of a line in the mean of the line resized to `length`."""
    unit_lines = torch.eye(cells, device=maps.device, dtype=maps.dtype)[None]
    resized = F.interpolate(unit_lines, length, mode='linear', align_corners=True)[0]
    return resized.mean(1)


def own_classes(label: torch.Tensor, max_classes: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The foreground channels of each picture's own classes.

    Args:
        label: y [N, K].
        max_classes: L, no picture has more classes than this; None takes all K.
    Returns:
        Channel numbers [N, L, 1, 1], and the label of these channels [N, L, 1, 1]. A picture with
        fewer classes than L gets channels with label 0 besides.
    """
    value, index = label.topk(max_classes or label.shape[1], dim=1)
    return index[..., None, None], value[..., None, None]


def take_channels(foreground: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The channels [N, L, h, w] that `own_classes` names, of foreground maps [N, K, h, w]."""
    return foreground.gather(1, index.expand(-1, -1, *foreground.shape[2:]))


def rvmin_loss(
    cam_rv: torch.Tensor,
    label: torch.Tensor,
    *,
    bg_index: int = 0,
    size: Size | None = None,
    max_classes: int | None = None,
) -> torch.Tensor:
    """SEAM's rvmin: refined maps should be low somewhere in every picture (docs/method.md §3.2).

        z = max_k m̂_k y_k over the foreground classes k

    The loss is the mean of ReLU(z) over B, the quarter of the pixels with the smallest z.

    Args:
        cam_rv: m̂, refined maps [N, C, h, w].
        label: y [N, K].
        size: the maps are first resized to this (H, W); None takes them as they are.
        max_classes: see `own_classes`.
    """
    _, foreground = split(cam_rv, bg_index)
    index, label_of_channel = own_classes(label, max_classes)
    maps = resize(take_channels(foreground, index) * label_of_channel, size)
    strongest = maps.amax(1)  # z, [N, H, W]
    if maps.shape[1] < label.shape[1]:
        # the channels that were not taken are zeros, and would be in this maximum
        strongest = strongest.clamp(min=0)
    strongest = strongest.flatten(1)
    quarter = strongest.shape[1] // 4
    weakest = strongest.topk(quarter, largest=False, sorted=False).values  # of the pixels B
    return F.relu(weakest).mean()


def consistency_losses(
    view1: ViewMaps,
    view2: ViewMaps,
    label: torch.Tensor,
    *,
    bg_index: int = 0,
    size1: Size | None = None,
    size2: Size | None = None,
    max_classes: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """SEAM's equivariance losses er and ecr between two views (docs/method.md §3.2).

        eᵛ = norm(mᵛ) · ỹ        êᵛ = norm(m̂ᵛ) · ỹ        both at view 2's size
        L_er = mean |e¹ − e²| over the K foreground channels
        L_ecr = topmean |onehot(e²) − ê¹| + topmean |onehot(e¹) − ê²|

    onehot(e) keeps the strongest foreground class of each pixel, and its background is 1 − max e;
    it has no gradient. topmean is the mean of a picture's largest differences over all C channels,
    of the share `ECR_SHARE` of them.

    Q1: the published EPS code takes this maximum over channels 1…K although its background is
    channel K. Here it is over the foreground channels, whichever the background is.

    Args:
        view1, view2: m and m̂ of the views, `cam` and `cam_rv`; f is not used.
        label: y [N, K].
        size1, size2: the maps are first resized to these (H, W); None takes them as they are.
        max_classes: see `own_classes`.
    Returns:
        (L_er, L_ecr), scalars.
    """
    target = size2 or spatial_size(view2.cam)
    height, width = target
    channels = view1.cam.shape[1]
    index, label_of_channel = own_classes(label, max_classes)

    def scaled(maps: torch.Tensor, size: Size | None) -> torch.Tensor:
        return resize(scale_maps(resize(maps, size)), target)

    def scaled_foreground(maps: torch.Tensor, size: Size | None) -> torch.Tensor:
        _, foreground = split(maps, bg_index)
        return scaled(take_channels(foreground, index), size) * label_of_channel

    def scaled_stack(maps: torch.Tensor, size: Size | None) -> torch.Tensor:
        background, _ = split(maps, bg_index)
        return with_background(scaled_foreground(maps, size), scaled(background, size), bg_index)

    def one_hot(foreground: torch.Tensor) -> torch.Tensor:
        foreground = foreground.detach()
        strongest = foreground.amax(1, keepdim=True)
        kept = foreground * (foreground == strongest)
        return with_background(kept, 1 - strongest, bg_index)

    def top_mean(difference: torch.Tensor) -> torch.Tensor:
        count = int(channels * height * width * ECR_SHARE)  # r
        counted = difference.abs().flatten(1)  # of a picture a row
        if counted.shape[1] > count:
            counted = counted.topk(count, sorted=False).values
        # A row may be shorter than `count`, because only L channels were taken. The differences of
        # the other channels are 0: they add nothing to the sum, but count in the mean.
        return counted.sum() / (len(counted) * count)

    e1 = scaled_foreground(view1.cam, size1)
    e2 = scaled_foreground(view2.cam, size2)
    er = (e1 - e2).abs().sum() / (label.numel() * height * width)
    ecr1 = top_mean(one_hot(e2) - scaled_stack(view1.cam_rv, size1))
    ecr2 = top_mean(one_hot(e1) - scaled_stack(view2.cam_rv, size2))
    return er, ecr1 + ecr2


def seam_loss(
    view1: ViewMaps,
    view2: ViewMaps,
    label: torch.Tensor,
    *,
    size1: Size | None = None,
    size2: Size | None = None,
    max_classes: int | None = None,
) -> dict[str, torch.Tensor]:
    """SEAM's losses on two views, the background in channel 0 (docs/method.md §3.2).

    loss_cls = (cls_1 + cls_2) / 2 + (rvmin_1 + rvmin_2) / 2; er and ecr: `consistency_losses`.

    Args:
        view1, view2: m and m̂ of the views, `cam` and `cam_rv`; f is not used.
        label: y [N, K].
        size1, size2: (H, W) of the views. Give the maps at feature size and these sizes: that has
            the values of maps that were resized to the views before, and is much faster. None: the
            maps have the views' sizes already.
        max_classes: no picture has more classes than this; None: not known.
    Returns:
        Scalars 'loss_cls', 'loss_er', 'loss_ecr'.
    """
    cls1 = classification_loss(mean_of_resized(view1.cam[:, 1:], size1), label)
    cls2 = classification_loss(mean_of_resized(view2.cam[:, 1:], size2), label)
    rvmin1 = rvmin_loss(view1.cam_rv, label, size=size1, max_classes=max_classes)
    rvmin2 = rvmin_loss(view2.cam_rv, label, size=size2, max_classes=max_classes)
    er, ecr = consistency_losses(
        view1, view2, label, size1=size1, size2=size2, max_classes=max_classes
    )
    return {
        'loss_cls': (cls1 + cls2) / 2 + (rvmin1 + rvmin2) / 2,
        'loss_er': er,
        'loss_ecr': ecr,
    }
