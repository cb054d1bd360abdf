"""The SEAM and EPS networks against the published numbers; the PCM in slabs."""

import numpy as np
import pytest
import torch

from mini import GOLDEN
from network import cam_net, pcm_additions, resnet38_contrast, resnet38_contrast_eps
from recipe import fill, normal

SMALL = 0.0625


def check(outputs, data):
    for name, value in outputs.items():
        np.testing.assert_allclose(
            value.detach().numpy(), data[name], rtol=1e-4, atol=1e-5, err_msg=name
        )


def keys(name):
    return [
        tuple(line.split(' '))
        for line in (GOLDEN / 'keys' / f'{name}.keys.txt').read_text().splitlines()
    ]


def test_seam_net_is_the_published_one():
    net = fill(resnet38_contrast.Net()).eval()
    assert [
        (key, 'x'.join(map(str, value.shape))) for key, value in net.state_dict().items()
    ] == keys('resnet38_contrast.seam')
    x = normal('x', 2, 3, 65, 81)
    with torch.no_grad():
        cam, cam_rv, f_proj, cam_rv_down = net(x)
        channels = torch.tensor([3, 7])
        only = net.forward_cam_rv(x, channels)
        gated = net.forward_cam_rv(x, channels, lambda cam: pcm_additions.gate(cam, channels))
    check(
        {
            'cam': cam[..., ::4, ::4],
            'cam_rv': cam_rv[..., ::4, ::4],
            'f_proj': f_proj,
            'cam_rv_down': cam_rv_down,
        },
        np.load(GOLDEN / 'net.seam.npz'),
    )
    torch.testing.assert_close(only, cam_rv[:, [3, 7]])
    assert (gated.sum((2, 3)) > only.sum((2, 3))).all()  # pixels that other classes had won


def test_eps_net_is_the_published_one():
    net = fill(resnet38_contrast_eps.Net()).eval()
    assert [
        (key, 'x'.join(map(str, value.shape))) for key, value in net.state_dict().items()
    ] == keys('resnet38_contrast.eps')
    x = normal('x', 2, 3, 65, 81)
    with torch.no_grad():
        outputs = net(x)
        torch.testing.assert_close(net.forward_cam(x), outputs[1])
    check(
        dict(zip(('pred', 'cam', 'pred_rv', 'cam_rv', 'f_proj'), outputs)),
        np.load(GOLDEN / 'net.eps.npz'),
    )


@pytest.mark.parametrize('slab', [1, 7 * 63, 1 << 23])
def test_pcm_in_slabs_is_the_whole_pcm(slab, monkeypatch):
    maps, feature = torch.rand(2, 21, 7, 9), torch.randn(2, 16, 7, 9)
    whole = cam_net.correlate(maps, feature.requires_grad_())
    normed = feature.flatten(2) / (feature.flatten(2).norm(dim=1, keepdim=True) + 1e-5)
    affinity = torch.relu(normed.transpose(1, 2) @ normed)
    torch.testing.assert_close(
        whole.flatten(2), maps.flatten(2) @ (affinity / (affinity.sum(1, keepdim=True) + 1e-5))
    )
    monkeypatch.setattr(cam_net, 'SLAB', slab)
    with torch.no_grad():
        torch.testing.assert_close(cam_net.correlate(maps, feature), whole)


@pytest.mark.parametrize('bg_index', [0, 20])
def test_pcm_input_keeps_the_strongest_class(bg_index):
    cam = torch.randn(
        1, 21, 3, 4, generator=torch.Generator().manual_seed(0)
    )  # with no two classes' maxima in one pixel
    maps = cam_net.pcm_input(cam, bg_index)
    foreground = torch.cat([maps[:, :bg_index], maps[:, bg_index + 1 :]], 1)
    assert ((foreground > 0).sum(1) <= 1).all()
    torch.testing.assert_close(maps[:, bg_index], 1 - foreground.amax(1))


def test_gradients_reach_what_the_method_trains():
    """The PCM learns through its own layers; its taps and the class map are cut off from it."""
    net = resnet38_contrast.Net(SMALL).train()
    net.forward(torch.randn(1, 3, 48, 48), upsample=False)[3].sum().backward()
    assert net.f9.weight.grad.abs().sum() > 0 and net.f8_3.weight.grad is not None
    assert net.fc8.weight.grad is None and net.b5.conv_branch2a.weight.grad is None
