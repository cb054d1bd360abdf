"""How several processes share out the pictures of a stage.

Pictures are independent, so inference and the CPU stages need no process group. Each process finds
its number in RANK and the number of processes in WORLD_SIZE, and takes every WORLD_SIZE-th name.
torchrun sets these environment variables; in a SLURM array the job script does.
"""

import os

from tool.run.errors import UserError


def shard_index() -> tuple[int, int]:
    """(number of this process, number of processes) from RANK and WORLD_SIZE; (0, 1) without them.

    Raises:
        UserError: they are no such numbers.
    """
    rank = os.environ.get('RANK', '0')
    world = os.environ.get('WORLD_SIZE', '1')
    if not (rank.isdigit() and world.isdigit() and int(rank) < int(world)):
        raise UserError(
            f'RANK={rank} WORLD_SIZE={world}: RANK must be a number from 0 to WORLD_SIZE − 1'
        )
    return int(rank), int(world)


def own_share(names: list[str], overwrite: bool = False) -> list[str]:
    """The names this process works on.

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
    return names[rank::world]


def is_first() -> bool:
    """True for the one process that shows progress and prints."""
    return shard_index()[0] == 0
