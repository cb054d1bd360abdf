"""network/cpu/dropout.py: a convolution after dropout leaves out what was dropped, and nothing else
changes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from network.cpu import dropout as module
from network.cpu.dropout import after_dropout
from recipe import normal


def layers(kernel=3, p=0.5, channels=160):
    conv = nn.Conv2d(channels, 24, kernel, padding=kernel // 2 * 2, dilation=2, bias=False)
    conv.weight.data = normal('weight', *conv.weight.shape)
    return conv, nn.Dropout2d(p).train()


def result(call, conv, x, dtype):
    """Output and gradients (of x, of the weights), with the same random numbers every time."""
    x, conv.weight.grad = x.detach().requires_grad_(), None
    torch.manual_seed(3)
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        y = call(x)
    (y.float() * normal('out', *y.shape)).sum().backward()
    return y.detach().float(), x.grad.float(), conv.weight.grad, torch.rand(1)


@pytest.mark.parametrize('p', [0.3, 0.5])
@pytest.mark.parametrize('kernel', [1, 3])
@pytest.mark.parametrize(
    'dtype, memory',
    [
        (torch.float32, torch.contiguous_format),
        (torch.float32, torch.channels_last),
        (torch.bfloat16, torch.channels_last),
    ],
)
def test_it_is_the_convolution_of_the_dropped_map(p, kernel, dtype, memory, monkeypatch):
    seen = []
    monkeypatch.setattr(
        F,
        'conv2d',
        lambda x, *rest, _conv2d=F.conv2d: (seen.append(x.shape[1]), _conv2d(x, *rest))[1],
    )
    conv, dropout = layers(kernel, p)
    conv.to(memory_format=memory)
    x = normal('x', 2, 160, 40, 41).to(dtype).contiguous(memory_format=memory)
    ours = result(lambda x: after_dropout(conv, dropout, x), conv, x, dtype)
    assert len(seen) == 2 and seen[0] == seen[1] < 160 and seen[0] % 16 == 0
    theirs = result(lambda x: conv(dropout(x)), conv, x, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for ours_one, theirs_one in zip(ours, theirs):
        torch.testing.assert_close(
            ours_one, theirs_one, rtol=0, atol=tolerance * theirs_one.abs().max().item()
        )


def test_where_it_does_not_pay_the_whole_map_is_convolved(monkeypatch):
    seen = []
    monkeypatch.setattr(module, '_pick', lambda *arguments: seen.append(1))
    conv, dropout = layers()
    with torch.no_grad():
        x = normal('x', 1, 160, 40, 41)
        torch.testing.assert_close(after_dropout(conv, dropout.eval(), x), conv(x))
        after_dropout(conv, nn.Dropout2d(0).train(), x)
        after_dropout(conv, dropout.train(), x[..., :9])
        few, dropout = layers(channels=64)
        after_dropout(few, dropout, x[:, :64])
        after_dropout(*layers(p=0.01), x)  # so few are dropped that a whole block of 16 is not
    assert seen == []
