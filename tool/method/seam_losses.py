"""SEAM's losses as pure functions (method §3.1, §3.2); EPS takes them over, all but the spatial
means of `seam_loss`.

Maps are [N, 21, h, w] with the background in channel `bg_index` (0 for SEAM, 20 for EPS), image
labels are multi-hot [N, 20]. After × label only a picture's own classes are non-zero, so where
`max_classes` tells how many a picture has at most, only those channels are upsampled and compared:
the result is the same, and nothing waits for the device.
"""

import torch
import torch.nn.functional as F

from tool.method.maps import resize, scale_maps, split, with_background


def _spread_mean(maps: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
    """Spatial mean [N, C] of the maps upsampled to `size`: a fixed weighted mean of the small map,
    nothing is upsampled."""
    if size is None:
        return maps.mean((2, 3))
    rows, columns = (
        F.interpolate(
            torch.eye(small, device=maps.device, dtype=maps.dtype)[None],
            big,
            mode='linear',
            align_corners=True,
        )[0].mean(1)
        for small, big in zip(maps.shape[2:], size)
    )
    return torch.einsum('nchw,h,w->nc', maps, rows, columns)


def _own_classes(label: torch.Tensor, max_classes: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels [N, K, 1, 1] that hold each picture's classes and their label [N, K, 1, 1] (0 for
    padding)."""
    value, index = label.topk(max_classes or label.shape[1], dim=1)
    return index[..., None, None], value[..., None, None]


def _gather(foreground: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return foreground.gather(1, index.expand(-1, -1, *foreground.shape[2:]))


def classification_loss(pred: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Multi-label soft margin loss of class scores [N, 20]."""
    return F.multilabel_soft_margin_loss(pred, label)


def rvmin_loss(
    cam_rv: torch.Tensor,
    label: torch.Tensor,
    *,
    bg_index: int = 0,
    size: tuple[int, int] = None,
    max_classes: int = None,
) -> torch.Tensor:
    """Mean, over the quarter of the pixels where the strongest labelled class is weakest, of ReLU
    of it (method §3.2)."""
    index, own = _own_classes(label, max_classes)
    maps = resize(_gather(split(cam_rv, bg_index)[1], index) * own, size)
    strongest = maps.amax(1)
    if maps.shape[1] < label.shape[1]:
        strongest = strongest.clamp(min=0)  # a class that is absent has a map of zeros
    strongest = strongest.flatten(1)
    weakest = strongest.topk(strongest.shape[1] // 4, largest=False, sorted=False).values
    return F.relu(weakest).mean()


def consistency_losses(
    cam1: torch.Tensor,
    cam_rv1: torch.Tensor,
    cam2: torch.Tensor,
    cam_rv2: torch.Tensor,
    label: torch.Tensor,
    *,
    bg_index: int = 0,
    size1: tuple[int, int] = None,
    size2: tuple[int, int] = None,
    max_classes: int = None,
    top_share: float = 0.2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equivariance losses (er, ecr) of method §3.2, compared at view 2's size.

    Q1: the published EPS code takes its one-hot maximum over channels 1…20 although its background
    is channel 20; here the maximum is over the foreground channels whichever the background is.

    Args:
        size1, size2: the maps are first upsampled to these (H, W); None takes them as they are.
        top_share: share of all 21·H·W differences of a picture that ecr averages.
    """
    index, own = _own_classes(label, max_classes)
    height, width = target = size2 or cam2.shape[2:]

    def foreground(maps, size):
        return (
            resize(scale_maps(resize(_gather(split(maps, bg_index)[1], index), size)), target) * own
        )

    def all_channels(maps, size):
        background = resize(scale_maps(resize(split(maps, bg_index)[0], size)), target)
        return with_background(foreground(maps, size), background, bg_index)

    def one_hot(maps):
        maps = maps.detach()
        strongest = maps.amax(1, keepdim=True)
        return with_background(maps * (maps == strongest), 1 - strongest, bg_index)

    def top_mean(difference):
        count = int(cam1.shape[1] * height * width * top_share)
        difference = difference.abs().flatten(1)
        if difference.shape[1] > count:
            difference = difference.topk(count, sorted=False).values
        return difference.sum() / (len(difference) * count)  # what is not there would be zeros

    first, second = foreground(cam1, size1), foreground(cam2, size2)
    er = (first - second).abs().sum() / (label.numel() * height * width)
    ecr = top_mean(one_hot(second) - all_channels(cam_rv1, size1)) + top_mean(
        one_hot(first) - all_channels(cam_rv2, size2)
    )
    return er, ecr


def seam_loss(
    cam1: torch.Tensor,
    cam_rv1: torch.Tensor,
    cam2: torch.Tensor,
    cam_rv2: torch.Tensor,
    label: torch.Tensor,
    *,
    size1: tuple[int, int] = None,
    size2: tuple[int, int] = None,
    max_classes: int = None,
) -> dict[str, torch.Tensor]:
    """SEAM's losses on two views (method §3.2).

    Args:
        cam1, cam_rv1: maps of view 1 [N, 21, h, w]; cam2, cam_rv2: of view 2. Either already at the
            views' own size, or at feature size with the views' sizes in `size1` and `size2`, which
            gives the same values and is much faster.
        label: [N, 20].
        max_classes: no picture has more classes than this (None: not known, all 20 channels are
            computed).
    Returns:
        'loss_cls', 'loss_er', 'loss_ecr'.
    """
    cls, rvmin = 0, 0
    for cam, cam_rv, size in ((cam1, cam_rv1, size1), (cam2, cam_rv2, size2)):
        cls = cls + classification_loss(_spread_mean(cam[:, 1:], size), label)
        rvmin = rvmin + rvmin_loss(cam_rv, label, size=size, max_classes=max_classes)
    er, ecr = consistency_losses(
        cam1, cam_rv1, cam2, cam_rv2, label, size1=size1, size2=size2, max_classes=max_classes
    )
    return {'loss_cls': cls / 2 + rvmin / 2, 'loss_er': er, 'loss_ecr': ecr}
