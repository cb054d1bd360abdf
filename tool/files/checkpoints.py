"""Checkpoints: bare state dicts."""

from tool.files.atomic import atomic, need_file
from tool.run.errors import UserError


def load_checkpoint(path: str) -> dict:
    """A bare state dict {key: tensor} on the CPU, weights only; a 'module.' prefix of all keys is
    dropped.

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
        state = {key[len('module.') :]: value for key, value in state.items()}
    return state


def save_checkpoint(path: str, state: dict) -> None:
    """torch.save of a bare state dict (tensors moved to the CPU, contiguous), atomically."""
    import torch

    with atomic(path) as temporary:
        torch.save(
            {key: value.detach().cpu().contiguous() for key, value in state.items()}, temporary
        )
