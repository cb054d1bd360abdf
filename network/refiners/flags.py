"""Flags that not every refiner has, or whose default depends on the refiner."""

import argparse
from collections.abc import Mapping
from typing import Any

from tool.run import command_line
from tool.run.errors import UserError

# In place of a default: the flag has to be given.
REQUIRED = object()


class Defaults:
    """The defaults of a flag with each refiner that has it; the help shows all of them."""

    def __init__(self, of_refiner: Mapping[str, Any]):
        self.of_refiner = of_refiner

    def __str__(self) -> str:
        """For example '8; irn: 32'."""
        (_, first), *others = self.of_refiner.items()
        texts = [str(first)]
        for name, value in others:
            if value != first:
                texts.append(f'{name}: {value}')
        return '; '.join(texts)


# {name of a refiner: {flag: its default}}
FlagsOfRefiners = Mapping[str, Mapping[str, Any]]


def set_defaults(parser: command_line.Parser, flags: FlagsOfRefiners) -> None:
    """Replace the defaults of flags of a parser by those of the refiners."""
    for flag in _all_flags(flags):
        of_refiner = {name: own[flag] for name, own in flags.items() if flag in own}
        if REQUIRED not in of_refiner.values():
            parser.set_defaults(**{flag: Defaults(of_refiner)})


def settle(args: argparse.Namespace, flags: FlagsOfRefiners, refiner: str) -> None:
    """Put the defaults of a refiner in the place of flags that were not given.

    Args:
        args: the flags of a command. One that the refiner does not have becomes None.
        flags: as in `set_defaults`.
        refiner: its name.
    Raises:
        UserError: a flag of another refiner was given, or one that is required was not.
    """
    own = flags[refiner]
    for flag in _all_flags(flags):
        value = getattr(args, flag)
        is_given = value is not None and not isinstance(value, Defaults)
        if is_given and flag not in own:
            others = ', '.join(name for name in flags if flag in flags[name])
            raise UserError(
                f'--{flag}: is for the refiner {others} only, and this one is {refiner}; leave it '
                'out'
            )
        if not is_given and own.get(flag) is REQUIRED:
            raise UserError(f'--{flag}: has to be given for the refiner {refiner}')
        if not is_given:
            setattr(args, flag, own.get(flag))


def _all_flags(flags: FlagsOfRefiners) -> list[str]:
    """The flags of all refiners, each once, in their order."""
    return list(dict.fromkeys(flag for own in flags.values() for flag in own))
