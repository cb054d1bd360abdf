"""The running statistics of BatchNorm where layers are computed twice (gradient checkpointing)."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from tool.train.layer_types import BATCH_NORMS

# the buffers of a BatchNorm layer that training updates
_STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')


class StatisticsOnce:
    """Lets BatchNorm update its running statistics in the forward pass only.

    With gradient checkpointing a block is computed again when its gradient is, and BatchNorm would
    update its statistics a second time. Outside of the forward pass a layer is therefore given
    copies of its statistics, and the updated copies are thrown away. In training a layer does not
    use them: it takes mean and variance of the batch.

    Args:
        model: the network, whose layers may be replaced later (by synchronised BatchNorm).
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._is_in_pass = False
        # the layers that have the hooks below
        self._watched: set[nn.Module] = set()
        # the statistics of layers that have copies now, in the order of _STATISTICS
        self._own: dict[nn.Module, list[torch.Tensor | None]] = {}

    @contextlib.contextmanager
    def forward_pass(self) -> Iterator[None]:
        """The block in which the network is computed for the first time."""
        self._watch()
        self._is_in_pass = True
        try:
            yield
        finally:
            self._is_in_pass = False

    def _watch(self) -> None:
        """Add the hooks to the layers that have none yet."""
        for module in self._model.modules():
            if isinstance(module, BATCH_NORMS) and module not in self._watched:
                module.register_forward_pre_hook(self._give_copies)
                # PyTorch breaks a computation off, by an exception, as soon as it has what it needs
                module.register_forward_hook(self._give_back, always_call=True)
                self._watched.add(module)

    def _give_copies(self, norm: nn.Module, *_: Any) -> None:
        """Before a layer is computed: where that is done again, give it copies to update."""
        if self._is_in_pass or not norm.training:
            return
        self._own[norm] = [getattr(norm, name) for name in _STATISTICS]
        for name, own in zip(_STATISTICS, self._own[norm]):
            setattr(norm, name, None if own is None else own.clone())

    def _give_back(self, norm: nn.Module, *_: Any) -> None:
        """After a layer was computed: give it its own statistics back."""
        for name, own in zip(_STATISTICS, self._own.pop(norm, [])):
            setattr(norm, name, own)
