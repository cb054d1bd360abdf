"""Dilated depthwise convolutions by interleaving: equal to torch's, in place of timm's without
changing its keys."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from network.cpu.depthwise import DilatedDepthwise, interleaved, train_in_float32, use_interleaved
from recipe import normal


@pytest.mark.parametrize('size', [(12, 16), (13, 9), (3, 2)])
@pytest.mark.parametrize('kernel, dilation', [(3, 2), (5, 4), (5, 3)])
def test_equal_to_torch(size, kernel, dilation):
    x, weight, bias = normal('x', 2, 16, *size), normal('w', 16, 1, kernel, kernel), normal('b', 16)

    def plain(x, weight, bias, dilation):
        return F.conv2d(
            x, weight, bias, padding=dilation * (kernel // 2), dilation=dilation, groups=16
        )

    def results(function):
        leaves = [leaf.clone().requires_grad_() for leaf in (x, weight, bias)]
        y = function(*leaves, dilation)
        (y * normal('g', *y.shape)).sum().backward()
        return [y, *(leaf.grad for leaf in leaves)]

    for ours, theirs in zip(results(interleaved), results(plain)):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_takes_timms_place():
    net = (
        timm.create_model('tf_efficientnet_lite0', num_classes=0, global_pool='', output_stride=8)
        .double()
        .eval()
    )
    x, keys = normal('picture', 1, 3, 72, 88).double(), list(net.state_dict())
    with torch.no_grad():
        expected = net(x)
        use_interleaved(net)
        torch.testing.assert_close(net(x), expected)
    assert sum(isinstance(module, DilatedDepthwise) for module in net.modules()) == 10
    assert list(net.state_dict()) == keys and all(
        not parameter.is_meta for parameter in net.parameters()
    )


def test_other_convolutions_stay():
    kept = [
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 16, 3, padding=2, dilation=2),
        nn.Conv2d(16, 16, 3, padding=1, dilation=2, groups=16),
        nn.Conv2d(16, 16, 3, 2, 2, 2, groups=16),
        nn.Conv2d(16, 32, 3, padding=2, dilation=2, groups=16),
        nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=16, padding_mode='reflect'),
    ]
    net = nn.Sequential(*kept, nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=16, bias=False))
    use_interleaved(net)
    assert list(net)[:-1] == kept and isinstance(net[-1], DilatedDepthwise) and net[-1].bias is None


def test_depthwise_convolutions_train_in_float32(monkeypatch):
    seen = []
    monkeypatch.setattr(
        F, 'conv2d', lambda x, *rest, _conv2d=F.conv2d: (seen.append(x.dtype), _conv2d(x, *rest))[1]
    )
    net = timm.create_model('tf_efficientnet_lite0', num_classes=0, global_pool='')
    use_interleaved(net)
    keys = list(net.state_dict())
    train_in_float32(net)
    assert list(net.state_dict()) == keys
    blocks = net.blocks[6], net.blocks[5][0]  # one that pads like TensorFlow, of stride 2
    for block in blocks:
        conv, x = (
            (block[0] if block is blocks[0] else block).conv_dw,
            torch.randn(1, 672 if block is blocks[1] else 1152, 8, 8),
        )
        with torch.autocast('cpu', torch.bfloat16):
            low = conv(x.bfloat16())
            assert low.dtype == torch.bfloat16 and seen[-1] == torch.float32
            low.float().sum().backward()
        assert conv.weight.grad.dtype == torch.float32 and conv.weight.grad.abs().sum() > 0
        torch.testing.assert_close(conv(x.bfloat16().float()), low.float(), rtol=1e-2, atol=1e-2)
        with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
            conv(x.bfloat16())
        assert seen[-1] == torch.bfloat16
