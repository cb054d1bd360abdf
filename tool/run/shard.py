"""Sharing out the pictures of a stage among several processes.

Pictures are independent, so inference and the CPU stages need no process group. Each process finds
its number in RANK and the number of processes in WORLD_SIZE, and takes every WORLD_SIZE-th name.
torchrun sets these environment variables; in a SLURM array the job script does.
"""

import os
import sys

from tool.run.errors import UserError


def shard_index() -> tuple[int, int]:
    """(number of this process, number of processes) from RANK and WORLD_SIZE; (0, 1) without them.

    Raises:
        UserError: they are no such numbers, or RANK is missing.
    """
    rank = os.environ.get('RANK', '')
    world = os.environ.get('WORLD_SIZE', '')
    number = _whole_number(rank or '0')
    count = _whole_number(world or '1')
    if number is None or count is None or number >= count:
        raise UserError(
            f'RANK={rank} WORLD_SIZE={world}: RANK must be a number from 0 to WORLD_SIZE − 1; '
            'torchrun sets both, without it unset them'
        )
    if count > 1 and not rank:
        raise UserError(
            f'WORLD_SIZE={world} is set and RANK is not: start the command with torchrun, set '
            'both, or unset WORLD_SIZE'
        )
    return number, count


def _whole_number(text: str) -> int | None:
    """The number that a text of digits is; None for all other texts."""
    is_number = text.isascii() and text.isdecimal() and len(text) < 10
    return int(text) if is_number else None


def under_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return 'LOCAL_RANK' in os.environ


def own_share(names: list[str], overwrite: bool = False) -> list[str]:
    """The names this process works on.

    Where RANK and WORLD_SIZE are set without torchrun, a line says so: they may have been forgotten
    in the environment.

    Raises:
        UserError: `overwrite` with several processes; one could remove what another has just
            written.
    """
    rank, world = shard_index()
    if overwrite and world > 1:
        raise UserError(
            f'--overwrite: not with {world} processes, one would remove what another has written; '
            'delete the folder first'
        )
    share = names[rank::world]
    if world > 1 and not under_torchrun():
        print(
            f'RANK={rank} WORLD_SIZE={world}: this process takes {len(share)} of {len(names)} '
            'pictures',
            file=sys.stderr,
        )
    return share


def is_first() -> bool:
    """True for the one process that shows progress and prints."""
    return shard_index()[0] == 0
