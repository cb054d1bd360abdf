"""The losses of the paper as pure functions: SEAM, EPS and the pixel-to-prototype contrast (method §3).

Maps are [N, 21, h, w] with the background in channel `bg_index` (0 for SEAM, 20 for EPS), image labels are multi-hot
[N, 20]. After × label only a picture's own classes are non-zero, so where `max_classes` tells how many a picture has at
most, only those channels are upsampled and compared: the result is the same, and nothing waits for the device.
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F

from voc12.classes import NUM_CLASSES, NUM_FOREGROUND


def _split(maps: torch.Tensor, bg_index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(background [N, 1, …], foreground [N, 20, …])."""
    return (maps[:, :1], maps[:, 1:]) if bg_index == 0 else (maps[:, bg_index:], maps[:, :bg_index])


def _with_background(foreground: torch.Tensor, background: torch.Tensor, bg_index: int) -> torch.Tensor:
    return torch.cat([background, foreground] if bg_index == 0 else [foreground, background], 1)


def _resize(maps: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
    if size is None or tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size, mode='bilinear', align_corners=True)


def _spread_mean(maps: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
    """Spatial mean [N, C] of the maps upsampled to `size`: a fixed weighted mean of the small map, nothing is upsampled."""
    if size is None:
        return maps.mean((2, 3))
    rows, columns = (
        F.interpolate(torch.eye(small, device=maps.device, dtype=maps.dtype)[None], big, mode='linear',
                      align_corners=True)[0].mean(1) for small, big in zip(maps.shape[2:], size))
    return torch.einsum('nchw,h,w->nc', maps, rows, columns)


def _own_classes(label: torch.Tensor, max_classes: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels [N, K, 1, 1] that hold each picture's classes and their label [N, K, 1, 1] (0 for padding)."""
    value, index = label.topk(max_classes or NUM_FOREGROUND, dim=1)
    return index[..., None, None], value[..., None, None]


def _gather(foreground: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return foreground.gather(1, index.expand(-1, -1, *foreground.shape[2:]))


def scale_maps(maps: torch.Tensor) -> torch.Tensor:
    """norm(p) of method §3.1: ReLU, then scaled to [0, 1) by each map's own spatial minimum and maximum."""
    maps = F.relu(maps)
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return F.relu(maps - low - 1e-5) / (high - low + 1e-5)


def classification_loss(pred: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Multi-label soft margin loss of class scores [N, 20]."""
    return F.multilabel_soft_margin_loss(pred, label)


def rvmin_loss(cam_rv: torch.Tensor, label: torch.Tensor, *, bg_index: int = 0, size: tuple[int, int] = None,
               max_classes: int = None) -> torch.Tensor:
    """Mean, over the quarter of the pixels where the strongest labelled class is weakest, of ReLU of it (method §3.2)."""
    index, own = _own_classes(label, max_classes)
    maps = _resize(_gather(_split(cam_rv, bg_index)[1], index) * own, size)
    strongest = maps.amax(1)
    if maps.shape[1] < NUM_FOREGROUND:
        strongest = strongest.clamp(min=0)  # a class that is absent has a map of zeros
    strongest = strongest.flatten(1)
    weakest = strongest.topk(strongest.shape[1] // 4, largest=False, sorted=False).values
    return F.relu(weakest).mean()


def consistency_losses(cam1: torch.Tensor, cam_rv1: torch.Tensor, cam2: torch.Tensor, cam_rv2: torch.Tensor,
                       label: torch.Tensor, *, bg_index: int = 0, size1: tuple[int, int] = None,
                       size2: tuple[int, int] = None, max_classes: int = None,
                       top_share: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    """Equivariance losses (er, ecr) of method §3.2, compared at view 2's size.

    Q1: the published EPS code takes its one-hot maximum over channels 1…20 although its background is channel 20; here the
    maximum is over the foreground channels whichever the background is.

    Args:
        size1, size2: the maps are first upsampled to these (H, W); None takes them as they are.
        top_share: share of all 21·H·W differences of a picture that ecr averages.
    """
    index, own = _own_classes(label, max_classes)
    height, width = target = size2 or cam2.shape[2:]

    def foreground(maps, size):
        return _resize(scale_maps(_resize(_gather(_split(maps, bg_index)[1], index), size)), target) * own

    def all_channels(maps, size):
        background = _resize(scale_maps(_resize(_split(maps, bg_index)[0], size)), target)
        return _with_background(foreground(maps, size), background, bg_index)

    def one_hot(maps):
        maps = maps.detach()
        strongest = maps.amax(1, keepdim=True)
        return _with_background(maps * (maps == strongest), 1 - strongest, bg_index)

    def top_mean(difference):
        count = int(NUM_CLASSES * height * width * top_share)
        difference = difference.abs().flatten(1)
        if difference.shape[1] > count:
            difference = difference.topk(count, sorted=False).values
        return difference.sum() / (len(difference) * count)  # what is not there would be zeros

    first, second = foreground(cam1, size1), foreground(cam2, size2)
    er = (first - second).abs().sum() / (len(label) * NUM_FOREGROUND * height * width)
    ecr = top_mean(one_hot(second) - all_channels(cam_rv1, size1)) + top_mean(one_hot(first) - all_channels(cam_rv2, size2))
    return er, ecr


def seam_loss(cam1: torch.Tensor, cam_rv1: torch.Tensor, cam2: torch.Tensor, cam_rv2: torch.Tensor, label: torch.Tensor, *,
              size1: tuple[int, int] = None, size2: tuple[int, int] = None,
              max_classes: int = None) -> dict[str, torch.Tensor]:
    """SEAM's losses on two views (method §3.2).

    Args:
        cam1, cam_rv1: maps of view 1 [N, 21, h, w]; cam2, cam_rv2: of view 2. Either already at the views' own size, or
            at feature size with the views' sizes in `size1` and `size2`, which gives the same values and is much faster.
        label: [N, 20].
        max_classes: no picture has more classes than this (None: not known, all 20 channels are computed).
    Returns:
        'loss_cls', 'loss_er', 'loss_ecr'.
    """
    cls, rvmin = 0, 0
    for cam, cam_rv, size in ((cam1, cam_rv1, size1), (cam2, cam_rv2, size2)):
        cls = cls + classification_loss(_spread_mean(cam[:, 1:], size), label)
        rvmin = rvmin + rvmin_loss(cam_rv, label, size=size, max_classes=max_classes)
    er, ecr = consistency_losses(cam1, cam_rv1, cam2, cam_rv2, label, size1=size1, size2=size2, max_classes=max_classes)
    return {'loss_cls': cls / 2 + rvmin / 2, 'loss_er': er, 'loss_ecr': ecr}


def eps_loss(cam: torch.Tensor, saliency: torch.Tensor, label: torch.Tensor, *, tau: float = 0.4,
             alpha: float = 0.5) -> torch.Tensor:
    """EPS's saliency loss for one map stack with the background last (method §3.4).

    Args:
        cam: [N, 21, h, w].
        saliency: [N, 1, H, W] in [0, 1].
        tau: a labelled class counts as foreground when at least this share of its area is salient, else as background.
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
    outside = background + (foreground * (label * (1 - salient))[..., None, None]).sum(1, keepdim=True)
    return F.mse_loss(alpha * inside + (1 - alpha) * (1 - outside), saliency)


# ---------------------------------------------------------------- pixel-to-prototype contrast (method §3.3)

@torch.no_grad()
def contrast_scores(cam_rv_down: torch.Tensor, bg_index: int, bg_threshold: float) -> torch.Tensor:
    """Scores s [N, 21, h, w]: scaled maps (the floor is slightly negative, as published), the background a constant."""
    scores = F.relu(cam_rv_down)
    low, high = scores.amin((2, 3), keepdim=True), scores.amax((2, 3), keepdim=True)
    scores = torch.where(scores < low + 1e-5, 0, scores)
    scores = (scores - low - 1e-5) / (high - low + 1e-5)
    scores[:, bg_index] = bg_threshold
    return scores


@torch.no_grad()
def pseudo_labels(scores: torch.Tensor, label: torch.Tensor, bg_index: int) -> torch.Tensor:
    """Class of every pixel, [N·h·w] in (image, row, column) order: argmax of softmax(s · label)."""
    own = _with_background(label, torch.ones_like(label[:, :1]), bg_index)[..., None, None]
    return (scores * own).softmax(1).argmax(1).flatten()


@torch.no_grad()
def prototypes(feature: torch.Tensor, scores: torch.Tensor, top_fraction: float) -> torch.Tensor:
    """L2-normalised class prototypes [21, D]: mean of a class's best-scored pixels of the batch, weighted by the scores.

    Args:
        feature: projected features [N·h·w, D], not normalised.
        scores: [N, 21, h, w].
        top_fraction: pixels of a class as a share of one picture's h·w.
    """
    count = int(scores.shape[2] * scores.shape[3] * top_fraction)
    weight, index = scores.transpose(0, 1).flatten(1).topk(count, dim=1)
    mean = torch.einsum('ck,ckd->cd', weight, feature[index]) / weight.sum(1, keepdim=True)
    return F.normalize(mean, dim=1)


def rank_in_class(key: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Rank of each pixel among those of its class by ascending key, [M]; equal keys keep their order."""
    order = key.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]  # by class, inside a class by key
    first = (counts.cumsum(0) - counts)[labels[order]]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device) - first
    return ranks


def intra_view_loss(logits: torch.Tensor, labels: torch.Tensor, random_key: torch.Tensor, *, semi_hard: bool = True,
                    hard_pixels: bool = True) -> torch.Tensor:
    """Intra-view contrast with semi-hard prototype mining and hard pixel sampling (method §3.3, paper §3.3).

    Args:
        logits: q · Pᵀ / τ, [M, 21].
        labels: pseudo labels [M].
        random_key: [M]; in each class the n//2 pixels with the smallest keys are the random half.
        semi_hard: negatives are the prototypes ranked 4…13; off: all prototypes.
        hard_pixels: a class's value is the mean over its random half and its hard half; off: over all its pixels.
    """
    positive = logits.gather(1, labels[:, None])
    negatives = logits.topk(13, dim=1).values[:, 3:] if semi_hard else logits
    value = (torch.cat([positive, negatives], 1) if semi_hard else negatives).logsumexp(1) - positive[:, 0]
    counts = (labels[:, None] == torch.arange(NUM_CLASSES, device=labels.device)).sum(0)
    present = (counts > 0).sum()
    if not hard_pixels:
        return (value / counts[labels]).sum() / present
    half, least = counts // 2, counts * 6 // 10  # int(0.6 n) pixels least like their prototype; the last n//2 are taken
    random_rank = rank_in_class(random_key, labels, counts)
    hard_rank = rank_in_class(positive[:, 0].detach(), labels, counts)
    drawn = (random_rank < half[labels]).to(value.dtype)
    hard = ((hard_rank < least[labels]) & (hard_rank >= (least - half)[labels])).to(value.dtype)
    return (value * (drawn + hard) / (2 * half[labels]).clamp(min=1)).sum() / present


def contrast_loss(f_proj1: torch.Tensor, cam_rv_down1: torch.Tensor, f_proj2: torch.Tensor, cam_rv_down2: torch.Tensor,
                  label: torch.Tensor, *, bg_index: int = 0, bg_threshold: float = 0.20, temperature: float = 0.1,
                  weight: float = 0.1, top_fraction: float = 1 / 8, random_keys: torch.Tensor = None,
                  generator: torch.Generator = None, gather: Callable[[torch.Tensor], torch.Tensor] = lambda part: part,
                  cross_prototype: bool = True, cross_cam: bool = True, intra_view: bool = True, semi_hard: bool = True,
                  hard_pixels: bool = True) -> dict[str, torch.Tensor]:
    """Pixel-to-prototype contrast across and within two views (method §3.3, paper §3.2–3.3).

    Args:
        f_proj1, f_proj2: projected features [N, D, h, w] of the views; view 1 is resized to view 2's size (16×16).
        cam_rv_down1, cam_rv_down2: refined maps [N, 21, h, w].
        label: [N, 20].
        bg_threshold: the background's constant score.
        top_fraction: pixels of a prototype as a share of one picture's h·w.
        random_keys: [2, N·16·16], see `intra_view_loss`; drawn from `generator` when None.
        gather: makes of a process's part of a batch [n, …] all of it [N, …], with gradient (`tool.dist.gather`): prototypes,
            pixels and pairs are those of the batch of all processes, and each of them computes the same loss.
        cross_prototype, cross_cam, intra_view, semi_hard, hard_pixels: the paper's ablations; a term that is off is 0.
    Returns:
        'loss_cross_prototype', 'loss_cross_cam', 'loss_intra_view' and 'loss_nce', their sum.
    """
    size, label = f_proj2.shape[2:], gather(label)
    pixels, labels, protos = [], [], []
    for f_proj, cam_rv in ((f_proj1, cam_rv_down1), (f_proj2, cam_rv_down2)):
        feature = gather(_resize(f_proj, size)).permute(0, 2, 3, 1).flatten(0, 2)
        scores = gather(contrast_scores(_resize(cam_rv.detach(), size), bg_index, bg_threshold))
        pixels.append(F.normalize(feature, dim=1))
        labels.append(pseudo_labels(scores, label, bg_index))
        protos.append(prototypes(feature.detach(), scores, top_fraction))
    if random_keys is None:
        random_keys = torch.rand(2, len(labels[0]), device=label.device, generator=generator)

    def logits(pixel_view, prototype_view):
        return pixels[pixel_view] @ protos[prototype_view].T / temperature

    own = [logits(0, 0), logits(1, 1)]
    zero = own[0].new_zeros(())
    terms = {'loss_cross_prototype': zero, 'loss_cross_cam': zero, 'loss_intra_view': zero}
    if cross_prototype:
        terms['loss_cross_prototype'] = weight / 2 * (
            F.cross_entropy(logits(0, 1), labels[0]) + F.cross_entropy(logits(1, 0), labels[1]))
    if cross_cam:
        terms['loss_cross_cam'] = weight / 2 * (
            F.cross_entropy(own[0], labels[1]) + F.cross_entropy(own[1], labels[0]))
    if intra_view:
        terms['loss_intra_view'] = weight / 2 * sum(
            intra_view_loss(own[view], labels[view], random_keys[view], semi_hard=semi_hard, hard_pixels=hard_pixels)
            for view in (0, 1))
    return {**terms, 'loss_nce': sum(terms.values())}
