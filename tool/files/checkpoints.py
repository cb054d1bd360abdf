"""Checkpoints: bare state dicts, the class names they carry, and whether one fits a network.

A checkpoint's class names are an attribute of the state dict, an OrderedDict: torch.save keeps it,
torch.load gives it back, with weights_only too, and load_state_dict of any code does not see it. A
copy of the tensors into a new dict leaves it behind.
"""

from collections import OrderedDict

from tool.files.atomic import atomic, need_file
from tool.method.class_set import ClassSet
from tool.run.errors import UserError

NAMES = 'class_names'  # attribute of the state dict: names of all classes, the background first


def load_checkpoint(path: str) -> dict:
    """A bare state dict {key: tensor} on the CPU, weights only; a 'module.' prefix of all keys is
    dropped. `class_set_of` tells its classes.

    Raises:
        UserError: missing, damaged, or not a state dict.
    """
    import torch

    need_file(path, 'check --weights')
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f'{path}: not a PyTorch checkpoint of plain weights ({reason[:160]})'
        ) from None
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(key, str) and torch.is_tensor(value) for key, value in state.items())
    ):
        raise UserError(
            f'{path}: not a bare state dict (a dict of tensors), as torch.save(net.state_dict(), '
            '…) writes'
        )
    if all(key.startswith('module.') for key in state):
        names = getattr(state, NAMES, None)
        state = OrderedDict((key[len('module.') :], value) for key, value in state.items())
        setattr(state, NAMES, names)
    return state


def class_set_of(state: dict, path: str) -> ClassSet | None:
    """The classes that a state dict from `path` carries the names of; None where it carries none.

    Raises:
        UserError: damaged: what it carries are no class names.
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


def fitting(expected: dict, state: dict) -> dict:
    """The part of a state dict that a network whose own state dict is `expected` can take: the
    tensors of its keys and shapes."""
    return {
        key: value
        for key, value in state.items()
        if key in expected and expected[key].shape == value.shape
    }


def check_state(
    path: str, what: str, expected: dict, state: dict, fix: str, exact: bool = True
) -> None:
    """UserError unless a state dict holds every tensor of a network, in its shape.

    Args:
        path: where the state dict is from. what: what it should be, e.g. 'a checkpoint of …'.
            fix: what to do about it.
        expected: the network's own state dict, or the part that has to be there.
        state: the state dict.
        exact: it may hold nothing else.
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
    more = f' (and {len(differences) - 1} more differences)' if len(differences) > 1 else ''
    raise UserError(f'{path}: not {what}: {differences[0]}{more}; {fix}')


def save_checkpoint(path: str, state: dict, classes: ClassSet | None = None) -> None:
    """torch.save of a bare state dict (tensors moved to the CPU, contiguous), atomically; with
    `classes` it carries their names."""
    import torch

    bare = OrderedDict((key, value.detach().cpu().contiguous()) for key, value in state.items())
    if classes is not None:
        setattr(bare, NAMES, list(classes.names))
    with atomic(path) as temporary:
        torch.save(bare, temporary)
