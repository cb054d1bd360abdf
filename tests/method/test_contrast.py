"""The paper's contrast: the published values, the plain formulation, ablations, nothing that
waits."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from loss_golden import CLOSE, contrast_view, first_half, golden, leaves, views
from recipe import normal, uniform
from tool.method import contrast, plain
from tool.method.contrast import ContrastOptions
from tool.method.label_aware import LabelAwareOptions, label_aware_contrast_loss


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
            contrast_view(f_proj1, cam_rv1),
            contrast_view(f_proj2, cam_rv2),
            label,
            ContrastOptions(**options),
            random_keys=first_half(n * 64),
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
    found = contrast.semi_hard_negatives(logits)
    assert (
        found == logits.sort(descending=True).values[:, 3 : 3 + negatives]
    ).all() and found.shape == (6, negatives)
    loss = contrast.intra_view_loss(logits, labels, uniform('few.keys', 6))
    assert loss > 0 if negatives else loss == 0


def test_contrast_of_two_classes():
    """A class set of background and one class: every shape follows from the tensors."""
    view1, view2 = (
        contrast_view(
            normal(f'two.f_proj{v}', 2, 16, 8, 8).abs().requires_grad_(),
            normal(f'two.cam_rv{v}', 2, 2, 8, 8).abs().requires_grad_(),
        )
        for v in (1, 2)
    )
    for loss_of in (contrast.contrast_loss, label_aware_contrast_loss):
        loss = loss_of(view1, view2, torch.ones(2, 1), random_keys=first_half(128))
        assert loss['loss_intra_view'] == 0 < loss['loss_nce']
        assert torch.autograd.grad(loss['loss_nce'], view1.f_proj)[0].isfinite().all()


@pytest.mark.parametrize('off', ['cross_prototype', 'cross_cam', 'intra_view'])
def test_a_term_that_is_off_is_zero_and_the_others_stay(off):
    _, label = golden('seam')
    arguments = (*views(leaves('seam.a')), label)
    whole = contrast.contrast_loss(*arguments, random_keys=first_half(1024))
    options = ContrastOptions(**{off: False})
    part = contrast.contrast_loss(*arguments, options, random_keys=first_half(1024))
    for name in ('loss_cross_prototype', 'loss_cross_cam', 'loss_intra_view'):
        assert part[name] == (0 if name == f'loss_{off}' else whole[name])
    torch.testing.assert_close(part['loss_nce'], whole['loss_nce'] - whole[f'loss_{off}'])


def test_drawn_keys_come_from_the_generator():
    _, label = golden('seam')
    view1, view2 = views(leaves('seam.a'))

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        terms = contrast.contrast_loss(view1, view2, label, generator=generator)
        return terms['loss_intra_view'].item()

    assert draw(1) == draw(1) != draw(2)


def test_nothing_waits_for_the_device():
    """Fake tensors have no values: any host synchronisation (item, nonzero, a value-dependent
    shape) raises."""
    with FakeTensorMode():
        view1, view2 = (
            contrast_view(torch.rand(2, 128, side, side), torch.rand(2, 21, side, side))
            for side in (12, 16)
        )
        label = torch.rand(2, 20)
        contrast.contrast_loss(view1, view2, label)
        label_aware_contrast_loss(
            view1,
            view2,
            label,
            LabelAwareOptions(bg_certain=0.1, common=torch.ones(20, dtype=torch.bool)),
            inside=torch.ones(2, 1, 96, 96),
        )
        with pytest.raises(Exception, match='nonzero'):
            label.nonzero()  # the check itself works
