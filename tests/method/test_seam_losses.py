"""SEAM's losses: the published values and gradients, the plain formulation, nothing that waits."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from loss_golden import check, check_gradients, first_half, golden, leaves, seam_view, views
from tool.method import plain, seam_losses
from tool.method.contrast import contrast_loss


@pytest.mark.parametrize('upsampled', [True, False])
@pytest.mark.parametrize('known', [True, False])
def test_seam_total_and_gradients_are_the_published_ones(upsampled, known):
    data, label = golden('seam')
    x = leaves('seam.a')
    view1, view2 = views(x)
    sizes = [(96, 96), (128, 128)]
    nce = contrast_loss(view1, view2, label, random_keys=first_half(1024))
    options = {'max_classes': int(label.sum(1).max())} if known else {}
    if upsampled:
        view1, view2 = (
            seam_view(plain.upsample(view.cam, size), plain.upsample(view.cam_rv, size))
            for view, size in zip((view1, view2), sizes)
        )
    else:
        options |= {'size1': sizes[0], 'size2': sizes[1]}
    terms = seam_losses.seam_loss(view1, view2, label, **options)
    check(
        {
            **terms,
            'loss_nce': nce['loss_nce'],
            'loss_cross_nce': nce['loss_cross_prototype'],
            'loss_cross_nce2': nce['loss_cross_cam'],
            'loss_intra_nce': nce['loss_intra_view'],
        },
        data,
    )
    total = sum(terms.values()) + nce['loss_nce']
    check({'loss': total}, data)
    total.backward()
    check_gradients(x, data)


@pytest.mark.parametrize('n', [1, 3])
def test_seam_losses_equal_the_plain_formulation(n):
    generator = torch.Generator().manual_seed(n)
    label = (torch.rand(n, 20, generator=generator) < 0.15).float()
    label[:, 3] = 1
    maps = [torch.randn(n, 21, side, side, generator=generator) for side in (12, 12, 8, 8)]
    view1, view2 = seam_view(*maps[:2]), seam_view(*maps[2:])
    sizes = {'size1': (96, 96), 'size2': (64, 64)}
    max_classes = int(label.sum(1).max())
    ours = seam_losses.seam_loss(view1, view2, label, **sizes, max_classes=max_classes)
    for name, value in plain.seam_loss(*maps, label, **sizes).items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6)


def test_nothing_waits_for_the_device():
    """Fake tensors have no values: any host synchronisation (item, nonzero, a value-dependent
    shape) raises."""
    with FakeTensorMode():
        view1, view2 = (
            seam_view(torch.rand(2, 21, side, side), torch.rand(2, 21, side, side))
            for side in (12, 16)
        )
        label = torch.rand(2, 20)
        seam_losses.seam_loss(view1, view2, label, size1=(96, 96), max_classes=3)
        seam_losses.consistency_losses(view1, view2, label, bg_index=20)
        with pytest.raises(Exception, match='nonzero'):
            label.nonzero()  # the check itself works
