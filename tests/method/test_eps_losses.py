"""EPS's losses: the published values and gradients, saliency by hand, nothing that waits."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from loss_golden import check, check_gradients, first_half, golden, leaves, views
from recipe import uniform
from tool.method import plain
from tool.method.contrast import ContrastOptions, contrast_loss
from tool.method.eps_losses import eps_loss
from tool.method.seam_losses import classification_loss, consistency_losses, rvmin_loss


@pytest.mark.parametrize('known', [True, False])
def test_eps_total_and_gradients_are_the_published_ones(known):
    data, label = golden('eps')
    x = leaves('eps.a')
    saliency1 = F.avg_pool2d(F.pad(uniform('eps.a.saliency', 4, 1, 96, 96), (4,) * 4), 9, 1)
    saliency1 = (saliency1 - saliency1.min()) / (saliency1.max() - saliency1.min())
    saliency2 = plain.upsample(saliency1, (128, 128))
    options = {'bg_index': 20, 'max_classes': int(label.sum(1).max()) if known else None}
    sal = {
        'loss_sal1': eps_loss(x['cam1'], saliency1, label),
        'loss_sal2': eps_loss(x['cam2'], saliency2, label),
        'loss_sal_rv1': eps_loss(x['cam_rv1'], saliency1, label),
        'loss_sal_rv2': eps_loss(x['cam_rv2'], saliency2, label),
    }
    check(sal, data)
    view1, view2 = views(x)
    er, ecr = consistency_losses(view1, view2, label, **options)
    cls = sum(classification_loss(x[f'cam{v}'].mean((2, 3))[:, :20], label) for v in (1, 2)) / 2
    rvmin = sum(rvmin_loss(x[f'cam_rv{v}'], label, **options) for v in (1, 2)) / 2
    terms = {
        'loss_cls': cls + rvmin,
        'loss_sal': sum(sal.values()) / 2,
        'loss_er': er,
        'loss_ecr': ecr,
    }
    terms['loss_nce'] = contrast_loss(
        view1,
        view2,
        label,
        ContrastOptions(bg_index=20, bg_threshold=0.1, top_fraction=1 / 16),
        random_keys=first_half(1024),
    )['loss_nce']
    check({**terms, 'loss': sum(terms.values())}, data)
    sum(terms.values()).backward()
    check_gradients(x, data)


def test_saliency_moves_a_class_to_the_background():
    """A class whose area is not salient counts as background: with no saliency at all the loss is
    that of 1 − all of it."""
    cam = torch.full((1, 21, 8, 8), -20.0)
    cam[:, 4], cam[:, 20] = 20, 0
    label = F.one_hot(torch.tensor([4]), 20).float()
    assert eps_loss(cam, torch.ones(1, 1, 8, 8), label).item() == pytest.approx(0, abs=1e-6)
    assert eps_loss(cam, torch.zeros(1, 1, 8, 8), label).item() == pytest.approx(0, abs=1e-6)
    assert eps_loss(cam, torch.zeros(1, 1, 8, 8), label * 0).item() == pytest.approx(0.25, abs=1e-5)


def test_nothing_waits_for_the_device():
    """Fake tensors have no values: any host synchronisation (item, nonzero, a value-dependent
    shape) raises."""
    with FakeTensorMode():
        label = torch.rand(2, 20)
        eps_loss(torch.rand(2, 21, 12, 12), torch.rand(2, 1, 96, 96), label)
        with pytest.raises(Exception, match='nonzero'):
            label.nonzero()  # the check itself works
