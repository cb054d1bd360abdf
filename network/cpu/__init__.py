"""Everything that exists only to make networks faster on a CPU.

Without this folder the networks compute the same, only more slowly.
"""

from torch import nn

from network.cpu.depthwise import train_in_float32, use_interleaved
from network.cpu.resnet38 import speed_up_resnet38
from network.resnet38d import ResNet38
from network.timm_backbone import TimmBackbone


def speed_up(net: nn.Module) -> nn.Module:
    """Make the backbones in a network faster on a CPU, and return the same network.

    Modules keep their places, parameters, buffers and hooks, so checkpoints, optimisers, `train`,
    `eval` and `compile` work as before. Results are the same to rounding, and random numbers are
    exactly the same. A second call changes nothing.

    ResNet-38:

    - In inference, a map that is no longer needed is overwritten, and conv6, the largest map, is
      made a few rows at a time (network/cpu/resnet38.py).
    - In training, channels that Dropout2d dropped are not computed (network/cpu/dropout.py).
    - The 3×3 convolutions from b3 on use Winograd's algorithm where it is faster, and 1×1
      convolutions do not copy the pixels between their strides (network/cpu/convolutions.py).

    Backbones of timm (network/cpu/depthwise.py):

    - Dilated depthwise convolutions become ordinary ones on subsampled images.
    - With --amp bf16 all depthwise convolutions train in float32.

    docs/results.md and the docstrings of these modules say how much is saved.
    """
    for module in list(net.modules()):
        if isinstance(module, ResNet38):
            speed_up_resnet38(module)
        elif isinstance(module, TimmBackbone):
            use_interleaved(module)
            train_in_float32(module)
    return net
