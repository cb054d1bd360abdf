"""Give a module another forward from outside."""

import functools

from torch import nn


def put_over(module: nn.Module, faster: type) -> None:
    """Make `module` an instance of the class `faster` too.

    The methods of `faster` then take the place of the module's own, which they reach by `super()`.
    The module's state stays as it is.
    """
    if not isinstance(module, faster):
        own: type = type(module)
        module.__class__ = _joined(faster, own)


@functools.cache  # torch.compile relies on one class for all modules of a kind
def _joined(faster: type, own: type) -> type:
    """A class that inherits from `faster` first and from `own` second, with the name of `own`."""
    return type(own.__name__, (faster, own), {'__module__': own.__module__})
