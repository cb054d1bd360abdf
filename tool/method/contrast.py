"""The pixel-to-prototype contrast of the paper, and nothing else (docs/method.md §3.3).

`contrast_loss`, at the end, is the whole of it. It is made of these functions:

    features_and_scores    f, s    features and scores of a view
    pseudo_labels          ŷ       the class of every pixel
    class_prototypes       P       one prototype for each class
    nce                            pixels against prototypes
    intra_view_loss                the same inside one view, with two kinds of mining
    contrast_terms                 L_cp, L_cc and L_iv

Shapes: N images, C channels of a map (K foreground classes and the background), D channels of a
feature, h × w positions, M = N·h·w pixels in the order (image, row, column). Image labels are
multi-hot, [N, K]. Nothing loops over classes or pixels, and nothing waits for the device.

What this project adds to the contrast is in tool/method/label_aware.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F

from tool.method.maps import ViewMaps, resize, scale_scores, spatial_size, with_background

# The type of a view's pseudo labels: a tensor [M] here. Label-aware prototypes have another.
Labels = TypeVar('Labels')

# the ranks, from 1, of a pixel's semi-hard negatives among the prototypes
FIRST_NEGATIVE = 4
LAST_NEGATIVE = 13
# how many of ten pixels of a class count as least similar, of which the last are the hard half
LEAST_SIMILAR_OF_TEN = 6


@dataclass(frozen=True)
class ContrastOptions:
    """The constants of docs/method.md §3.3 that a run may change; the defaults are the paper's, on
    SEAM."""

    # b: the background's channel
    bg_index: int = 0
    # β_bg: the background's constant score
    bg_threshold: float = 0.20
    # ρ: pixels of a prototype, as a share of one image's h·w
    top_fraction: float = 1 / 8
    # τ: divides all similarities
    temperature: float = 0.1
    # α: weight of each of the three terms
    weight: float = 0.1
    # the ablations of the paper; a term that is off is 0
    # L_cp: pixels against the other view's prototypes
    cross_prototype: bool = True
    # L_cc: pixels with the other view's pseudo labels
    cross_cam: bool = True
    # L_iv: pixels, pseudo labels and prototypes of one view
    intra_view: bool = True
    # semi-hard prototype mining in L_iv; off: all prototypes are negatives
    semi_hard: bool = True
    # hard pixel sampling in L_iv; off: all pixels of a class
    hard_pixels: bool = True


@dataclass(frozen=True)
class ComparedView(Generic[Labels]):
    """One view v as the contrast compares it with the other one."""

    # q: projected features of length 1, [M, D]
    pixels: torch.Tensor
    # ŷ: pseudo labels, [M]
    labels: Labels
    # P: prototypes of length 1, [C, D], without gradient
    prototypes: torch.Tensor


def itself(part: torch.Tensor) -> torch.Tensor:
    """`gather` for a single process, whose part of the batch is all of it."""
    return part


@torch.no_grad()
def contrast_scores(cam_rv: torch.Tensor, bg_index: int, bg_threshold: float) -> torch.Tensor:
    """Scores s, [N, C, h, w], that choose and weight the pixels of prototypes
    (docs/method.md §3.3).

        a = ReLU(m̂)        a' = a where a ≥ min a + ε, else 0
        s = (a' − min a − ε) / (max a − min a + ε)        s_b = β_bg

    Minimum and maximum are those of one map of one image; see `scale_scores` for the floor.

    Args:
        cam_rv: m̂, refined maps [N, C, h, w].
        bg_index: b.
        bg_threshold: β_bg.
    """
    scores = scale_scores(cam_rv)
    scores[:, bg_index] = bg_threshold
    return scores


def label_with_background(label: torch.Tensor, bg_index: int) -> torch.Tensor:
    """ỹ, [N, C]: y, [N, K], with a 1 for the background (docs/method.md §3.3)."""
    return with_background(label, torch.ones_like(label[:, :1]), bg_index)


@torch.no_grad()
def pseudo_labels(scores: torch.Tensor, label: torch.Tensor, bg_index: int) -> torch.Tensor:
    """Pseudo labels ŷ, [M] (docs/method.md §3.3).

        ŷ_i = argmax_c softmax_c(s_c · ỹ_c)

    Args:
        scores: s, [N, C, h, w].
        label: y, [N, K].
        bg_index: b.
    """
    own = label_with_background(label, bg_index)[..., None, None]  # ỹ
    own_scores = scores * own
    return own_scores.softmax(1).argmax(1).flatten()


@torch.no_grad()
def class_prototypes(
    feature: torch.Tensor, scores: torch.Tensor, top_fraction: float
) -> torch.Tensor:
    """Prototypes P = (p_1, …, p_C), [C, D] (docs/method.md §3.3).

        p̃_c = Σ_{i ∈ T_c} s_{i,c} f_i / Σ_{i ∈ T_c} s_{i,c}        p_c = p̃_c / ‖p̃_c‖

    T_c are the ⌊h·w·ρ⌋ pixels of the whole batch with the highest s_c.

    Args:
        feature: f, projected features [M, D], not normalised.
        scores: s, [N, C, h, w].
        top_fraction: ρ.
    """
    height, width = scores.shape[2:]
    count = int(height * width * top_fraction)
    scores_of_class = scores.transpose(0, 1).flatten(1)  # [C, M]
    weight, chosen = scores_of_class.topk(count, dim=1)  # T_c: [C, count]
    total = weight.sum(1, keepdim=True)
    total = torch.where(total == 0, 1, total)
    mean = torch.einsum('ck,ckd->cd', weight, feature[chosen]) / total
    return F.normalize(mean, dim=1)


def nce(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """nce(q, ŷ, P) (docs/method.md §3.3).

        −1/M Σ_i log( exp(q_i·p_ŷi / τ) / Σ_c exp(q_i·p_c / τ) )

    Args:
        logits: q·Pᵀ / τ, [M, C].
        labels: ŷ, [M].
    """
    return F.cross_entropy(logits, labels)


def semi_hard_negatives(logits: torch.Tensor) -> torch.Tensor:
    """Logits of each pixel's semi-hard negatives N_i, [M, ≤ 10] (docs/method.md §3.3).

        N_i = { r_i(j) : 4 ≤ j ≤ min(13, C) }

    r_i(j) is the class at rank j, the most similar prototype first. With fewer than 4 prototypes
    there are no negatives.

    Args:
        logits: q·Pᵀ / τ, [M, C].
    """
    channels = logits.shape[1]
    ranked = logits.topk(min(LAST_NEGATIVE, channels), dim=1).values
    return ranked[:, FIRST_NEGATIVE - 1 :]


def pixel_losses(
    logits: torch.Tensor, labels: torch.Tensor, negatives: torch.Tensor | None
) -> torch.Tensor:
    """Value ℓ_i of every pixel in the intra-view term, [M] (docs/method.md §3.3).

        ℓ_i = −log( exp(q_i·p_ŷi / τ) / (exp(q_i·p_ŷi / τ) + Σ_{c ∈ N_i} exp(q_i·p_c / τ)) )

    Args:
        logits: q·Pᵀ / τ, [M, C].
        labels: ŷ, [M].
        negatives: logits of N_i, [M, any]; None: the denominator is the sum over all prototypes,
            as in `nce`.
    """
    positive = logits.gather(1, labels[:, None])  # [M, 1]
    in_denominator = logits if negatives is None else torch.cat([positive, negatives], 1)
    return in_denominator.logsumexp(1) - positive[:, 0]


def class_sizes(labels: torch.Tensor, channels: int) -> torch.Tensor:
    """n_c: how many pixels have pseudo label c, [C]; `labels` is ŷ, [M] (docs/method.md §3.3)."""
    classes = torch.arange(channels, device=labels.device)
    return (labels[:, None] == classes).sum(0)


def rank_in_class(key: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Rank of each pixel among those of its class by ascending key, from 0, [M]; equal keys keep
    their order.

    Args:
        key: [M].
        labels: ŷ, [M].
        counts: n_c, [C].
    """
    by_key = key.argsort(stable=True)
    by_class = labels[by_key].argsort(stable=True)
    order = by_key[by_class]  # all pixels: by class, inside a class by key
    start_of_class = counts.cumsum(0) - counts  # in that order, [C]
    sorted_labels = labels[order]
    position = torch.arange(len(order), device=order.device)
    ranks = torch.empty_like(order)
    ranks[order] = position - start_of_class[sorted_labels]
    return ranks


def mean_of_class_means(
    values: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """L_intra without hard pixel sampling: mean over classes of the mean over their pixels
    (docs/method.md §3.3, ablations).

        1/|𝒞| Σ_{c ∈ 𝒞} 1/n_c Σ_{i : ŷ_i = c} ℓ_i

    Args:
        values: ℓ, [M].
        labels: ŷ, [M].
        counts: n_c, [C]; 𝒞 are the classes with n_c ≥ 1.
    """
    classes = (counts > 0).sum()
    return (values / counts[labels]).sum() / classes


def mean_of_sampled_pixels(
    values: torch.Tensor,
    similarity: torch.Tensor,
    labels: torch.Tensor,
    counts: torch.Tensor,
    random_key: torch.Tensor,
) -> torch.Tensor:
    """L_intra with hard pixel sampling (docs/method.md §3.3).

        1/|𝒞| Σ_{c ∈ 𝒞, n_c ≥ 2} 1/(2 h_c) [ Σ_{i ∈ R_c} ℓ_i + Σ_{i ∈ H_c} ℓ_i ]

    R_c are h_c = ⌊n_c / 2⌋ random pixels of the class. H_c are the last h_c of the ⌊0.6 n_c⌋ pixels
    that are least similar to their prototype. A pixel in both counts twice.

    Args:
        values: ℓ, [M].
        similarity: q_i·p_ŷi / τ, [M]; its order counts, no gradient passes.
        labels: ŷ, [M].
        counts: n_c, [C]; 𝒞 are the classes with n_c ≥ 1.
        random_key: [M]; R_c are the pixels of the class with the h_c smallest keys.
    """
    classes = (counts > 0).sum()
    half = counts // 2  # h_c
    least_similar = counts * LEAST_SIMILAR_OF_TEN // 10  # ⌊0.6 n_c⌋
    half_of_pixel = half[labels]  # h_c of each pixel's class, [M]
    random_rank = rank_in_class(random_key, labels, counts)
    similarity_rank = rank_in_class(similarity.detach(), labels, counts)
    in_random_half = random_rank < half_of_pixel
    among_least_similar = similarity_rank < least_similar[labels]
    not_too_dissimilar = similarity_rank >= (least_similar - half)[labels]
    in_hard_half = among_least_similar & not_too_dissimilar
    times_taken = in_random_half.to(values.dtype) + in_hard_half.to(values.dtype)
    shares = values * times_taken / (2 * half_of_pixel).clamp(min=1)
    return shares.sum() / classes


def intra_view_mean(
    values: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
    random_key: torch.Tensor,
    hard_pixels: bool,
) -> torch.Tensor:
    """L_intra of the pixels' values ℓ, [M], with or without hard pixel sampling
    (docs/method.md §3.3).

    Args:
        values: ℓ, [M].
        logits: q·Pᵀ / τ, [M, C].
        labels: ŷ, [M].
        random_key: [M]; see `mean_of_sampled_pixels`.
        hard_pixels: with hard pixel sampling.
    """
    counts = class_sizes(labels, logits.shape[1])
    if not hard_pixels:
        return mean_of_class_means(values, labels, counts)
    similarity = logits.gather(1, labels[:, None])[:, 0]
    return mean_of_sampled_pixels(values, similarity, labels, counts, random_key)


def intra_view_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    random_key: torch.Tensor,
    *,
    semi_hard: bool = True,
    hard_pixels: bool = True,
) -> torch.Tensor:
    """L_intra of one view: contrast with semi-hard prototype mining and hard pixel sampling
    (docs/method.md §3.3, paper §3.3).

    Args:
        logits: q·Pᵀ / τ, [M, C].
        labels: ŷ, [M].
        random_key: [M]; see `mean_of_sampled_pixels`.
        semi_hard: the negatives are those of `semi_hard_negatives`; off: all prototypes.
        hard_pixels: a class's value is the mean over its sampled pixels; off: over all.
    """
    negatives = semi_hard_negatives(logits) if semi_hard else None
    values = pixel_losses(logits, labels, negatives)
    return intra_view_mean(values, logits, labels, random_key, hard_pixels)


def features_and_scores(
    view: ViewMaps,
    size: tuple[int, int],
    options: ContrastOptions,
    gather: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features f, [M, D], and scores s, [N, C, h, w], of one view of the batch of all processes
    (docs/method.md §3.3).

    Args:
        view: f and m̂ of this process's part of the batch.
        size: (h, w), to which both are resized.
        options: b and β_bg.
        gather: see `contrast_loss`.
    """
    feature_maps = gather(resize(view.f_proj, size))
    feature = feature_maps.permute(0, 2, 3, 1).flatten(0, 2)
    part_scores = contrast_scores(
        resize(view.cam_rv.detach(), size), options.bg_index, options.bg_threshold
    )
    return feature, gather(part_scores)


def contrast_terms(
    compared1: ComparedView[Labels],
    compared2: ComparedView[Labels],
    random_keys: torch.Tensor,
    options: ContrastOptions,
    nce_of: Callable[[torch.Tensor, Labels], torch.Tensor],
    intra_view_loss_of: Callable[..., torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The three terms of the paper and their sum (docs/method.md §3.3, paper §3.2–3.3).

        L_cp = α/2 [ nce(q¹, ŷ¹, P²) + nce(q², ŷ², P¹) ]
        L_cc = α/2 [ nce(q¹, ŷ², P¹) + nce(q², ŷ¹, P²) ]
        L_iv = α/2 [ L_intra¹ + L_intra² ]

    Args:
        compared1, compared2: q, ŷ and P of the views.
        random_keys: [2, M]; see `mean_of_sampled_pixels`.
        options: α, τ and which terms are on; a term that is off is 0.
        nce_of, intra_view_loss_of: `nce` and `intra_view_loss`, or others that take the labels of
            the views.
    Returns:
        'loss_cross_prototype', 'loss_cross_cam', 'loss_intra_view', and 'loss_nce', their sum.
    """
    # q¹·P¹ᵀ / τ, [M, C]
    logits_11 = compared1.pixels @ compared1.prototypes.T / options.temperature
    logits_22 = compared2.pixels @ compared2.prototypes.T / options.temperature
    half_weight = options.weight / 2
    off = logits_11.new_zeros(())
    cross_prototype = off
    cross_cam = off
    intra_view = off
    if options.cross_prototype:
        logits_12 = compared1.pixels @ compared2.prototypes.T / options.temperature
        logits_21 = compared2.pixels @ compared1.prototypes.T / options.temperature
        cross_prototype = half_weight * (
            nce_of(logits_12, compared1.labels) + nce_of(logits_21, compared2.labels)
        )
    if options.cross_cam:
        cross_cam = half_weight * (
            nce_of(logits_11, compared2.labels) + nce_of(logits_22, compared1.labels)
        )
    if options.intra_view:
        mining = {'semi_hard': options.semi_hard, 'hard_pixels': options.hard_pixels}
        intra1 = intra_view_loss_of(logits_11, compared1.labels, random_keys[0], **mining)
        intra2 = intra_view_loss_of(logits_22, compared2.labels, random_keys[1], **mining)
        intra_view = half_weight * (intra1 + intra2)
    return {
        'loss_cross_prototype': cross_prototype,
        'loss_cross_cam': cross_cam,
        'loss_intra_view': intra_view,
        'loss_nce': cross_prototype + cross_cam + intra_view,
    }


def draw_random_keys(pixels: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """A uniform random number in [0, 1) for every pixel of both views, [2, M]; `pixels` [M, D]."""
    return torch.rand(2, len(pixels), device=pixels.device, generator=generator)


def contrast_loss(
    view1: ViewMaps,
    view2: ViewMaps,
    label: torch.Tensor,
    options: ContrastOptions = ContrastOptions(),
    *,
    random_keys: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    gather: Callable[[torch.Tensor], torch.Tensor] = itself,
) -> dict[str, torch.Tensor]:
    """Pixel-to-prototype contrast across and within two views (docs/method.md §3.3, paper
    §3.2–3.3).

    Args:
        view1, view2: f and m̂ of the views, `f_proj` and `cam_rv`; m is not used. Those of view 1
            are resized to view 2's size (16×16).
        label: y, [N, K].
        options: the constants.
        random_keys: [2, M], see `mean_of_sampled_pixels`; drawn from `generator` when None.
        gather: makes of a process's part of a batch [n, …] all of it [N, …], with gradient
            (`tool.train.processes.gather`): prototypes, pixels and pairs are those of the batch of
            all processes, and each of them computes the same loss.
    Returns:
        'loss_cross_prototype', 'loss_cross_cam', 'loss_intra_view', and 'loss_nce', their sum.
    """
    size = spatial_size(view2.f_proj)
    label = gather(label)

    def compared(view: ViewMaps) -> ComparedView[torch.Tensor]:
        feature, scores = features_and_scores(view, size, options, gather)
        return ComparedView(
            pixels=F.normalize(feature, dim=1),
            labels=pseudo_labels(scores, label, options.bg_index),
            prototypes=class_prototypes(feature, scores, options.top_fraction),
        )

    compared1 = compared(view1)
    compared2 = compared(view2)
    if random_keys is None:
        random_keys = draw_random_keys(compared1.pixels, generator)
    return contrast_terms(compared1, compared2, random_keys, options, nce, intra_view_loss)
