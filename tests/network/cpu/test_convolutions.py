"""network/cpu/convolutions.py: what inference on a CPU computes is what PyTorch computes, and
training does not come near it."""

import pytest
import torch
import torch.nn.functional as F

from network.cpu import convolutions
from network.cpu.convolutions import StridedConv1x1, WinogradConv, winograd, winograd_rows
from recipe import normal

needs_nnpack = pytest.mark.skipif(
    not torch.backends.nnpack.is_available(), reason='this PyTorch has no NNPACK'
)


@needs_nnpack
@pytest.mark.parametrize('dilation', [1, 2, 4])
@pytest.mark.parametrize('size', [(1, 1), (3, 50), (25, 31), (24, 32), (26, 29)])
@pytest.mark.parametrize('workspace', [1, 1 << 24])  # one row of tiles at a time, all at once
def test_winograd_is_the_convolution(dilation, size, workspace, monkeypatch):
    monkeypatch.setattr(convolutions, 'WORKSPACE', workspace)
    x, weight = normal('x', 2, 19, *size), normal('weight', 33, 19, 3, 3)
    with torch.no_grad():
        y = winograd(x, weight, dilation)
    expected = F.conv2d(x, weight, None, 1, dilation, dilation)
    assert y.is_contiguous() and y.shape == expected.shape
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize('dilation', [1, 2, 4])
@pytest.mark.parametrize('size', [(1, 1), (3, 50), (25, 31), (24, 32), (26, 29)])
def test_winograd_along_rows_is_the_convolution(dilation, size):
    x, weight = (
        normal('x', 2, 19, *size).contiguous(memory_format=torch.channels_last),
        normal('weight', 33, 19, 3, 3),
    )
    y, expected = (
        winograd_rows(x, weight, dilation),
        F.conv2d(x, weight, None, 1, dilation, dilation),
    )
    assert y.is_contiguous(memory_format=torch.channels_last) and y.shape == expected.shape
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    low = winograd_rows(x.bfloat16(), weight, dilation)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(
        low.float(), expected, rtol=0, atol=0.02 * expected.abs().max().item()
    )


def test_gradients_of_winograd_along_rows():
    grads = []
    for call in (
        lambda x, weight: winograd_rows(x, weight, 2),
        lambda x, weight: F.conv2d(x, weight, None, 1, 2, 2),
    ):
        x, weight = (
            normal(name, *shape).requires_grad_()
            for name, shape in (('x', (2, 6, 9, 7)), ('weight', (5, 6, 3, 3)))
        )
        call(x, weight).square().sum().backward()
        grads.append((x.grad, weight.grad))
    for ours, theirs in zip(*grads):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


def conv3x3(channels_in, channels_out, dilation=1):
    return WinogradConv(
        channels_in, channels_out, 3, padding=dilation, dilation=dilation, bias=False
    )


@pytest.fixture
def calls(monkeypatch):
    """Sizes of the maps that went Winograd's way."""
    seen = []

    def spy(x, weight, dilation):
        seen.append(tuple(x.shape[2:]))
        return F.conv2d(x, weight, None, 1, dilation, dilation)

    monkeypatch.setattr(convolutions, 'has_fast_winograd', lambda: True)
    monkeypatch.setattr(convolutions, 'has_slow_bf16', lambda: True)
    monkeypatch.setattr(convolutions, 'winograd', spy)
    monkeypatch.setattr(convolutions, 'winograd_rows', spy)
    return seen


def test_inference_of_large_maps_takes_winograd(calls):
    with torch.inference_mode():
        for dilation in (1, 2, 4):
            conv, x = conv3x3(4, 8, dilation), torch.randn(1, 4, 50, 30)
            torch.testing.assert_close(
                conv(x), F.conv2d(x, conv.weight, None, 1, dilation, dilation)
            )
    assert calls == [(50, 30)] * 3


def test_bf16_takes_winograd_along_rows_where_there_are_many_channels(calls, monkeypatch):
    monkeypatch.setattr(convolutions, 'MIN_CHANNELS', 8)
    x = torch.randn(1, 8, 50, 30, dtype=torch.bfloat16).contiguous(
        memory_format=torch.channels_last
    )
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        assert conv3x3(8, 8)(x).dtype == torch.bfloat16
        assert calls == [(50, 30)]
        conv3x3(8, 4)(x)
        conv3x3(8, 8)(x[..., :49, :])
        conv3x3(8, 8)(x.contiguous())
        monkeypatch.setattr(convolutions, 'has_slow_bf16', lambda: False)
        conv3x3(8, 8)(x)
    monkeypatch.setattr(convolutions, 'has_slow_bf16', lambda: True)
    with torch.autocast('cpu', torch.bfloat16):  # training too
        conv3x3(8, 8)(x).sum().backward()
    assert calls == [(50, 30)] * 2


def test_everything_else_does_not(calls, monkeypatch):
    conv, x = conv3x3(4, 8), torch.randn(1, 4, 50, 30)
    conv(x).sum().backward()
    assert conv.weight.grad.abs().sum() > 0
    with torch.no_grad():
        conv(x[..., :49, :])
        conv(x.to(memory_format=torch.channels_last))
        conv.double()(x.double())
        with torch.autocast('cpu', torch.bfloat16):
            assert conv.float()(x).dtype == torch.bfloat16
        monkeypatch.setattr(convolutions, 'has_fast_winograd', lambda: False)
        conv(x)
    assert calls == []


@pytest.mark.parametrize('capability, fast', [('AVX2', True), ('AVX512', True), ('DEFAULT', False)])
def test_processors(capability, fast, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: capability)
    monkeypatch.setattr(torch.backends.nnpack, 'is_available', lambda: True)
    assert convolutions.has_fast_winograd() == fast


@pytest.mark.parametrize(
    'bf16, amx, slow', [(True, False, True), (True, True, False), (False, False, False)]
)
def test_processors_with_bf16(bf16, amx, slow, monkeypatch):
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: bf16)
    monkeypatch.setattr(torch.cpu, '_is_amx_tile_supported', lambda: amx)
    assert convolutions.has_slow_bf16() == slow


@pytest.mark.parametrize('stride', [1, 2])
def test_pointwise_convolution_with_a_stride(stride):
    conv = StridedConv1x1(5, 7, 1, stride, bias=False)
    x = torch.randn(2, 5, 9, 12)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, stride=stride))
