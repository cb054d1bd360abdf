"""network/cpu: what `speed_up` puts over a network changes nothing but speed and memory."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mini import GOLDEN
from net import generate_net
from network import (
    resnet38_aff,
    resnet38_contrast,
    resnet38_contrast_eps,
    resnet38d,
    timm_contrast,
)
from network.cpu import dropout, speed_up
from network.cpu import resnet38 as cpu_resnet38
from network.cpu.convolutions import StridedConv1x1, WinogradConv
from network.cpu.depthwise import DilatedDepthwise, TrainsInFloat32
from network.cpu.resnet38 import BottleneckInHalves, CamInStrips, InPlaceBatchNorm, SameShapeBlock
from network.device import to_device
from network.resnet38d import ResNet38
from network.weights import net_from_checkpoint
from recipe import fill, normal
from segmentation_toy import config_of
from tool.method import plain

LITE0 = 'tf_efficientnet_lite0'
CPU = torch.device('cpu')


def golden(name, outputs):
    data = np.load(GOLDEN / f'net.{name}.npz')
    for key, value in outputs.items():
        np.testing.assert_allclose(value.numpy(), data[key], rtol=1e-4, atol=1e-5, err_msg=key)


def names_of(net, kind):
    return [name for name, module in net.named_modules() if isinstance(module, kind)]


# ---------------------------------------------------------------- the same numbers


@torch.no_grad()
def test_golden_numbers_of_seam():
    net = speed_up(fill(resnet38_contrast.Net()).eval())
    x = normal('x', 2, 3, 65, 81)
    cam, cam_rv, f_proj, cam_rv_down = net(x)
    small = {'cam': cam[..., ::4, ::4], 'cam_rv': cam_rv[..., ::4, ::4]}
    golden('seam', {**small, 'f_proj': f_proj, 'cam_rv_down': cam_rv_down})
    torch.testing.assert_close(net.forward_cam_rv(x, torch.tensor([3, 7])), cam_rv[:, [3, 7]])


@torch.no_grad()
def test_golden_numbers_of_eps():
    net = speed_up(fill(resnet38_contrast_eps.Net()).eval())
    x = normal('x', 2, 3, 65, 81)
    outputs = net(x)
    golden('eps', dict(zip(('pred', 'cam', 'pred_rv', 'cam_rv', 'f_proj'), outputs)))
    torch.testing.assert_close(net.forward_cam(x), outputs[1])


@torch.no_grad()
def test_golden_numbers_of_affinity_net():
    net = speed_up(fill(resnet38_aff.Net()).eval())
    golden('aff', {'aff': net(normal('xaff', 1, 3, 136, 152))})


@torch.no_grad()
def test_golden_numbers_of_deeplab():
    net = speed_up(fill(generate_net(config_of('SEAM_deeplabv1_resnet38'))).eval())
    golden('deeplabv1_38', {'logits': net(normal('xseg', 2, 3, 65, 81))[..., ::4, ::4]})


@pytest.mark.parametrize('size', [(41, 70), (321, 330)])  # the larger one's maps take Winograd
def test_inference_in_place_and_in_strips_is_the_plain_network(size, monkeypatch):
    monkeypatch.setattr(cpu_resnet38, 'STRIP', 3)
    net = fill(resnet38_contrast.Net(1 / 8)).eval()
    x = normal('image', 1, 3, *size)
    before = x.clone()
    with torch.no_grad():
        expected = plain.resnet38(net, x)
        expected_cam = net.fc8(expected['conv6'])
        speed_up(net)
        features = net.features(x)
        cam, taps = net.cam_and_taps(x)
    for name, tap in expected.items():
        tolerance = 1e-5 * tap.max().item()
        torch.testing.assert_close(features[name], tap, rtol=1e-4, atol=tolerance)
    torch.testing.assert_close(cam, expected_cam, rtol=1e-4, atol=1e-4)
    assert torch.equal(x, before)
    assert list(taps) == ['conv3', 'conv4', 'conv5']
    assert torch.equal(taps['conv4'], features['conv4'])


def test_with_gradient_and_without_dropout_it_is_the_plain_network_to_the_bit():
    made = []
    for prepare in (speed_up, lambda net: net):
        net = prepare(fill(ResNet38(1 / 16)).eval())
        taps = net.features(normal('image', 1, 3, 41, 70))
        sum(tap.mean() for tap in taps.values()).backward()
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        made.append([*taps.values(), *gradients])
    assert len(made[0]) == len(made[1]) > 20
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*made))


def test_training_with_dropout_is_the_same_to_rounding_from_the_same_random_numbers(monkeypatch):
    monkeypatch.setattr(dropout, 'MIN_CHANNELS', 32)
    monkeypatch.setattr(dropout, 'MIN_PIXELS', 1)
    made = []
    for prepare in (speed_up, lambda net: net):
        net = prepare(fill(ResNet38(1 / 16)).train())
        torch.manual_seed(2)
        conv6 = net.features(normal('image', 2, 3, 41, 70))['conv6']
        conv6.square().mean().backward()
        made.append([conv6.detach(), net.b3.conv_branch2a.weight.grad, torch.rand(3)])
    for ours, theirs in zip(*made):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())
    assert not torch.equal(made[0][0], made[1][0])  # it did go another way
    assert torch.equal(made[0][2], made[1][2])


@torch.no_grad()
def test_depthwise_convolutions_of_timm_are_the_same():
    net = timm_contrast.Net(LITE0, 8).double().eval()
    x = normal('x', 1, 3, 72, 88).double()
    expected = net.features(x)
    for name, tap in speed_up(net).features(x).items():
        torch.testing.assert_close(tap, expected[name])


# ---------------------------------------------------------------- what is put over what


def test_modules_keep_everything_but_their_class():
    for make, arguments in ((resnet38_contrast.Net, (1 / 16,)), (timm_contrast.Net, (LITE0, 8))):
        net = make(*arguments).train()
        modules = list(net.named_modules())
        state = net.state_dict(keep_vars=True)
        training = [module.training for module in net.modules()]
        random_state = torch.get_rng_state()
        assert speed_up(net) is net and isinstance(net, make)
        classes = [type(module) for module in net.modules()]
        assert [type(module) for module in speed_up(net).modules()] == classes  # twice is once
        assert torch.equal(torch.get_rng_state(), random_state)
        assert list(net.named_modules()) == modules
        assert [module.training for module in net.modules()] == training
        after = net.state_dict(keep_vars=True)
        assert list(after) == list(state)
        assert all(after[key] is value for key, value in state.items())
        copy.deepcopy(net)


def test_what_goes_where_in_resnet38():
    net = speed_up(resnet38_contrast.Net(1 / 16))
    b4 = [f'b4_{i}' for i in range(1, 6)]
    same_shape = ['b2_1', 'b2_2', 'b3_1', 'b3_2', *b4, 'b5_1', 'b5_2']
    assert names_of(net, SameShapeBlock) == same_shape
    assert names_of(net, BottleneckInHalves) == ['b6', 'b7']
    strided = [f'{name}.conv_branch1' for name in ('b2', 'b3', 'b4')]
    assert names_of(net, StridedConv1x1) == strided
    late = ['b3', 'b4', 'b5', *same_shape[2:]]
    winograd = {f'{name}.conv_branch2b1' for name in (*late, 'b6', 'b7')}
    winograd |= {f'{name}.conv_branch2a' for name in late if name not in ('b3', 'b4')}  # stride 2
    assert set(names_of(net, WinogradConv)) == winograd
    # every norm but those in front of which the shortcut branches off
    norms = set(names_of(net, nn.BatchNorm2d)) - set(names_of(net, InPlaceBatchNorm))
    assert norms == {f'{name}.bn_branch2a' for name in names_of(net, SameShapeBlock)}
    assert isinstance(net, CamInStrips)


def test_what_goes_where_in_other_networks():
    net = speed_up(resnet38_aff.Net(1 / 16))
    assert not isinstance(net, CamInStrips) and len(names_of(net, WinogradConv)) > 10
    config = config_of('SEAM_deeplabv1_resnet38', MODEL_BACKBONE_WIDTH=1 / 16)
    net = speed_up(generate_net(config))
    assert len(names_of(net.backbone, WinogradConv)) == len(names_of(net, WinogradConv)) > 10
    net = speed_up(timm_contrast.Net(LITE0, 8))
    assert len(names_of(net, DilatedDepthwise)) == 10 and len(names_of(net, TrainsInFloat32)) == 16
    config = config_of('EPS_deeplabv1_resnet101', MODEL_BACKBONE='resnet18')
    net = generate_net(config)
    classes = [type(module) for module in net.modules()]
    assert [type(module) for module in speed_up(net).modules()] == classes


def test_a_norm_writes_over_its_input_in_inference_only():
    net = speed_up(fill(ResNet38(1 / 16)).eval())

    def is_in_place(dtype=torch.float32):
        x = normal('x', 1, 256, 9, 9).to(dtype)
        return net.bn7(x).data_ptr() == x.data_ptr()

    assert not is_in_place()
    with torch.no_grad():
        assert is_in_place()
        assert not is_in_place(torch.bfloat16)
        net.bn7.train()
        assert not is_in_place()


def test_conv6_is_there_a_few_rows_at_a_time_in_inference(monkeypatch):
    net = speed_up(fill(resnet38_contrast.Net(1 / 16)).eval())
    rows = []

    def norm_relu(norm, x):
        if norm is net.bn7:
            rows.append(x.shape[2])
        return own_norm_relu(norm, x)

    own_norm_relu = cpu_resnet38.norm_relu
    for module in (cpu_resnet38, resnet38d):
        monkeypatch.setattr(module, 'norm_relu', norm_relu)
    with torch.no_grad():
        net.forward_cam_rv(torch.randn(1, 3, 160, 40), torch.tensor([3]))
    assert rows == [8, 8, 4]
    rows.clear()
    net.cam_and_taps(torch.randn(1, 3, 160, 40))[0].sum().backward()
    assert rows == [20]


def test_it_compiles():
    made = []
    x = normal('image', 1, 3, 64, 64)
    for compiled in (True, False):
        net = speed_up(fill(resnet38_contrast.Net(1 / 16)).eval())
        if compiled:
            net.compile(backend='eager', fullgraph=True)
        with torch.no_grad():
            inferred = net(x)[0]
        trained = net(x)[0]
        trained.sum().backward()
        made.append([inferred, trained.detach(), net.b3.conv_branch2a.weight.grad])
    for ours, theirs in zip(*made):
        torch.testing.assert_close(ours, theirs)


# ---------------------------------------------------------------- where it is asked for


def test_networks_come_to_a_cpu_with_it_and_elsewhere_without():
    assert isinstance(to_device(resnet38_contrast.Net(1 / 16), CPU), CamInStrips)
    assert not isinstance(
        to_device(resnet38_contrast.Net(1 / 16), torch.device('meta')), CamInStrips
    )


def test_a_checkpoint_of_one_is_a_checkpoint_of_the_other():
    fast = speed_up(fill(resnet38_contrast.Net(1 / 16)))
    plain_net = net_from_checkpoint('network.resnet38_contrast', 'x.pth', fast.state_dict())
    assert not isinstance(plain_net, CamInStrips)
    speed_up(resnet38_contrast.Net(1 / 16)).load_state_dict(plain_net.state_dict())
