"""IRN's boundary head: what it reads of a backbone, its formula, and that the backbone stays."""

import pytest
import timm
import torch
import torch.nn.functional as F

from network import resnet38_boundary, resnet38_contrast, timm_boundary
from network.weights import BOUNDARY, net_for_training, net_from_checkpoint
from recipe import fill, normal
from tool.files.checkpoints import save_checkpoint
from tool.run.errors import UserError

TINY = 'test_resnet'


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """timm's network for tests with random weights, as a file of timm's keys."""
    path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    torch.save(fill(timm.create_model(TINY)).state_dict(), path)
    return str(path)


def of_timm(weights):
    return net_for_training(BOUNDARY, weights, say=lambda line: None, backbone=TINY)


def of_resnet38(tmp_path):
    path = str(tmp_path / 'seam.pth')
    save_checkpoint(path, fill(resnet38_contrast.Net(0.0625)).state_dict())
    return net_for_training(BOUNDARY, path, say=lambda line: None)


def test_a_resnet_has_five_depths_the_first_behind_its_pooling(weights):
    net = of_timm(weights).eval()
    x = normal('x', 2, 3, 64, 96)
    with torch.no_grad():
        depths = net.depths(x)
        stem = net.model.maxpool(net.model.act1(net.model.bn1(net.model.conv1(x))))
    strides = [64 // depth.shape[2] for depth in depths]
    assert strides == [4, 4, 8, 16, 16]
    torch.testing.assert_close(depths[0], stem)
    assert len(net.sides) == 5


@pytest.mark.parametrize(
    'name, strides',
    [('tf_efficientnet_lite0', [4, 4, 8, 16, 16]), ('test_convnext', [4, 8, 16, 16])],
)
def test_other_networks_have_the_depths_of_their_stages(name, strides):
    net = timm_boundary.Net(name).eval()
    x = normal('x', 1, 3, 64, 96)
    with torch.no_grad():
        assert [64 // depth.shape[2] for depth in net.depths(x)] == strides
        assert net(x).shape == (1, 16, 24)


@pytest.mark.parametrize('size', [(64, 96), (65, 81), (33, 47), (7, 100), (4, 4)])
@pytest.mark.parametrize('make', [timm_boundary.Net, resnet38_boundary.Net])
def test_logits_have_a_cell_for_four_pixels(make, size):
    net = make(TINY if make is timm_boundary.Net else 0.0625).eval()
    height, width = size
    with torch.no_grad():
        logits = net(normal('x', 2, 3, height, width))
    assert logits.shape == (2, -(-height // 4), -(-width // 4))


def test_logits_are_those_of_the_formula(weights):
    net = of_timm(weights).eval()
    for parameter in [*net.sides.parameters(), *net.boundary.parameters()]:
        parameter.data += torch.linspace(-0.1, 0.1, parameter.numel()).view(parameter.shape)
    x = normal('x', 1, 3, 64, 96)
    with torch.no_grad():
        sides = []
        for side, depth in zip(net.sides, net.depths(x)):
            features = F.conv2d(depth, side.conv.weight)
            features = F.group_norm(features, 4, side.norm.weight, side.norm.bias)
            factor = 16 // features.shape[2]
            features = F.interpolate(features, scale_factor=factor, mode='bilinear')
            sides.append(features.clamp(min=0))
        joined = torch.cat(sides, 1)
        assert joined.shape == (1, 160, 16, 24)
        expected = F.conv2d(joined, net.boundary.weight, net.boundary.bias)[:, 0]
        torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize('backbone', ['timm', 'resnet38'])
def test_only_the_head_is_trained(backbone, weights, tmp_path):
    net = of_timm(weights) if backbone == 'timm' else of_resnet38(tmp_path)
    net.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    x = normal('x', 2, 3, 64, 64)
    logits = net(x)
    assert torch.equal(logits, net(x))  # no dropout
    logits.square().mean().backward()
    trained = {name for name, value in net.named_parameters() if value.grad is not None}
    head = {
        f'{name}.{key}'
        for name in ('sides', 'boundary')
        for key in dict(getattr(net, name).named_parameters())
    }
    assert trained == head
    assert trained == {name for name, value in net.named_parameters() if value.requires_grad}
    after = net.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_checkpoint_rebuilds_its_network(weights, tmp_path):
    path = str(tmp_path / 'irn.pth')
    for net in (of_timm(weights).eval(), of_resnet38(tmp_path).eval()):
        save_checkpoint(path, net.state_dict())
        again = net_from_checkpoint(BOUNDARY, path)
        x = normal('x', 1, 3, 48, 48)
        with torch.no_grad():
            torch.testing.assert_close(again(x), net(x))


def test_the_log_says_what_stays_frozen_and_scratch_is_refused(weights):
    said = []
    net_for_training(BOUNDARY, weights, say=said.append, backbone=TINY)
    assert 'all layers of the backbone stay frozen; initialised anew: boundary, sides' in said[0]
    for backbone in (TINY, 'resnet38'):
        with pytest.raises(UserError, match='--weights scratch: the boundary head needs a trained'):
            net_for_training(BOUNDARY, 'scratch', backbone=backbone)
