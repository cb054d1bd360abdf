"""Label-aware prototypes: this project's variant of the contrast, not in the paper
(docs/method.md §10.1–10.3).

The paper makes a prototype for every class, also for those that no image of the batch holds. Here a
class's prototype is made of the images that hold it, classes that no image holds take no part, and
pixels whose pseudo label is doubtful do not count. The three terms are those of
tool/method/contrast.py, whose symbols and shapes are used here as well; new are

    𝒜    the channels that take part     `present`, [C]
    χ    which pixels count              `counted`, [M]
    ι    where the image is no padding   `inside`, [N, 1, h, w]
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from tool.method.contrast import (
    ComparedView,
    ContrastOptions,
    class_prototypes,
    contrast_terms,
    draw_random_keys,
    features_and_scores,
    intra_view_mean,
    itself,
    label_with_background,
    pixel_losses,
)
from tool.method.maps import ViewMaps, resize, spatial_size, split, with_background

PROTOTYPES = ('published', 'label_aware')  # values of --prototypes

# how many of ten other prototypes are a pixel's negatives, the most similar ones
NEGATIVES_OF_TEN = 6


@dataclass(frozen=True)
class LabelAwareOptions(ContrastOptions):
    """The paper's constants and those of the label-aware prototypes (docs/method.md §10.1–10.3)."""

    # A pixel with a class score above this, but not above `bg_threshold`, does not count: it may be
    # a part of an object that the maps do not cover yet. None: all pixels count.
    bg_certain: float | None = None
    # [K], False for classes that take no part. Their pixels do not count, nor does the background
    # of the images that hold them, which may be a part of them. None: all classes take part.
    common: torch.Tensor | None = None


@dataclass(frozen=True)
class CountedLabels:
    """Pseudo labels of a view, and what of them takes part in the contrast."""

    # ŷ: [M]
    classes: torch.Tensor
    # χ: [M], 1 for pixels that count, 0 for the others
    counted: torch.Tensor
    # 𝒜: [C], True for channels that have a prototype
    present: torch.Tensor


def channels_that_take_part(
    label: torch.Tensor, common: torch.Tensor | None, bg_index: int
) -> torch.Tensor:
    """𝒜, [C]: the background, and the common classes that an image of the batch holds
    (docs/method.md §10.1, §10.3)."""
    held = (label > 0).any(0, keepdim=True)  # [1, K]
    if common is not None:
        held = held & common
    always = torch.ones_like(held[:, :1])
    return with_background(held, always, bg_index)[0]


@torch.no_grad()
def own_pseudo_labels(scores: torch.Tensor, label: torch.Tensor, bg_index: int) -> torch.Tensor:
    """Pseudo labels ŷ, [M]: the background or a class that the image holds (docs/method.md §10.1).

    The published rule gives an absent class the score 0. With a background score of 0 it could tie
    with the background and win.

    Args:
        scores: s, [N, C, h, w].
        label: y, [N, K].
        bg_index: b.
    """
    own = label_with_background(label, bg_index)[..., None, None]  # ỹ
    own_scores = (scores * own).masked_fill(own == 0, -torch.inf)
    return own_scores.softmax(1).argmax(1).flatten()


@torch.no_grad()
def label_aware_scores(scores: torch.Tensor, label: torch.Tensor, bg_index: int) -> torch.Tensor:
    """Scores s' without ι, [N, C, h, w], that choose and weight the pixels of prototypes
    (docs/method.md §10.1).

        s'_k = y_k max(s_k, 0)        s'_b = 1 − max_k s'_k

    Args:
        scores: s, [N, C, h, w].
        label: y, [N, K].
        bg_index: b.
    """
    _, foreground_scores = split(scores, bg_index)
    foreground = foreground_scores.clamp(min=0) * label[..., None, None]
    background = 1 - foreground.amax(1, keepdim=True)
    return with_background(foreground, background, bg_index)


@torch.no_grad()
def certain_pixels(
    scores: torch.Tensor, bg_certain: float, bg_threshold: float, bg_index: int
) -> torch.Tensor:
    """True, [M], where the highest class score says clearly background or clearly a class
    (docs/method.md §10.2).

        max_k s'_k ≤ LOW   or   max_k s'_k > β_bg

    Args:
        scores: s', [N, C, h, w].
        bg_certain: LOW.
        bg_threshold: β_bg.
        bg_index: b.
    """
    _, foreground = split(scores, bg_index)
    highest = foreground.amax(1).flatten()
    return (highest <= bg_certain) | (highest > bg_threshold)


@torch.no_grad()
def counted_labels(
    classes: torch.Tensor,
    counted: torch.Tensor,
    label: torch.Tensor,
    present: torch.Tensor,
    bg_index: int,
) -> CountedLabels:
    """Pseudo labels without the classes that take no part (docs/method.md §10.1, §10.3).

    Args:
        classes: ŷ, [M].
        counted: χ so far, [M].
        label: y, [N, K].
        present: 𝒜, [C].
        bg_index: b.
    """
    participates = present[classes]  # [M]
    _, present_foreground = split(present[None], bg_index)  # [1, K]
    holds_left_out = ((label > 0) & ~present_foreground).any(1)  # [N]
    pixels_of_image = len(classes) // len(label)
    # the background of such an image may be a part of the class that was left out
    unsure = (classes == bg_index) & holds_left_out.repeat_interleave(pixels_of_image)
    return CountedLabels(
        classes=torch.where(participates, classes, bg_index),
        counted=counted * (participates & ~unsure),
        present=present,
    )


def counted_nce(logits: torch.Tensor, labels: CountedLabels) -> torch.Tensor:
    """nce with χ and 𝒜 (docs/method.md §10.1).

        −1/max(1, Σ_i χ_i) Σ_i χ_i log( exp(q_i·p_ŷi / τ) / Σ_{c ∈ 𝒜} exp(q_i·p_c / τ) )

    Args:
        logits: q·Pᵀ / τ, [M, C].
        labels: ŷ, χ and 𝒜.
    """
    logits = logits.masked_fill(~labels.present, -torch.inf)
    values = F.cross_entropy(logits, labels.classes, reduction='none')
    return (values * labels.counted).sum() / labels.counted.sum().clamp(min=1)


def most_similar_others(
    logits: torch.Tensor, classes: torch.Tensor, present: torch.Tensor
) -> torch.Tensor:
    """Logits of each pixel's negatives, [M, C], in place of the paper's ranks 4 to 13
    (docs/method.md §10.1).

    They are the ⌊0.6 (|𝒜| − 1)⌋ most similar prototypes but the pixel's own; the rest is −∞.

    Args:
        logits: q·Pᵀ / τ, [M, C], −∞ outside 𝒜.
        classes: ŷ, [M].
        present: 𝒜, [C].
    """
    others = logits.scatter(1, classes[:, None], -torch.inf)
    ranked = others.sort(1, descending=True).values
    count = (present.sum() - 1) * NEGATIVES_OF_TEN // 10
    rank = torch.arange(logits.shape[1], device=logits.device)
    return ranked.masked_fill(rank >= count, -torch.inf)


def counted_intra_view_loss(
    logits: torch.Tensor,
    labels: CountedLabels,
    random_key: torch.Tensor,
    *,
    semi_hard: bool = True,
    hard_pixels: bool = True,
) -> torch.Tensor:
    """L_intra of one view with χ_i ℓ_i in place of ℓ_i (docs/method.md §10.1).

    Args:
        logits: q·Pᵀ / τ, [M, C].
        labels: ŷ, χ and 𝒜.
        random_key: [M]; see `tool.method.contrast.mean_of_sampled_pixels`.
        semi_hard: the negatives are those of `most_similar_others`; off: all of 𝒜.
        hard_pixels: a class's value is the mean over its sampled pixels; off: over all.
    """
    logits = logits.masked_fill(~labels.present, -torch.inf)
    negatives = None
    if semi_hard:
        negatives = most_similar_others(logits, labels.classes, labels.present)
    values = pixel_losses(logits, labels.classes, negatives) * labels.counted
    return intra_view_mean(values, logits, labels.classes, random_key, hard_pixels)


def label_aware_contrast_loss(
    view1: ViewMaps,
    view2: ViewMaps,
    label: torch.Tensor,
    options: LabelAwareOptions = LabelAwareOptions(),
    *,
    inside: torch.Tensor | None = None,
    random_keys: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    gather: Callable[[torch.Tensor], torch.Tensor] = itself,
) -> dict[str, torch.Tensor]:
    """The contrast with label-aware prototypes, not in the paper (docs/method.md §10.1–10.3).

    Arguments and result are those of `tool.method.contrast.contrast_loss`, and

    Args:
        options: the constants.
        inside: [N, 1, H, W] of any size, 0 where the crops are padding; None: nowhere.
    """
    size = spatial_size(view2.f_proj)
    bg_index = options.bg_index
    label = gather(label)
    present = channels_that_take_part(label, options.common, bg_index)
    if inside is None:
        inside = label.new_ones(len(label), 1, *size)
    else:
        inside = gather((resize(inside, size) > 0.5).to(label.dtype))

    def compared(view: ViewMaps) -> ComparedView[CountedLabels]:
        feature, scores = features_and_scores(view, size, options, gather)
        weights = label_aware_scores(scores, label, bg_index) * inside
        counted = inside.flatten()
        if options.bg_certain is not None:
            certain = certain_pixels(weights, options.bg_certain, options.bg_threshold, bg_index)
            counted = counted * certain
        classes = own_pseudo_labels(scores, label, bg_index)
        return ComparedView(
            pixels=F.normalize(feature, dim=1),
            labels=counted_labels(classes, counted, label, present, bg_index),
            prototypes=class_prototypes(feature, weights, options.top_fraction),
        )

    compared1 = compared(view1)
    compared2 = compared(view2)
    if random_keys is None:
        random_keys = draw_random_keys(compared1.pixels, generator)
    return contrast_terms(
        compared1, compared2, random_keys, options, counted_nce, counted_intra_view_loss
    )
