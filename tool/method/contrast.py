"""The pixel-to-prototype contrast of the paper as pure functions, and its label-aware variant
(method §3.3).

Maps are [N, 21, h, w] with the background in channel `bg_index` (0 for SEAM, 20 for EPS), image
labels are multi-hot [N, 20]. Nothing loops over classes or pixels or waits for the device.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from tool.method.maps import resize, split, with_background

PROTOTYPES = ('published', 'label_aware')


@torch.no_grad()
def contrast_scores(cam_rv_down: torch.Tensor, bg_index: int, bg_threshold: float) -> torch.Tensor:
    """Scores s [N, 21, h, w]: scaled maps (the floor is slightly negative, as published), the
    background a constant."""
    scores = F.relu(cam_rv_down)
    low, high = scores.amin((2, 3), keepdim=True), scores.amax((2, 3), keepdim=True)
    scores = torch.where(scores < low + 1e-5, 0, scores)
    scores = (scores - low - 1e-5) / (high - low + 1e-5)
    scores[:, bg_index] = bg_threshold
    return scores


@torch.no_grad()
def pseudo_labels(
    scores: torch.Tensor, label: torch.Tensor, bg_index: int, own_only: bool = False
) -> torch.Tensor:
    """Class of every pixel, [N·h·w] in (image, row, column) order: argmax of softmax(s · label).

    With `own_only` it is always the background or a class of the picture (else one that ties with
    it may win).
    """
    own = with_background(label, torch.ones_like(label[:, :1]), bg_index)[..., None, None]
    scores = scores * own
    if own_only:
        scores = scores.masked_fill(own == 0, -torch.inf)
    return scores.softmax(1).argmax(1).flatten()


@torch.no_grad()
def label_aware_scores(scores: torch.Tensor, label: torch.Tensor, bg_index: int) -> torch.Tensor:
    """Scores that choose and weight the pixels of label-aware prototypes (not in the paper), ≥ 0,
    [N, 21, h, w].

    Foreground maps are those of a picture's own classes, zero elsewhere; the background is 1 −
    their maximum.
    """
    foreground = split(scores, bg_index)[1].clamp(min=0) * label[..., None, None]
    return with_background(foreground, 1 - foreground.amax(1, keepdim=True), bg_index)


def mean_nce(
    logits: torch.Tensor, labels: torch.Tensor, counted: torch.Tensor | None
) -> torch.Tensor:
    """Mean of nce(q, y, P) over the pixels `counted` [M] as 1 (None: all); logits [M, 21], labels
    [M]."""
    if counted is None:
        return F.cross_entropy(logits, labels)
    return (
        F.cross_entropy(logits, labels, reduction='none') * counted
    ).sum() / counted.sum().clamp(min=1)


@torch.no_grad()
def class_prototypes(
    feature: torch.Tensor, scores: torch.Tensor, top_fraction: float
) -> torch.Tensor:
    """L2-normalised class prototypes [21, D]: mean of a class's best-scored pixels of the batch,
    weighted by the scores.

    Args:
        feature: projected features [N·h·w, D], not normalised.
        scores: [N, 21, h, w].
        top_fraction: pixels of a class as a share of one picture's h·w.
    """
    count = int(scores.shape[2] * scores.shape[3] * top_fraction)
    weight, index = scores.transpose(0, 1).flatten(1).topk(count, dim=1)
    total = weight.sum(1, keepdim=True)
    mean = torch.einsum('ck,ckd->cd', weight, feature[index]) / torch.where(total == 0, 1, total)
    return F.normalize(mean, dim=1)


def rank_in_class(key: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Rank of each pixel among those of its class by ascending key, [M]; equal keys keep their
    order."""
    order = key.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]  # by class, inside a class by key
    first = (counts.cumsum(0) - counts)[labels[order]]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device) - first
    return ranks


def semi_hard_negatives(
    logits: torch.Tensor, labels: torch.Tensor, present: torch.Tensor | None
) -> torch.Tensor:
    """Logits [M, K] of each pixel's negatives: the prototypes ranked 4…13 of all 21, as published.

    Of fewer than 13 prototypes they are the ranks from 4 on that there are; of fewer than 4 there
    is no negative (K = 0).

    Among the classes `present` [21] only (label-aware prototypes) they are the int(0.6 · (present −
    1)) most similar ones without the pixel's own; the rest of the columns is −inf.
    """
    if present is None:
        return logits.topk(min(13, logits.shape[1]), dim=1).values[:, 3:]
    others = logits.scatter(1, labels[:, None], -torch.inf).sort(1, descending=True).values
    kept = torch.arange(logits.shape[1], device=logits.device) < (present.sum() - 1) * 6 // 10
    return others.masked_fill(~kept, -torch.inf)


def intra_view_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    random_key: torch.Tensor,
    *,
    semi_hard: bool = True,
    hard_pixels: bool = True,
    present: torch.Tensor = None,
    counted: torch.Tensor = None,
) -> torch.Tensor:
    """Intra-view contrast with semi-hard prototype mining and hard pixel sampling (method §3.3,
    paper §3.3).

    Args:
        logits: q · Pᵀ / τ, [M, 21]; −inf where there is no prototype.
        labels: pseudo labels [M].
        random_key: [M]; in each class the n//2 pixels with the smallest keys are the random half.
        semi_hard: negatives are those of `semi_hard_negatives` (where there are none, the value is
            0); off: all prototypes.
        hard_pixels: a class's value is the mean over its random half and its hard half; off: over
            all its pixels.
        present: [21], which classes have a prototype; None: all.
        counted: [M], 0 for pixels whose value is left out; None: all are 1.
    """
    positive = logits.gather(1, labels[:, None])
    negatives = semi_hard_negatives(logits, labels, present) if semi_hard else logits
    value = (torch.cat([positive, negatives], 1) if semi_hard else negatives).logsumexp(
        1
    ) - positive[:, 0]
    value = value if counted is None else value * counted
    counts = (labels[:, None] == torch.arange(logits.shape[1], device=labels.device)).sum(0)
    found = (counts > 0).sum()
    if not hard_pixels:
        return (value / counts[labels]).sum() / found
    half, least = (
        counts // 2,
        counts * 6 // 10,
    )  # int(0.6 n) pixels least like their prototype; the last n//2 are taken
    random_rank = rank_in_class(random_key, labels, counts)
    hard_rank = rank_in_class(positive[:, 0].detach(), labels, counts)
    drawn = (random_rank < half[labels]).to(value.dtype)
    hard = ((hard_rank < least[labels]) & (hard_rank >= (least - half)[labels])).to(value.dtype)
    return (value * (drawn + hard) / (2 * half[labels]).clamp(min=1)).sum() / found


def gathered_view(
    f_proj: torch.Tensor,
    cam_rv: torch.Tensor,
    label: torch.Tensor,
    present: torch.Tensor | None,
    inside: torch.Tensor | None,
    *,
    size: tuple[int, int],
    bg_index: int,
    bg_threshold: float,
    bg_certain: float | None,
    top_fraction: float,
    gather: Callable,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """One view of the batch of all processes: unit pixels [M, D], their pseudo labels [M], which
    count and prototypes [21, D].

    `f_proj` and `cam_rv` are a process's part, `label` [N, 20] is whole, and so are `present` [21]
    and `inside` [N, 1, h, w] (published prototypes: None, and all pixels count).
    """
    feature = gather(resize(f_proj, size)).permute(0, 2, 3, 1).flatten(0, 2)
    scores = gather(contrast_scores(resize(cam_rv.detach(), size), bg_index, bg_threshold))
    labels = pseudo_labels(scores, label, bg_index, own_only=inside is not None)
    counted = None
    if inside is not None:
        scores, counted = label_aware_scores(scores, label, bg_index) * inside, inside.flatten()
        if bg_certain is not None:
            highest = split(scores, bg_index)[1].amax(1).flatten()
            counted = counted * ((highest <= bg_certain) | (highest > bg_threshold))
        takes_part, left_out = present[labels], (label > 0) & ~split(present[None], bg_index)[1]
        unsure = (labels == bg_index) & left_out.any(1).repeat_interleave(inside[0].numel())
        counted, labels = (
            counted * (takes_part & ~unsure),
            torch.where(takes_part, labels, bg_index),
        )
    return (
        F.normalize(feature, dim=1),
        labels,
        counted,
        class_prototypes(feature.detach(), scores, top_fraction),
    )


def contrast_loss(
    f_proj1: torch.Tensor,
    cam_rv_down1: torch.Tensor,
    f_proj2: torch.Tensor,
    cam_rv_down2: torch.Tensor,
    label: torch.Tensor,
    *,
    bg_index: int = 0,
    bg_threshold: float = 0.20,
    bg_certain: float = None,
    temperature: float = 0.1,
    weight: float = 0.1,
    top_fraction: float = 1 / 8,
    random_keys: torch.Tensor = None,
    generator: torch.Generator = None,
    gather: Callable[[torch.Tensor], torch.Tensor] = lambda part: part,
    cross_prototype: bool = True,
    cross_cam: bool = True,
    intra_view: bool = True,
    semi_hard: bool = True,
    hard_pixels: bool = True,
    prototypes: str = 'published',
    common: torch.Tensor = None,
    inside: torch.Tensor = None,
) -> dict[str, torch.Tensor]:
    """Pixel-to-prototype contrast across and within two views (method §3.3, paper §3.2–3.3).

    Args:
        f_proj1, f_proj2: projected features [N, D, h, w] of the views; view 1 is resized to view
            2's size (16×16).
        cam_rv_down1, cam_rv_down2: refined maps [N, 21, h, w].
        label: [N, 20].
        bg_threshold: the background's constant score.
        bg_certain: label_aware only: a pixel with a class score above this, but not above
            `bg_threshold`, does not count: it may well be a part of an object that the maps do not
            cover yet. None: all pixels count.
        top_fraction: pixels of a prototype as a share of one picture's h·w.
        random_keys: [2, N·16·16], see `intra_view_loss`; drawn from `generator` when None.
        gather: makes of a process's part of a batch [n, …] all of it [N, …], with gradient
            (`tool.train.processes.gather`): prototypes, pixels and pairs are those of the batch of
            all processes, and each of them computes the same loss.
        cross_prototype, cross_cam, intra_view, semi_hard, hard_pixels: the paper's ablations; a
            term that is off is 0.
        prototypes: 'published', or 'label_aware' (not in the paper): a class's prototype is made of
            pictures that hold it (`label_aware_scores`), and classes that no picture of the batch
            holds take no part.
        common: [20], label_aware only: False for classes that take no part. Their pixels do not
            count, nor does the background of the pictures that hold them, which may well be a part
            of them. None: all classes take part.
        inside: [N, 1, H, W], 0 where the crops are padding, whose pixels take no part in the
            label-aware contrast.
    Returns:
        'loss_cross_prototype', 'loss_cross_cam', 'loss_intra_view' and 'loss_nce', their sum.
    """
    size, label = f_proj2.shape[2:], gather(label)
    label_aware, present = prototypes == 'label_aware', None
    if label_aware:
        held = (label > 0).any(0, True) & (True if common is None else common)
        present = with_background(held, torch.ones_like(held[:, :1]), bg_index)[0]
        inside = (
            label.new_ones(len(label), 1, *size)
            if inside is None
            else gather((resize(inside, size) > 0.5).to(label.dtype))
        )
    views = [
        gathered_view(
            f_proj,
            cam_rv,
            label,
            present,
            inside if label_aware else None,
            size=size,
            gather=gather,
            bg_index=bg_index,
            bg_threshold=bg_threshold,
            bg_certain=bg_certain,
            top_fraction=top_fraction,
        )
        for f_proj, cam_rv in ((f_proj1, cam_rv_down1), (f_proj2, cam_rv_down2))
    ]
    pixels, labels, counted, protos = zip(*views)
    if random_keys is None:
        random_keys = torch.rand(2, len(labels[0]), device=label.device, generator=generator)

    def logits(pixel_view, prototype_view):
        values = pixels[pixel_view] @ protos[prototype_view].T / temperature
        return values.masked_fill(~present, -torch.inf) if label_aware else values

    own = [logits(0, 0), logits(1, 1)]
    zero = own[0].new_zeros(())
    terms = {'loss_cross_prototype': zero, 'loss_cross_cam': zero, 'loss_intra_view': zero}
    if cross_prototype:
        terms['loss_cross_prototype'] = (
            weight
            / 2
            * (
                mean_nce(logits(0, 1), labels[0], counted[0])
                + mean_nce(logits(1, 0), labels[1], counted[1])
            )
        )
    if cross_cam:
        terms['loss_cross_cam'] = (
            weight
            / 2
            * (mean_nce(own[0], labels[1], counted[1]) + mean_nce(own[1], labels[0], counted[0]))
        )
    if intra_view:
        terms['loss_intra_view'] = (
            weight
            / 2
            * sum(
                intra_view_loss(
                    own[view],
                    labels[view],
                    random_keys[view],
                    semi_hard=semi_hard,
                    hard_pixels=hard_pixels,
                    present=present,
                    counted=counted[view],
                )
                for view in (0, 1)
            )
        )
    return {**terms, 'loss_nce': sum(terms.values())}
