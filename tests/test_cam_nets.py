"""The SEAM and EPS networks against the published numbers; the PCM in slabs; weights and what is refused."""
import numpy as np
import pytest
import torch

from mini import GOLDEN
from network import cam_net, resnet38_contrast, resnet38_contrast_eps
from network.baselines import BASELINES, baseline_of, pick_baseline
from network.baselines.baseline import LossOptions
from network.resnet38_aff import Net as AffNet
from network.weights import find_net, net_for_training, net_from_checkpoint
from recipe import fill, normal
from tool.files.checkpoints import save_checkpoint
from tool.run.errors import UserError

SMALL = 0.0625


def check(outputs, data):
    for name, value in outputs.items():
        np.testing.assert_allclose(value.detach().numpy(), data[name], rtol=1e-4, atol=1e-5, err_msg=name)


def keys(name):
    return [tuple(line.split(' ')) for line in (GOLDEN / 'keys' / f'{name}.keys.txt').read_text().splitlines()]


def test_seam_net_is_the_published_one():
    net = fill(resnet38_contrast.Net()).eval()
    assert [(key, 'x'.join(map(str, value.shape))) for key, value in net.state_dict().items()] == \
        keys('resnet38_contrast.seam')
    x = normal('x', 2, 3, 65, 81)
    with torch.no_grad():
        cam, cam_rv, f_proj, cam_rv_down = net(x)
        only = net.forward_cam_rv(x, torch.tensor([3, 7]))
        gated = net.forward_cam_rv(x, torch.tensor([3, 7]), gate=True)
    check({'cam': cam[..., ::4, ::4], 'cam_rv': cam_rv[..., ::4, ::4], 'f_proj': f_proj, 'cam_rv_down': cam_rv_down},
          np.load(GOLDEN / 'net.seam.npz'))
    torch.testing.assert_close(only, cam_rv[:, [3, 7]])
    assert (gated.sum((2, 3)) > only.sum((2, 3))).all()  # pixels that other classes had won


def test_a_gated_pcm_knows_the_named_classes_only():
    cam = normal('cam', 2, 21, 6, 7)
    maps = cam_net.pcm_input(cam, 0, torch.tensor([3, 7]))
    absent = cam.clone()
    absent[:, [c for c in range(1, 21) if c not in (3, 7)]] = 0
    expected = cam_net.pcm_input(absent, 0)
    torch.testing.assert_close(maps, expected)
    assert (maps[:, 1:].sum(1) > 0).any() and (maps[:, [1, 2, 20]] == 0).all()


def test_a_lifted_class_is_seen_where_it_is_positive_nowhere():
    cam = normal('cam', 2, 21, 6, 7)
    cam[:, [3, 5]] -= 100
    lifted = cam_net.lift(cam.bfloat16(), torch.tensor([3]))
    kept = [c for c in range(21) if c != 3]
    assert lifted.dtype == torch.float32 and torch.equal(lifted[:, kept], cam.bfloat16().float()[:, kept])
    assert (lifted[:, 3].amin((1, 2)) == 0).all()
    maps = cam_net.pcm_input(lifted, 0)
    assert (maps[:, 3].amax((1, 2)) > 0.99).all() and (maps[:, 5] == 0).all()
    assert (cam_net.pcm_input(cam, 0)[:, 3] == 0).all()


def test_eps_net_is_the_published_one():
    net = fill(resnet38_contrast_eps.Net()).eval()
    assert [(key, 'x'.join(map(str, value.shape))) for key, value in net.state_dict().items()] == \
        keys('resnet38_contrast.eps')
    x = normal('x', 2, 3, 65, 81)
    with torch.no_grad():
        outputs = net(x)
        torch.testing.assert_close(net.forward_cam(x), outputs[1])
    check(dict(zip(('pred', 'cam', 'pred_rv', 'cam_rv', 'f_proj'), outputs)), np.load(GOLDEN / 'net.eps.npz'))


@pytest.mark.parametrize('slab', [1, 7 * 63, 1 << 23])
def test_pcm_in_slabs_is_the_whole_pcm(slab, monkeypatch):
    maps, feature = torch.rand(2, 21, 7, 9), torch.randn(2, 16, 7, 9)
    whole = cam_net.correlate(maps, feature.requires_grad_())
    normed = feature.flatten(2) / (feature.flatten(2).norm(dim=1, keepdim=True) + 1e-5)
    affinity = torch.relu(normed.transpose(1, 2) @ normed)
    torch.testing.assert_close(whole.flatten(2), maps.flatten(2) @ (affinity / (affinity.sum(1, keepdim=True) + 1e-5)))
    monkeypatch.setattr(cam_net, 'SLAB', slab)
    with torch.no_grad():
        torch.testing.assert_close(cam_net.correlate(maps, feature), whole)


@pytest.mark.parametrize('bg_index', [0, 20])
def test_pcm_input_keeps_the_strongest_class(bg_index):
    cam = torch.randn(1, 21, 3, 4, generator=torch.Generator().manual_seed(0))  # with no two classes' maxima in one pixel
    maps = cam_net.pcm_input(cam, bg_index)
    foreground = torch.cat([maps[:, :bg_index], maps[:, bg_index + 1:]], 1)
    assert ((foreground > 0).sum(1) <= 1).all()
    torch.testing.assert_close(maps[:, bg_index], 1 - foreground.amax(1))


def test_gradients_reach_what_the_method_trains():
    """The PCM learns through its own layers; its taps and the class map are cut off from it."""
    net = resnet38_contrast.Net(SMALL).train()
    net.forward(torch.randn(1, 3, 48, 48), upsample=False)[3].sum().backward()
    assert net.f9.weight.grad.abs().sum() > 0 and net.f8_3.weight.grad is not None
    assert net.fc8.weight.grad is None and net.b5.conv_branch2a.weight.grad is None


def test_width_comes_back_from_a_checkpoint(tmp_path):
    path = str(tmp_path / 'net.pth')
    net = fill(resnet38_contrast.Net(0.125))
    save_checkpoint(path, net.state_dict())
    loaded = net_from_checkpoint('network.resnet38_contrast', path)
    assert loaded.width == 0.125 and not loaded.training
    said = []
    assert net_for_training('network.resnet38_contrast', path, say=said.append).width == 0.125
    assert 'stay frozen' in said[0]
    with pytest.raises(UserError, match='is of width 0.125'):
        net_for_training('network.resnet38_contrast', path, 0.25)


def test_a_checkpoint_in_16_bits_becomes_a_network_in_32(tmp_path):
    path = str(tmp_path / 'net.pth')
    state = {key: value.half() if value.is_floating_point() else value
             for key, value in fill(resnet38_contrast.Net(SMALL)).state_dict().items()}
    save_checkpoint(path, state)
    loaded = net_from_checkpoint('network.resnet38_contrast', path)
    assert all(torch.equal(value, state[key].to(value.dtype)) for key, value in loaded.state_dict().items())
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_weights_are_in_memory_once():
    state = fill(resnet38_contrast.Net(SMALL)).state_dict()
    loaded = net_from_checkpoint('network.resnet38_contrast', 'net.pth', state)
    assert all(value.data_ptr() == state[key].data_ptr() for key, value in loaded.state_dict().items())
    assert loaded.fc8.weight.requires_grad and not loaded.b2.conv_branch2a.weight.requires_grad


def test_backbone_of_another_stage_is_used_and_said(tmp_path):
    path = str(tmp_path / 'net.pth')
    trained = fill(resnet38_contrast.Net(SMALL))
    save_checkpoint(path, trained.state_dict())
    said = []
    net = net_for_training('network.resnet38_aff', path, say=said.append)
    assert torch.equal(net.b7.conv_branch1.weight, trained.b7.conv_branch1.weight)
    anew, unused = said[0].split('initialised anew: ')[1].split('; not used: ')
    assert 'f8_5' in anew and 'f9' in anew and 'fc8' in unused and 'fc_proj' in unused


def test_other_networks_are_refused(tmp_path):
    path = str(tmp_path / 'net.pth')
    save_checkpoint(path, AffNet(SMALL).state_dict())
    with pytest.raises(UserError, match='not a checkpoint of network.resnet38_contrast: it lacks fc8.weight'):
        net_from_checkpoint('network.resnet38_contrast', path)
    save_checkpoint(path, torch.nn.Linear(2, 2).state_dict())
    for load in (net_from_checkpoint, net_for_training):
        with pytest.raises(UserError, match='no ResNet-38 in this checkpoint'):
            load('network.resnet38_contrast', path)
    state = resnet38_contrast.Net(SMALL).state_dict()
    del state['b5.conv_branch1.weight']
    save_checkpoint(path, state)
    with pytest.raises(UserError, match='lacks the backbone tensor b5.conv_branch1.weight'):
        net_for_training('network.resnet38_contrast', path)
    with pytest.raises(UserError, match='no such network'):
        find_net('network.resnet39')


def test_baseline_is_read_from_the_checkpoint():
    seam, eps = resnet38_contrast.Net(SMALL).state_dict(), resnet38_contrast_eps.Net(SMALL).state_dict()
    assert baseline_of(seam, 'x.pth')[0] is BASELINES['seam'] and baseline_of(eps, 'x.pth', 'eps')[0] is BASELINES['eps']
    with pytest.raises(UserError, match='x.pth: is a checkpoint of the eps baseline, not of --baseline seam'):
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
    torch.testing.assert_close(seam[0], torch.tensor([[-1e-5, 1 - 1e-5], [3 - 1e-5, 5 - 1e-5]]) / (5 + 1e-5))
    torch.testing.assert_close(BASELINES['eps'].finish(maps)[0], maps[0] / (5 + 1e-5))


@pytest.mark.parametrize('name', ['seam', 'eps'])
def test_mirrored_pass_is_put_back(name):
    """A picture and its mirror image give the same maps whichever comes first, mirrored."""
    net = fill(find_net(BASELINES[name].network)(SMALL)).eval()
    view = normal('view', 3, 40, 56)
    with torch.no_grad():
        maps, mirrored = (BASELINES[name].maps(net, torch.stack([x, x.flip(2)]), [4, 9], (33, 47))
                          for x in (view, view.flip(2)))
    assert maps.shape == (2, 33, 47)
    torch.testing.assert_close(maps, mirrored.flip(2), rtol=1e-4, atol=1e-5)


def test_the_contrast_is_told_what_is_padding(monkeypatch):
    given = {}
    monkeypatch.setattr('network.baselines.baseline.contrast_loss', lambda *_, **named: given.update(named) or {'loss_nce': 0})
    batch = {'image': normal('crop', 2, 3, 64, 64), 'label': torch.eye(20)[:2]}
    batch['image'][:, :, :, 40:] = 0
    BASELINES['seam'].losses(fill(find_net(BASELINES['seam'].network)(SMALL)), batch, LossOptions(view2_size=32))
    assert (given['inside'] == (torch.arange(64) < 40)).all()
