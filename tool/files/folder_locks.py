"""Locks on output folders: while a stage writes into a folder, no other run may.

The processes that share one stage (torchrun, or the jobs of a SLURM array) write into the same
folder. Each holds the lock `.lock-<rank>-of-<world>` while it works. `.lock` is held for a moment
by a process that claims the folder. The operating system frees the locks of a process that ends,
whichever way it ends; the lock files stay.
"""

import os

from filelock import FileLock, Timeout

from tool.files.atomic import cannot_be_written
from tool.files.locks import take
from tool.run.errors import UserError

_CLAIM = '.lock'
# how long to wait for other processes that claim the same folder, in seconds
_PATIENCE = 60


class FolderLocks:
    """The locks of one process on the output folders of its stage.

    Take them with `acquire`, then claim the folders and call `claimed`, then write and call
    `release`.

    Args:
        folders: the output folders, which need not exist.
        rank: number of this process among those that share the stage.
        world: their number.
    Attributes:
        is_shared: another process of the same stage is at work in one of the folders.
    """

    def __init__(self, folders: list[str], rank: int = 0, world: int = 1):
        self.folders = sorted(set(folders))
        self.own_name = f'{_CLAIM}-{rank}-of-{world}'
        self.of_this_stage = f'-of-{world}'
        self.is_shared = False
        self._claims: list[FileLock] = []
        self._own: list[FileLock] = []

    def acquire(self) -> None:
        """Take both locks of every folder.

        Raises:
            UserError: another run writes into a folder, or a folder cannot be written.
        """
        try:
            for folder in self.folders:
                _make(folder)
                claim = FileLock(os.path.join(folder, _CLAIM))
                if not take(claim, folder, _PATIENCE):
                    raise _busy(folder)
                self._claims.append(claim)
                self._refuse_other_runs(folder)
                own = FileLock(os.path.join(folder, self.own_name))
                if not take(own, folder):
                    raise _busy(folder)
                self._own.append(own)
        except BaseException:
            self.release()
            raise

    def _refuse_other_runs(self, folder: str) -> None:
        """Find out who else works in a folder.

        Raises:
            UserError: a process of another run does.
        """
        for name in self._held_by_others(folder):
            if not name.endswith(self.of_this_stage):
                raise _busy(folder)
            self.is_shared = True

    def _held_by_others(self, folder: str) -> list[str]:
        """The names of the lock files in a folder that other processes hold at this time."""
        held = []
        for name in os.listdir(folder):
            if not name.startswith(_CLAIM + '-') or name == self.own_name:
                continue
            other = FileLock(os.path.join(folder, name))
            try:
                other.acquire(timeout=0)
            except Timeout:
                held.append(name)
            except (OSError, NotImplementedError):
                continue  # of a file system without locks, or of another user
            else:
                other.release()
        return held

    def others_at_work(self) -> bool:
        """Whether another process holds its lock on one of the folders."""
        return any(self._held_by_others(folder) for folder in self.folders)

    def claimed(self) -> None:
        """Let other processes claim the folders."""
        while self._claims:
            self._claims.pop().release()

    def release(self) -> None:
        """Free all locks."""
        self.claimed()
        while self._own:
            self._own.pop().release()

    def __enter__(self) -> 'FolderLocks':
        """Take the locks of a stage that is one process."""
        self.acquire()
        self.claimed()
        return self

    def __exit__(self, *error) -> None:
        self.release()


def _make(folder: str) -> None:
    """Make a folder where there is none."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise cannot_be_written(folder, error) from None


def _busy(folder: str) -> UserError:
    """The error to raise where another run is at work in a folder."""
    return UserError(
        f'{folder}: another run is writing there; wait until it has ended, or use another folder'
    )
