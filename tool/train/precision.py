"""Ways for a network to compute: mixed precision, channels last, torch.compile, determinism."""

import functools
import os
import timeit
from collections.abc import Callable

import torch
from torch import nn

from tool.run.errors import UserError
from tool.train import processes

# What each choice of --amp computes in; None: float32.
DTYPES = {'off': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def resolved(amp: str, device: torch.device) -> str:
    """The value of --amp, with 'auto' replaced by a decision.

    'auto' becomes 'bf16' where the device is faster in it, else 'off'. All processes get the
    decision of the main one.
    """
    if amp != 'auto':
        return amp
    if device.type == 'cpu':
        is_faster = processes.once(multiplies_faster_in_bf16)
    elif device.type == 'cuda':
        is_faster = processes.once(gpu_has_bf16)
    else:
        is_faster = False
    return 'bf16' if is_faster else 'off'


def gpu_has_bf16() -> bool:
    """True if the GPU has instructions for bfloat16; emulated ones do not count."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def has_bf16() -> bool:
    """True if this processor has instructions for bfloat16; without them it is emulated.

    PyTorch has no public function that tells. This private one exists in every version that this
    project supports (2.6 and later).
    """
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


# cached, so that the log does not contradict the choice
@functools.cache
def multiplies_faster_in_bf16() -> bool:
    """True if this processor multiplies matrices faster in bfloat16 than in float32.

    It is measured, which takes 20 ms. Having the instructions is not enough: with AVX512-BF16 but
    without AMX, an Intel Xeon took 1.8 times as long in bfloat16, an AMD Zen 4 less.
    """
    if not has_bf16():
        return False

    def seconds(dtype: torch.dtype) -> float:
        square = torch.ones(512, 512, dtype=dtype)

        def multiply() -> torch.Tensor:
            return square @ square

        return min(timeit.repeat(multiply, number=1, repeat=5))

    return seconds(torch.bfloat16) < seconds(torch.float32)


def amp_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """The type that a value of --amp computes in; None: float32.

    Args:
        amp: a key of DTYPES.
        device: where the network runs.
    Raises:
        UserError: fp16 is asked for without a GPU.
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
    """A function to call in place of `net`, which computes at the precision asked for.

    It takes the arguments of `net`, and its outputs are float32 at any precision. The weights of
    `net` are changed to the memory format, in place.

    Args:
        net: the network, on `device`. It returns a tensor or a tuple of tensors.
        device: where the network runs.
        amp: a key of DTYPES; with 16 bits, weights and inputs are channels-last.
        compiled: compile the network with torch.compile.
        channels_last: channels-last weights and inputs in float32 too; on a GPU they always are.
    Raises:
        UserError: fp16 is asked for without a GPU.
    """
    dtype = amp_dtype(amp, device)
    memory = torch.contiguous_format
    if channels_last or dtype is not None or device.type == 'cuda':
        memory = torch.channels_last
    net.to(memory_format=memory)
    if compiled:
        # Inputs have one size, or one for each of the two views: each gets code of its own.
        net.compile(dynamic=False)

    def forward(image: torch.Tensor, **options):
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            outputs = net(image.contiguous(memory_format=memory), **options)
        if torch.is_tensor(outputs):
            return outputs.float()
        return tuple(output.float() for output in outputs)

    return forward


def hold_convolutions(net: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights of a network's convolutions to `dtype`, once and for good.

    Autocast would convert them in every call. This is not for training, which needs the float32
    weights.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype)
            module.to(memory_format=torch.channels_last)


def fast_inference(
    net: nn.Module, device: torch.device, amp: str = 'off', channels_last: bool = False
) -> Callable:
    """`fast_forward` for inference: the weights of convolutions stay in the type of `amp`.

    Raises:
        UserError: fp16 is asked for without a GPU.
    """
    dtype = amp_dtype(amp, device)
    if dtype is not None:
        hold_convolutions(net, dtype)
    return fast_forward(net, device, amp, channels_last=channels_last)


def allow_tf32(allowed: bool) -> None:
    """Decide whether float32 convolutions may compute in TF32, on GPUs that have it.

    Products of matrices outside of convolutions stay float32: those of the PCM, of the contrast and
    of resizing.
    """
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = False


def has_tf32(device: torch.device) -> bool:
    """True for a GPU with instructions for TF32: Ampere or later."""
    return device.type == 'cuda' and torch.cuda.get_device_capability(device) >= (8, 0)


def described(amp: str, device: torch.device, tf32: bool = True) -> str:
    """The value of --amp for the log, with what it does not say.

    That is a warning on a CPU that is slower in 16 bits, and what float32 means on a GPU.

    Args:
        amp: a key of DTYPES.
        device: where the network runs.
        tf32: the value of --tf32.
    """
    if amp == 'off' and has_tf32(device):
        return 'off (convolutions in TF32)' if tf32 else 'off (convolutions in float32)'
    if amp == 'bf16' and device.type == 'cpu' and not multiplies_faster_in_bf16():
        return 'bf16 (slower than off here: this processor multiplies slower in 16 bits)'
    return amp


def grad_scaler(amp: str) -> torch.amp.GradScaler:
    """The gradient scaler: keeps small fp16 gradients above zero; does nothing for other types."""
    return torch.amp.GradScaler('cuda', enabled=amp == 'fp16')


def choose_algorithms(device: torch.device, deterministic: bool) -> None:
    """Choose how a GPU computes. A CPU needs no choice, it computes the same bits every time.

    Args:
        device: where the network trains.
        deterministic: choose deterministic algorithms, so that two runs of a command give the same
            weights. Otherwise cuDNN tries its algorithms in the first steps and takes the fastest.
    """
    if device.type != 'cuda':
        return
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
