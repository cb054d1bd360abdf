"""How a module gets another forward from outside."""

import functools

from torch import nn


def put_over(module: nn.Module, faster: type) -> None:
    """Let `module` be of the class `faster` too, whose methods then come before its own.

    `super()` in them leads to its own. Its state stays as it is.
    """
    if not isinstance(module, faster):
        own: type = type(module)
        module.__class__ = _joined(faster, own)


@functools.cache  # one class for all modules of a kind, which torch.compile relies on
def _joined(faster: type, own: type) -> type:
    return type(own.__name__, (faster, own), {'__module__': own.__module__})
