"""The refiners by name: what turns seeds into pseudo masks, with a network that learns from them.

A refiner has two parts. Its preparation makes what its network learns from; it loads no torch, so
that the worker processes of aff_prepare.py start quickly. The rest trains the network and walks.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from network.refiners.preparation import Preparation

if TYPE_CHECKING:
    from network.refiners.refiner import Refiner

# To add a refiner: docs/architecture.md, "Add a refiner". The first is the default.
NAMES = ('psa', 'irn')


def find_preparation(name: str) -> Preparation:
    """The part of a refiner that makes the inputs of its training."""
    return import_module(f'network.refiners.{name}_labels').PREPARATION


def find_refiner(name: str) -> 'Refiner':
    """The part of a refiner that trains its network and walks."""
    return import_module(f'network.refiners.{name}').REFINER


def refiner_of(state: dict) -> 'Refiner':
    """The refiner of a checkpoint: the one whose head it has, else the default one.

    Args:
        state: the checkpoint's state dict.
    """
    for name in NAMES:
        found = find_refiner(name)
        if found.mark in state:
            return found
    return find_refiner(NAMES[0])
