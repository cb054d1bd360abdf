"""Everything that exists only to make a CPU faster; with or without this folder the networks
compute the same."""

from torch import nn

from network.cpu.depthwise import train_in_float32, use_interleaved
from network.cpu.resnet38 import speed_up_resnet38
from network.resnet38d import ResNet38
from network.timm_backbone import TimmBackbone


def speed_up(net: nn.Module) -> nn.Module:
    """Let the backbones in a network take this folder's ways on a CPU; returns the same network.

    Modules keep their places, parameters, buffers and hooks, so that checkpoints, optimisers and
    `train`, `eval` and `compile` know nothing of it; a second call changes nothing. Results are
    the same to rounding, random numbers exactly. What is put over what:

    - ResNet-38 (`network/cpu/resnet38.py`): inference writes over maps that nobody needs any more,
      and makes conv6, the largest map, a few rows at a time. Training does not compute what
      Dropout2d dropped (`network/cpu/dropout.py`). The 3×3 convolutions from b3 on take Winograd's
      algorithm where that pays, and those of 1×1 copy no pixel between their strides
      (`network/cpu/convolutions.py`).
    - Backbones of timm (`network/cpu/depthwise.py`): dilated depthwise convolutions are
      interleaved, and with --amp bf16 all depthwise convolutions train in float32.

    What it saves is in docs/results.md and in those modules' docstrings.
    """
    for module in list(net.modules()):
        if isinstance(module, ResNet38):
            speed_up_resnet38(module)
        elif isinstance(module, TimmBackbone):
            use_interleaved(module)
            train_in_float32(module)
    return net
