"""tool/train/precision.py: outputs and losses stay float32 in 16 bits, the gradients are close to
those of float32."""

import pytest
import torch

from network import resnet38_aff, resnet38_contrast, resnet38_contrast_eps
from network.baselines import BASELINES
from network.baselines.baseline import LossOptions
from network.cpu import resnet38 as cpu_resnet38
from network.cpu import speed_up
from recipe import fill, normal
from tool.run import command_line
from tool.run.errors import UserError
from tool.train import precision

CPU = torch.device('cpu')


def test_names_are_those_of_the_flag():
    assert (*precision.DTYPES, 'auto') == command_line.AMP


@pytest.mark.parametrize(
    'supported, half, amp', [(True, 1.0, 'bf16'), (True, 3.0, 'off'), (False, 1.0, 'off')]
)
def test_auto_is_bf16_where_the_processor_is_faster_in_it(supported, half, amp, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported', lambda: supported)
    monkeypatch.setattr(
        precision, 'multiplies_faster_in_bf16', precision.multiplies_faster_in_bf16.__wrapped__
    )
    times = iter([half, 2.0])  # in bfloat16, in float32
    monkeypatch.setattr(precision.timeit, 'repeat', lambda *args, **options: [9.0, next(times)])
    assert precision.resolved('auto', CPU) == amp
    assert precision.resolved('auto', torch.device('mps')) == 'off'
    assert [precision.resolved(given, CPU) for given in ('off', 'bf16', 'fp16')] == [
        'off',
        'bf16',
        'fp16',
    ]


@pytest.mark.parametrize('module', [resnet38_contrast, resnet38_contrast_eps, resnet38_aff])
def test_outputs_are_float32_and_close(module):
    image, outputs, tops = normal('x', 2, 3, 96, 96), {}, []
    for amp in ('off', 'bf16'):
        net = fill(module.Net(1 / 16)).eval()
        net.bn7.register_forward_hook(lambda m, i, o: tops.append(o.dtype))
        with torch.no_grad():  # a frozen norm is not called where a gradient is wanted
            made = precision.fast_forward(net, CPU, amp)(image)
        outputs[amp] = [made] if torch.is_tensor(made) else list(made)
        assert all(output.dtype == torch.float32 for output in outputs[amp])
        assert all(parameter.dtype == torch.float32 for parameter in net.parameters())
    assert tops == [torch.float32, torch.bfloat16]
    for full, half in zip(*outputs.values()):
        error = (full - half).norm() / full.norm()
        assert 0 < error < 0.1


def test_loss_and_gradients_of_bf16():
    label = torch.eye(20)[:2]
    made = {}
    for amp in ('off', 'bf16'):
        net = fill(resnet38_contrast.Net(1 / 16)).eval()
        batch = {'image': normal('x', 2, 3, 96, 96), 'label': label}
        terms = BASELINES['seam'].losses(
            precision.fast_forward(net, CPU, amp),
            batch,
            LossOptions(48, 1, contrast=BASELINES['seam'].contrast_options()),
            torch.Generator().manual_seed(0),
        )
        assert all(value.dtype == torch.float32 for value in terms.values())
        terms['loss_cls'].backward()
        made[amp] = terms['loss_cls'].item(), net.fc8.weight.grad
    assert (
        made['bf16'][0] == pytest.approx(made['off'][0], rel=0.02)
        and made['bf16'][0] != made['off'][0]
    )
    assert (made['bf16'][1] - made['off'][1]).norm() < 0.1 * made['off'][1].norm()


def test_16_bits_are_channels_last():
    net = resnet38_contrast.Net(1 / 16)
    precision.fast_forward(net, CPU, 'bf16')
    assert net.b3.conv_branch2a.weight.is_contiguous(memory_format=torch.channels_last)
    precision.fast_forward(net, CPU, 'off')
    assert net.b3.conv_branch2a.weight.is_contiguous()
    precision.fast_forward(net, CPU, 'off', channels_last=True)
    assert net.b3.conv_branch2a.weight.is_contiguous(memory_format=torch.channels_last)
    precision.fast_forward(net, CPU, 'off')
    assert net.b3.conv_branch2a.weight.is_contiguous()


def test_inference_with_held_weights_and_strips_is_the_same(monkeypatch):
    view, made = normal('x', 2, 3, 96, 96), []
    for held, strip in ((False, 100), (True, 4)):
        monkeypatch.setattr(cpu_resnet38, 'STRIP', strip)
        net = speed_up(fill(resnet38_contrast.Net(1 / 16)).eval())
        net.to(memory_format=torch.channels_last)
        if held:
            precision.hold_convolutions(net, torch.bfloat16)
            assert net.fc8.weight.dtype == torch.bfloat16 and net.bn7.weight.dtype == torch.float32
        with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
            made.append(BASELINES['seam'].maps(net, view, [3, 7], (90, 80)))
    assert 0 < made[0].abs().max() and (made[0] - made[1]).abs().max() < 0.01 * made[0].abs().max()


def test_fp16_needs_a_gpu():
    with pytest.raises(UserError, match='amp fp16: needs a GPU; use bf16'):
        precision.fast_forward(resnet38_contrast.Net(1 / 16), CPU, 'fp16')
    assert precision.grad_scaler('bf16').state_dict() == {}


@pytest.mark.parametrize(
    'amp, tf32, capability, text',
    [
        ('off', True, (8, 0), 'off (convolutions in TF32)'),
        ('off', False, (9, 0), 'off (convolutions in float32)'),
        ('off', True, (7, 5), 'off'),
        ('bf16', True, (8, 0), 'bf16'),
    ],
)
def test_the_log_says_where_float32_is_tf32(monkeypatch, amp, tf32, capability, text):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    assert precision.described(amp, torch.device('cuda', 0), tf32) == text


def test_tf32_is_for_convolutions_alone():
    before = torch.backends.cudnn.allow_tf32
    for allowed in (False, True):
        precision.allow_tf32(allowed)
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.backends.cuda.matmul.allow_tf32 is False
    torch.backends.cudnn.allow_tf32 = before


def test_deterministic_or_fast_is_a_choice_of_gpus_only(monkeypatch):
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', False)
    for deterministic in (True, False):
        precision.choose_algorithms(torch.device('cuda', 0), deterministic)
        assert torch.are_deterministic_algorithms_enabled() is deterministic
        assert torch.backends.cudnn.benchmark is not deterministic
    precision.choose_algorithms(CPU, True)
    assert not torch.are_deterministic_algorithms_enabled()
