"""How a training step computes: mixed precision, channels-last tensors, torch.compile, the same
bits every time."""

import functools
import os
import timeit
from collections.abc import Callable

import torch
from torch import nn

from tool.run.errors import UserError
from tool.train import processes

DTYPES = {'off': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def resolved(amp: str, device: torch.device) -> str:
    """A choice of AMP with 'auto' replaced: 'bf16' where the device is faster in it, else 'off';
    one for all processes."""
    if amp != 'auto':
        return amp
    fast = {'cpu': multiplies_faster_in_bf16, 'cuda': lambda: torch.cuda.is_bf16_supported(False)}
    return 'bf16' if device.type in fast and processes.once(fast[device.type]) else 'off'


def has_bf16() -> bool:
    """True where this processor has instructions for bfloat16; elsewhere it is emulated."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@functools.cache  # tried once: the log must not contradict the choice
def multiplies_faster_in_bf16() -> bool:
    """True where this processor takes less time for a product of matrices in bfloat16 than in
    float32, tried on one (20 ms).

    Instructions alone do not say so: with AVX512-BF16 and no AMX, an Intel Xeon took 1.8 times as
    long (an AMD Zen 4 less).
    """
    if not has_bf16():
        return False

    def seconds(dtype: torch.dtype) -> float:
        square = torch.ones(512, 512, dtype=dtype)
        return min(timeit.repeat(lambda: square @ square, number=1, repeat=5))

    return seconds(torch.bfloat16) < seconds(torch.float32)


def amp_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """What --amp (`resolved`) computes in, None for float32.

    Raises:
        UserError: fp16 without a GPU.
    """
    if amp == 'fp16' and device.type != 'cuda':
        raise UserError('amp fp16: needs a GPU; use bf16 or off on a CPU')
    return DTYPES[amp]


def fast_forward(
    net: nn.Module,
    device: torch.device,
    amp: str = 'off',
    compiled: bool = False,
    channels_last: bool = False,
) -> Callable:
    """What to call in place of `net`: the same arguments, and outputs in float32 whatever it
    computes in.

    Weights and inputs are channels-last with 16 bits, or where asked for.

    Raises:
        UserError: fp16 without a GPU.
    """
    dtype = amp_dtype(amp, device)
    memory = torch.channels_last if channels_last or dtype is not None else torch.contiguous_format
    net.to(memory_format=memory)
    if compiled:
        net.compile(dynamic=False)  # a step has one size, or the two of its views

    def forward(image: torch.Tensor, **options):
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            outputs = net(image.contiguous(memory_format=memory), **options)
        return (
            outputs.float()
            if torch.is_tensor(outputs)
            else tuple(output.float() for output in outputs)
        )

    return forward


def hold_convolutions(net: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of a network's convolutions in `dtype`, as autocast would make them at every
    call. Not for training."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype, memory_format=torch.channels_last)


def described(amp: str, device: torch.device) -> str:
    """`amp` for the log, with a warning where a CPU multiplies slower in 16 bits."""
    if amp == 'bf16' and device.type == 'cpu' and not multiplies_faster_in_bf16():
        return 'bf16 (slower than off here: this processor multiplies slower in 16 bits)'
    return amp


def grad_scaler(amp: str) -> torch.amp.GradScaler:
    """Keeps small gradients of fp16 above zero; does nothing for the other types."""
    return torch.amp.GradScaler('cuda', enabled=amp == 'fp16')


def same_bits(device: torch.device) -> None:
    """Let two runs of one command on a GPU give the same weights (on the CPU they do anyway)."""
    if device.type == 'cuda':
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
