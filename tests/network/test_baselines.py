"""network/baselines: which one a command means, and what they make of maps."""

import pytest
import torch

from network import resnet38_contrast, resnet38_contrast_eps
from network.baselines import BASELINES, baseline_of, pick_baseline
from network.baselines.baseline import LossOptions
from network.resnet38_aff import Net as AffNet
from network.weights import find_net
from recipe import fill, normal
from tool.method.contrast import ContrastOptions
from tool.method.label_aware import LabelAwareOptions
from tool.run.errors import UserError

SMALL = 0.0625


def test_baseline_is_read_from_the_checkpoint():
    seam, eps = (
        resnet38_contrast.Net(SMALL).state_dict(),
        resnet38_contrast_eps.Net(SMALL).state_dict(),
    )
    assert (
        baseline_of(seam, 'x.pth')[0] is BASELINES['seam']
        and baseline_of(eps, 'x.pth', 'eps')[0] is BASELINES['eps']
    )
    with pytest.raises(
        UserError, match='x.pth: is a checkpoint of the eps baseline, not of --baseline seam'
    ):
        baseline_of(eps, 'x.pth', 'seam')
    with pytest.raises(UserError, match='of no known baseline'):
        baseline_of(AffNet(SMALL).state_dict(), 'x.pth')


@pytest.mark.parametrize('branch, name', [('eps', 'eps'), ('main', 'seam'), ('', 'seam')])
def test_baseline_of_a_git_branch(branch, name, monkeypatch):
    monkeypatch.setattr('network.baselines._branch', lambda: branch)
    baseline, why = pick_baseline()
    assert baseline.name == name and (branch or 'default') in why
    assert pick_baseline('eps')[0].name == 'eps'


def test_seeds_are_scaled_as_published():
    maps = torch.tensor([[[0.0, 1.0], [3.0, 5.0]], [[-1.0, 2.0], [2.0, 2.0]]])
    seam = BASELINES['seam'].finish(maps)
    torch.testing.assert_close(
        seam[0], torch.tensor([[-1e-5, 1 - 1e-5], [3 - 1e-5, 5 - 1e-5]]) / (5 + 1e-5)
    )
    torch.testing.assert_close(BASELINES['eps'].finish(maps)[0], maps[0] / (5 + 1e-5))


@pytest.mark.parametrize('name', ['seam', 'eps'])
def test_mirrored_pass_is_put_back(name):
    """A picture and its mirror image give the same maps whichever comes first, mirrored."""
    net = fill(find_net(BASELINES[name].network)(SMALL)).eval()
    view = normal('view', 3, 40, 56)
    with torch.no_grad():
        maps, mirrored = (
            BASELINES[name].maps(net, torch.stack([x, x.flip(2)]), [4, 9], (33, 47))[0]
            for x in (view, view.flip(2))
        )
    assert maps.shape == (2, 33, 47)
    torch.testing.assert_close(maps, mirrored.flip(2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name, foreground', [('seam', slice(1, 21)), ('eps', slice(0, 20))])
def test_class_probabilities_are_those_of_the_networks_own_scores(name, foreground):
    """σ of the mean over a picture and its mirror image, without the background."""
    baseline = BASELINES[name]
    net = fill(find_net(baseline.network)(SMALL)).eval()
    image = normal('view', 3, 40, 56)
    view = torch.stack([image, image.flip(2)])
    with torch.no_grad():
        probabilities = baseline.class_probabilities(net, view)
        scores = net(view, classify=True) if name == 'seam' else net(view)[0]
    mean = scores[:, foreground].mean(0)
    assert probabilities.shape == (1, 20) and probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities[0], 1 / (1 + torch.exp(-mean)), rtol=1e-4, atol=1e-5)
    assert probabilities.min() < 0.3 and probabilities.max() > 0.7


def test_class_probabilities_of_other_class_counts():
    """With 3 classes the background of EPS is channel 3."""
    baseline = BASELINES['eps'].for_classes(4)
    net = fill(find_net(baseline.network)(SMALL, num_classes=4)).eval()
    view = normal('view', 2, 3, 40, 48)
    with torch.no_grad():
        expected = net(view)[0][:, :3].mean(0).sigmoid()
        probabilities = baseline.class_probabilities(net, view)
    torch.testing.assert_close(probabilities[0], expected, rtol=1e-4, atol=1e-5)


def test_contrast_options_are_the_papers_for_the_baseline():
    seam, eps = (BASELINES[name].contrast_options() for name in ('seam', 'eps'))
    assert seam == ContrastOptions()
    assert eps == ContrastOptions(bg_index=20, bg_threshold=0.10, top_fraction=1 / 16)
    changed = BASELINES['eps'].contrast_options(LabelAwareOptions, bg_threshold=0.3, bg_certain=0.2)
    assert (changed.bg_index, changed.bg_threshold, changed.bg_certain) == (20, 0.3, 0.2)


def test_the_label_aware_contrast_is_told_what_is_padding(monkeypatch):
    given = {}
    monkeypatch.setattr(
        'network.baselines.baseline.label_aware_contrast_loss',
        lambda *_, **named: given.update(named) or {'loss_nce': 0},
    )
    batch = {'image': normal('crop', 2, 3, 64, 64), 'label': torch.eye(20)[:2]}
    batch['image'][:, :, :, 40:] = 0
    seam = BASELINES['seam']
    options = LossOptions(view2_size=32, contrast=seam.contrast_options(LabelAwareOptions))
    seam.losses(fill(find_net(seam.network)(SMALL)), batch, options)
    assert (given['inside'] == (torch.arange(64) < 40)).all()
