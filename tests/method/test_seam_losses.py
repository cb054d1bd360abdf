"""SEAM's losses: the published values and gradients, the plain formulation, nothing that waits."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from loss_golden import check, check_gradients, first_half, golden, leaves
from tool.method import plain, seam_losses
from tool.method.contrast import contrast_loss


@pytest.mark.parametrize('upsampled', [True, False])
@pytest.mark.parametrize('known', [True, False])
def test_seam_total_and_gradients_are_the_published_ones(upsampled, known):
    data, label = golden('seam')
    x = leaves('seam.a')
    maps = [x['cam1'], x['cam_rv1'], x['cam2'], x['cam_rv2']]
    sizes = [(96, 96), (96, 96), (128, 128), (128, 128)]
    options = {'max_classes': int(label.sum(1).max())} if known else {}
    if upsampled:
        maps = [plain.upsample(value, size) for value, size in zip(maps, sizes)]
    else:
        options |= {'size1': sizes[0], 'size2': sizes[2]}
    terms = seam_losses.seam_loss(*maps, label, **options)
    nce = contrast_loss(
        x['f_proj1'], x['cam_rv1'], x['f_proj2'], x['cam_rv2'], label, random_keys=first_half(1024)
    )
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
    cam1, cam_rv1, cam2, cam_rv2 = (
        torch.randn(n, 21, side, side, generator=generator) for side in (12, 12, 8, 8)
    )
    sizes = {'size1': (96, 96), 'size2': (64, 64)}
    ours = seam_losses.seam_loss(
        cam1, cam_rv1, cam2, cam_rv2, label, **sizes, max_classes=int(label.sum(1).max())
    )
    for name, value in plain.seam_loss(cam1, cam_rv1, cam2, cam_rv2, label, **sizes).items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6)


def test_nothing_waits_for_the_device():
    """Fake tensors have no values: any host synchronisation (item, nonzero, a value-dependent
    shape) raises."""
    with FakeTensorMode():
        cam1, cam_rv1, cam2, cam_rv2 = (torch.rand(2, 21, side, side) for side in (12, 12, 16, 16))
        label = torch.rand(2, 20)
        seam_losses.seam_loss(cam1, cam_rv1, cam2, cam_rv2, label, size1=(96, 96), max_classes=3)
        seam_losses.consistency_losses(cam1, cam_rv1, cam2, cam_rv2, label, bg_index=20)
        with pytest.raises(Exception, match='nonzero'):
            label.nonzero()  # the check itself works
