"""How a training step computes: automatic mixed precision, channels-last tensors, torch.compile, the same bits every time."""
import os
from typing import Callable

import torch
from torch import nn

from tool.errors import UserError

DTYPES = {'off': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}  # of cli.AMP


def fast_forward(net: nn.Module, device: torch.device, amp: str = 'off', compiled: bool = False) -> Callable:
    """What to call in place of `net`: the same arguments, and outputs in float32 whatever it computes in.

    With 16 bits the network's weights and inputs are channels-last (in float32 that was slower on CPUs).

    Raises:
        UserError: fp16 without a GPU.
    """
    dtype = DTYPES[amp]
    if dtype == torch.float16 and device.type != 'cuda':
        raise UserError('amp fp16: needs a GPU; use bf16 or off on a CPU')
    memory = torch.contiguous_format if dtype is None else torch.channels_last
    net.to(memory_format=memory)
    if compiled:
        net.compile()

    def forward(image: torch.Tensor, **options):
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            outputs = net(image.contiguous(memory_format=memory), **options)
        return outputs.float() if torch.is_tensor(outputs) else tuple(output.float() for output in outputs)
    return forward


def grad_scaler(amp: str) -> torch.amp.GradScaler:
    """Keeps small gradients of fp16 above zero; does nothing for the other types."""
    return torch.amp.GradScaler('cuda', enabled=amp == 'fp16')


def same_bits(device: torch.device) -> None:
    """Let two runs of one command on a GPU give the same weights (on the CPU they do anyway)."""
    if device.type == 'cuda':
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
