"""Checkpoints: bare state dicts, what else they carry, and whether one fits a network.

A checkpoint carries the names of its classes, the record of the training that wrote it, and one of
DeepLab its config. They are attributes of the state dict, which is an OrderedDict. torch.save
writes the attributes and torch.load restores them, with weights_only too; load_state_dict ignores
them, so any code can load the checkpoint. Copying the tensors into a new dict loses them.
"""

from collections import OrderedDict
from typing import Any

from tool.files.atomic import need_file
from tool.files.torch_files import read_torch, write_torch
from tool.files.torch_pickles import check_stored
from tool.method.class_set import ClassSet
from tool.run.errors import UserError

# The attribute of the state dict: the names of all classes, the background first.
NAMES = 'class_names'
# The attribute of the state dict: the config keys that say what network it is of, and their values.
CONFIG = 'config'
# The attribute of the state dict: the settings of the training that wrote it, and fingerprints of
# what it learned from.
TRAINING = 'training'
_ATTRIBUTES = (NAMES, CONFIG, TRAINING)


def load_checkpoint(path: str) -> dict:
    """Read a checkpoint: a bare state dict {key: tensor}, on the CPU.

    If all keys begin with 'module.', as DataParallel writes them, the prefix is removed.
    `class_set_of` and `config_of` read what the state dict carries beside the weights.

    Raises:
        UserError: the file is missing, damaged, or not a state dict.
    """

    need_file(path, 'check --weights')
    try:
        state = read_torch(path)
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f'{path}: not a PyTorch checkpoint of plain weights, or cut off ({reason[:120]}); get '
            'it again, or write net.state_dict()'
        ) from None
    if not _is_state_dict(state):
        fix = 'write it by torch.save(net.state_dict(), …)'
        inner = _key_of_weights(state)
        if inner:
            fix = f'its weights are under {inner!r}: save these alone, torch.load(…)[{inner!r}]'
        raise UserError(f'{path}: not a bare state dict (a dict of tensors); {fix}')
    for key, value in state.items():
        check_plain(path, key, value)
    check_stored(path, state)
    if all(key.startswith('module.') for key in state):
        bare = OrderedDict((key[len('module.') :], value) for key, value in state.items())
        for attribute in _ATTRIBUTES:
            setattr(bare, attribute, getattr(state, attribute, None))
        return bare
    return state


def _is_state_dict(value: Any) -> bool:
    """Whether a value is a dict of texts to tensors, and not an empty one."""
    import torch

    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(key, str) and torch.is_tensor(item) for key, item in value.items())


def _key_of_weights(state: Any) -> str:
    """The key under which a file holds a state dict among other things; '' where there is none.

    Of several it is that of the largest.
    """
    if not isinstance(state, dict):
        return ''
    sizes = {}
    for key, inner in state.items():
        if isinstance(key, str) and _is_state_dict(inner):
            sizes[key] = len(inner)
    return max(sizes, key=sizes.__getitem__, default='')


def check_plain(path: str, key: str, value: Any) -> None:
    """Check that a tensor holds its values as plain real numbers, one by one.

    Args:
        path: the file that the tensor is from, for the message.
        key: its name there.
        value: the tensor.
    Raises:
        UserError: it is sparse, nested or quantised, of complex numbers or of 8-bit floats, or has
            no values at all (of the device meta).
    """
    import torch

    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    whole = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)
    if value.device.type == 'meta':
        what = 'has no values (it is of the device meta)'
    elif value.is_nested or value.layout != torch.strided:
        what = 'is a sparse or nested tensor'
    elif value.dtype not in floats + whole:
        what = f'is a tensor of {value.dtype}'
    else:
        return
    raise UserError(
        f'{path}: {key} {what}, which is no weight to load; save the network as plain float32'
    )


def class_set_of(state: dict, path: str) -> ClassSet | None:
    """The classes whose names a state dict carries; None where it carries no names.

    Args:
        state: what `load_checkpoint` returns.
        path: the file it is from, for the message.
    Raises:
        UserError: the names are damaged.
    """
    names = getattr(state, NAMES, None)
    if names is None:
        return None
    try:
        if not all(isinstance(name, str) for name in names):
            raise ValueError('they are not texts')
        return ClassSet(tuple(names))
    except (ValueError, TypeError) as error:
        raise UserError(f'{path}: damaged: its class names are none ({error})') from None


def config_of(state: dict, path: str) -> dict[str, Any] | None:
    """The config that a state dict carries; None where it carries none.

    Args:
        state: what `load_checkpoint` returns.
        path: the file it is from, for the message.
    Returns:
        {key: value}. Only the keys are checked to be texts; values may be anything.
    Raises:
        UserError: the config is damaged.
    """
    config = getattr(state, CONFIG, None)
    if config is None:
        return None
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise UserError(f'{path}: damaged: its config is no dict of texts to values')
    return dict(config)


def training_of(state: dict) -> dict[str, Any] | None:
    """The record of the training that wrote a checkpoint; None where it carries none.

    It is the record that `save_checkpoint` was given. Files of other tools carry none, and what is
    no record of texts, numbers, and lists and dicts of them counts as none.
    """
    found = getattr(state, TRAINING, None)
    if not isinstance(found, dict) or not is_plain(found):
        return None
    return dict(found)


def is_plain(value: object) -> bool:
    """Whether a value is a text, a number, None, or lists and dicts of them."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, (str, int, float))


def fitting(expected: dict, state: dict) -> dict:
    """The tensors of a state dict that a network can load.

    Args:
        expected: the network's own state dict.
        state: the state dict.
    Returns:
        The part of `state` whose keys and shapes are those of `expected`.
    """
    part = {}
    for key, value in state.items():
        if key in expected and expected[key].shape == value.shape:
            part[key] = value
    return part


def check_state(
    path: str, what: str, expected: dict, state: dict, fix: str, exact: bool = True
) -> None:
    """Check that a state dict holds every tensor of a network, in the right shape.

    Args:
        path: the file that the state dict is from.
        what: what it should be, e.g. 'a checkpoint of …'.
        expected: the network's own state dict, or the part of it that is needed.
        state: the state dict.
        fix: the end of the message: what the user can do.
        exact: the state dict must hold nothing else.
    Raises:
        UserError: names the first difference.
    """
    differences = []
    for key, value in expected.items():
        if key not in state:
            differences.append(f'{key} is missing')
        elif state[key].shape != value.shape:
            differences.append(f'{key} is {tuple(state[key].shape)}, expected {tuple(value.shape)}')
    if exact:
        differences += [f'{key} is left over' for key in state if key not in expected]
    if not differences:
        return
    more = ''
    if len(differences) > 1:
        more = f' (and {len(differences) - 1} more differences)'
    raise UserError(f'{path}: not {what}: {differences[0]}{more}; {fix}')


def check_finite(path: str, state: dict) -> None:
    """Check that the weights of a network are numbers.

    Args:
        path: the file that the state dict is from.
        state: {key: tensor}.
    Raises:
        UserError: names the first tensor that holds nan or infinity.
    """
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(
                f'{path}: {key} holds values that are not finite (nan or infinity): the training '
                'that wrote it diverged; take other weights, or train again with a lower learning '
                'rate'
            )


def save_checkpoint(
    path: str,
    state: dict,
    classes: ClassSet | None = None,
    config: dict | None = None,
    training: dict | None = None,
) -> None:
    """Write a bare state dict atomically, its tensors contiguous and on the CPU.

    Equal arguments give files of equal bytes.

    Args:
        path: the file.
        state: {key: tensor}.
        classes: the classes whose names the checkpoint carries; None: it carries no names.
        config: the config that the checkpoint carries, of texts, numbers and lists of them, which
            can be read without running code; None: it carries none.
        training: what the training that writes it was given, of the same types; None: it carries
            no record of one.
    Raises:
        OutputError: the file cannot be written; the one that was there is left as it was.
    """
    bare = OrderedDict((key, value.detach().cpu().contiguous()) for key, value in state.items())
    if classes is not None:
        setattr(bare, NAMES, list(classes.names))
    if config is not None:
        setattr(bare, CONFIG, dict(config))
    if training is not None:
        setattr(bare, TRAINING, dict(training))
    write_torch(path, bare)
