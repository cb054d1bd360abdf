"""The contrast: the published values, the plain formulation, label-aware by hand, ablations,
nothing that waits."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from loss_golden import CLOSE, first_half, golden, leaves
from recipe import normal, uniform
from tool.method import contrast, plain


def test_prototypes_and_pseudo_labels_are_the_published_ones():
    data, label = golden('seam')
    x = leaves('seam.a')
    for view in (1, 2):
        feature = (
            plain.upsample(x[f'f_proj{view}'].detach(), (16, 16)).permute(0, 2, 3, 1).flatten(0, 2)
        )
        scores = contrast.contrast_scores(
            plain.upsample(x[f'cam_rv{view}'].detach(), (16, 16)), 0, 0.20
        )
        np.testing.assert_allclose(
            contrast.class_prototypes(feature, scores, 1 / 8).numpy(),
            data[f'prototypes{view}'],
            **CLOSE,
        )
        pseudo = contrast.pseudo_labels(scores, label, 0).view(4, 16, 16)
        assert (pseudo.numpy() == data[f'pseudo_label{view}']).all()


@pytest.mark.parametrize('n', [1, 3])
def test_contrast_equals_the_plain_formulation(n):
    generator = torch.Generator().manual_seed(n)
    label = (torch.rand(n, 20, generator=generator) < 0.15).float()
    label[:, 3] = 1
    cam_rv1, cam_rv2 = (torch.randn(n, 21, side, side, generator=generator) for side in (12, 8))
    f_proj1, f_proj2 = (torch.rand(n, 32, side, side, generator=generator) for side in (12, 8))
    for options in ({}, {'bg_index': 20, 'bg_threshold': 0.1, 'top_fraction': 1 / 16}):
        expected = plain.contrast_loss(
            f_proj1, cam_rv1, f_proj2, cam_rv2, label, **options, draw=lambda own, k: own[:k]
        )
        ours = contrast.contrast_loss(
            f_proj1, cam_rv1, f_proj2, cam_rv2, label, **options, random_keys=first_half(n * 64)
        )
        torch.testing.assert_close(ours['loss_nce'], expected, rtol=1e-5, atol=1e-6)


def test_rank_in_class_counts_from_zero_in_every_class():
    labels = torch.tensor([3, 0, 3, 3, 0])
    counts = torch.zeros(21, dtype=torch.long)
    counts[0], counts[3] = 2, 3
    ranks = contrast.rank_in_class(torch.tensor([0.5, 0.1, 0.2, 0.5, 0.05]), labels, counts)
    assert ranks.tolist() == [1, 1, 0, 2, 0]  # equal keys keep their order


def test_intra_view_closed_form():
    """Two classes of two pixels, one of a single pixel: the single one counts in the number of
    classes and adds nothing."""
    logits = torch.full((5, 21), -50.0)
    logits[torch.arange(5), torch.tensor([0, 0, 1, 1, 2])] = torch.tensor([2.0, 1.0, 0.5, 3.0, 0.7])
    logits[:, 5:18] = (
        torch.arange(13, 0, -1) / 10
    )  # the 13 best others; ranks depend on the own logit
    labels = torch.tensor([0, 0, 1, 1, 2])
    keys = torch.tensor(
        [0.9, 0.1, 0.3, 0.2, 0.0]
    )  # random half: pixels 1 and 3; hard half: 1 and 2, the least similar

    def value(i):
        negatives = logits[i].sort(descending=True).values[3:13].exp().sum()
        own = logits[i, labels[i]].exp()
        return -math.log(own / (own + negatives))

    expected = ((value(1) + value(1)) / 2 + (value(3) + value(2)) / 2) / 3
    assert contrast.intra_view_loss(logits, labels, keys).item() == pytest.approx(
        expected, rel=1e-5
    )
    plain_mean = torch.stack(
        [F.cross_entropy(logits[labels == c], labels[labels == c]) for c in range(3)]
    ).mean()
    ablated = contrast.intra_view_loss(logits, labels, keys, semi_hard=False, hard_pixels=False)
    torch.testing.assert_close(ablated, plain_mean)


@pytest.mark.parametrize(
    'classes, negatives', [(21, 10), (13, 10), (12, 9), (5, 2), (4, 1), (3, 0), (2, 0)]
)
def test_semi_hard_negatives_of_few_classes_are_the_ranks_that_there_are(classes, negatives):
    """Ranks 4…13 of 13 classes or more, as published; 4…K of K classes; without any the value of a
    pixel is 0."""
    logits = normal('few.logits', 6, classes)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    found = contrast.semi_hard_negatives(logits, labels, None)
    assert (
        found == logits.sort(descending=True).values[:, 3 : 3 + negatives]
    ).all() and found.shape == (6, negatives)
    loss = contrast.intra_view_loss(logits, labels, uniform('few.keys', 6))
    assert loss > 0 if negatives else loss == 0


def test_contrast_of_two_classes():
    """A class set of background and one class: every shape follows from the tensors."""
    x = {
        name: normal(f'two.{name}', 2, channels, 8, 8).abs().requires_grad_()
        for name, channels in (('cam_rv1', 2), ('cam_rv2', 2), ('f_proj1', 16), ('f_proj2', 16))
    }
    for prototypes in contrast.PROTOTYPES:
        loss = contrast.contrast_loss(
            x['f_proj1'],
            x['cam_rv1'],
            x['f_proj2'],
            x['cam_rv2'],
            torch.ones(2, 1),
            random_keys=first_half(128),
            prototypes=prototypes,
        )
        assert loss['loss_intra_view'] == 0 < loss['loss_nce']
        assert torch.autograd.grad(loss['loss_nce'], x['f_proj1'])[0].isfinite().all()


def label_aware_by_hand(
    x, label, bg_index, bg_threshold, keys, semi_hard, inside, bg_certain, common
):
    """The label-aware contrast in loops over pictures, classes and pixels; maps and `inside` [n,
    pixels] already at one size."""
    n, side = len(label), x['cam_rv1'].shape[2]
    channel = {c: c + (bg_index == 0) for c in range(20)}
    present = sorted({bg_index} | {channel[c] for c in common if label[:, c].any()})
    views = []
    for view in (1, 2):
        feature = x[f'f_proj{view}'].permute(0, 2, 3, 1).reshape(-1, 128)
        rows = {c: torch.zeros(n, side * side) for c in present}
        pseudo = torch.full((n, side * side), bg_index)
        best, counted = torch.full((n, side * side), bg_threshold), inside.clone()
        highest = torch.zeros(n, side * side)
        for image in range(n):
            for c in range(20):
                if label[image, c]:
                    cam = x[f'cam_rv{view}'][image, channel[c]].detach().flatten()
                    score = (cam - cam.min() - 1e-5) / (cam.max() - cam.min() + 1e-5)
                    pseudo[image][score > best[image]] = channel[c]
                    best[image] = best[image].maximum(score)
                    highest[image] = highest[image].maximum(score)
                    if channel[c] in present:
                        rows[channel[c]][image] = score.clamp(min=0)
        if bg_certain is not None:
            counted[(highest > bg_certain) & (pseudo == bg_index)] = 0
        for image in range(n):
            if any(label[image, c] and c not in common for c in range(20)):
                counted[image][pseudo[image] == bg_index] = 0
            for pixel in range(side * side):
                if pseudo[image, pixel] not in present:
                    pseudo[image, pixel], counted[image, pixel] = bg_index, 0
        rows[bg_index] = 1 - highest
        rows = {c: row * inside for c, row in rows.items()}
        protos = {}
        for c in present:
            weight, index = rows[c].flatten().sort(descending=True)
            weight, index = weight[: side * side // 8], index[: side * side // 8]
            protos[c] = F.normalize((weight[:, None] * feature[index].detach()).sum(0), dim=0)
        views.append(
            (F.normalize(feature, dim=1), pseudo.flatten().tolist(), counted.flatten(), protos)
        )

    def cross(pixels, labels, counted, protos):
        logits = torch.stack([pixels @ protos[c] / 0.1 for c in present], 1)
        values = F.cross_entropy(
            logits, torch.tensor([present.index(c) for c in labels]), reduction='none'
        )
        return (values * counted).sum() / counted.sum()

    intra = 0
    for (pixels, labels, counted, protos), key in zip(views, keys):
        classes = sorted(set(labels))
        for c in classes:
            own = [i for i, found in enumerate(labels) if found == c]
            logits = {k: pixels[own] @ protos[k] / 0.1 for k in present}
            others = torch.stack([logits[k] for k in present if k != c], 1)
            if semi_hard:
                others = others.sort(1, descending=True).values[:, : int(0.6 * (len(present) - 1))]
            value = (torch.cat([logits[c][:, None], others], 1).logsumexp(1) - logits[c]) * counted[
                own
            ]
            half = len(own) // 2
            drawn = sorted(range(len(own)), key=lambda i: key[own[i]])[:half]
            hard = (
                sorted(range(len(own)), key=lambda i: logits[c][i])[: len(own) * 6 // 10][-half:]
                if half
                else []
            )
            intra = (
                intra + (value[drawn].mean() + value[hard].mean()) / 2 / len(classes)
                if half
                else intra
            )
    (pixels1, *labels1, protos1), (pixels2, *labels2, protos2) = views
    return {
        'loss_cross_prototype': 0.05
        * (cross(pixels1, *labels1, protos2) + cross(pixels2, *labels2, protos1)),
        'loss_cross_cam': 0.05
        * (cross(pixels1, *labels2, protos1) + cross(pixels2, *labels1, protos2)),
        'loss_intra_view': 0.05 * intra,
    }


@pytest.mark.parametrize(
    'bg_index, semi_hard, padded, certain, rare',
    [
        (0, True, False, None, ()),
        (0, True, True, None, ()),
        (20, True, True, None, ()),
        (0, False, True, None, ()),
        (0, True, True, 0.2, ()),
        (20, True, False, 0.3, ()),
        (0, True, True, 0.2, (3, 11)),
        (20, False, False, None, (0,)),
    ],
)
def test_label_aware_contrast_by_hand(bg_index, semi_hard, padded, certain, rare):
    x = {
        name: normal(f'aware.{name}', 4, channels, 8, 8).abs().requires_grad_()
        for name, channels in (('cam_rv1', 21), ('cam_rv2', 21), ('f_proj1', 128), ('f_proj2', 128))
    }
    label = torch.zeros(4, 20)
    for image, classes in enumerate(([0, 3], [3], [7, 11, 19], [0])):
        label[image, classes] = 1
    keys, inside, more = uniform('aware.keys', 2, 256), torch.ones(4, 1, 8, 8), {}
    if padded:
        inside[1, :, 5:], inside[3, :, :, :2] = 0, 0
        # a crop of 22 pixels a side has its cells' centres 3 pixels apart
        more = {'inside': F.interpolate(inside, (22, 22), mode='bilinear', align_corners=True)}
    common = [c for c in range(20) if c not in rare]
    if rare:
        more['common'] = F.one_hot(torch.tensor(common), 20).sum(0) > 0
    loss = contrast.contrast_loss(
        x['f_proj1'],
        x['cam_rv1'],
        x['f_proj2'],
        x['cam_rv2'],
        label,
        bg_index=bg_index,
        bg_threshold=0.45,
        bg_certain=certain,
        random_keys=keys,
        prototypes='label_aware',
        semi_hard=semi_hard,
        **more,
    )
    expected = label_aware_by_hand(
        x, label, bg_index, 0.45, keys.tolist(), semi_hard, inside.flatten(1), certain, common
    )
    ours = torch.autograd.grad(loss['loss_nce'], (x['f_proj1'], x['f_proj2']))
    theirs = torch.autograd.grad(sum(expected.values()), (x['f_proj1'], x['f_proj2']))
    for name, value in expected.items():
        assert loss[name].item() == pytest.approx(value.item(), rel=1e-5), name
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_label_aware_contrast_of_one_class_and_of_empty_maps():
    """One class against the background leaves no semi-hard negative; maps of zeros give no
    prototype: still finite.

    So it is where no pixel counts, and where no class takes part.
    """
    label = F.one_hot(torch.tensor([2, 2]), 20).float()
    feature = normal('aware.f', 2, 128, 8, 8).abs().requires_grad_()
    for maps in (normal('aware.m', 2, 21, 8, 8).abs(), torch.zeros(2, 21, 8, 8)):
        loss = contrast.contrast_loss(feature, maps, feature, maps, label, prototypes='label_aware')
        assert loss['loss_intra_view'] == 0 and loss['loss_nce'].isfinite()
        assert torch.autograd.grad(loss['loss_nce'], feature)[0].isfinite().all()
    nothing = torch.zeros(2, 1, 64, 64)
    padding = contrast.contrast_loss(
        feature, maps, feature, maps, label, prototypes='label_aware', inside=nothing
    )
    assert padding['loss_nce'] == 0
    alone = contrast.contrast_loss(
        feature, maps, feature, maps, label, prototypes='label_aware', common=torch.zeros(20) > 0
    )
    assert (
        alone['loss_nce'] == 0
        and torch.autograd.grad(alone['loss_nce'], feature)[0].isfinite().all()
    )


@pytest.mark.parametrize('off', ['cross_prototype', 'cross_cam', 'intra_view'])
def test_a_term_that_is_off_is_zero_and_the_others_stay(off):
    _, label = golden('seam')
    x = leaves('seam.a')
    arguments = (x['f_proj1'], x['cam_rv1'], x['f_proj2'], x['cam_rv2'], label)
    whole = contrast.contrast_loss(*arguments, random_keys=first_half(1024))
    part = contrast.contrast_loss(*arguments, random_keys=first_half(1024), **{off: False})
    for name in ('loss_cross_prototype', 'loss_cross_cam', 'loss_intra_view'):
        assert part[name] == (0 if name == f'loss_{off}' else whole[name])
    torch.testing.assert_close(part['loss_nce'], whole['loss_nce'] - whole[f'loss_{off}'])


def test_drawn_keys_come_from_the_generator():
    _, label = golden('seam')
    x = leaves('seam.a')

    def draw(seed):
        return contrast.contrast_loss(
            x['f_proj1'],
            x['cam_rv1'],
            x['f_proj2'],
            x['cam_rv2'],
            label,
            generator=torch.Generator().manual_seed(seed),
        )['loss_intra_view'].item()

    assert draw(1) == draw(1) != draw(2)


def test_nothing_waits_for_the_device():
    """Fake tensors have no values: any host synchronisation (item, nonzero, a value-dependent
    shape) raises."""
    with FakeTensorMode():
        x = {
            name: torch.rand(2, channels, side, side)
            for name, channels, side in (
                ('cam_rv1', 21, 12),
                ('cam_rv2', 21, 16),
                ('f1', 128, 12),
                ('f2', 128, 16),
            )
        }
        label = torch.rand(2, 20)
        for prototypes in contrast.PROTOTYPES:
            contrast.contrast_loss(
                x['f1'],
                x['cam_rv1'],
                x['f2'],
                x['cam_rv2'],
                label,
                prototypes=prototypes,
                inside=torch.ones(2, 1, 96, 96),
                common=torch.ones(20, dtype=torch.bool),
            )
        with pytest.raises(Exception, match='nonzero'):
            label.nonzero()  # the check itself works
