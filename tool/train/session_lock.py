"""The lock of a training session: two trainings of one --session_name would overwrite each other's
states, logs and weights.

The operating system frees the lock of a process that ends, whichever way it ends. The lock file,
`.<session>.lock` beside the weights, stays.
"""

import contextlib
import os
from collections.abc import Iterator

from filelock import FileLock

from tool.files.atomic import cannot_be_written, check_writable
from tool.files.locks import take
from tool.run.errors import UserError
from tool.train import processes

# Seconds to wait for the lock. A run that was killed leaves it to its loader processes, which end a
# few seconds later.
_PATIENCE = 10


def lock_path(session: str) -> str:
    """The lock file of a session."""
    folder, name = os.path.split(os.path.abspath(session))
    return os.path.join(folder, f'.{name}.lock')


@contextlib.contextmanager
def only_run_of(session: str, patience: float = _PATIENCE) -> Iterator[None]:
    """Keep all other trainings of a session out while the block runs. The main process does it.

    Args:
        session: path prefix of what the training writes.
        patience: seconds to wait for a run that is ending.
    Raises:
        UserError: another training of the session runs, or its folder cannot be written.
    """
    lock = FileLock(lock_path(session))
    processes.once(lambda: _take(lock, session, patience))
    try:
        yield
    finally:
        lock.release()


def check_session(session: str) -> None:
    """Check that a session has a name, and that its weights can be written.

    Raises:
        UserError: it has none, so that they would be called .pth; or they cannot.
    """
    if os.path.basename(session) == '':
        raise UserError(
            f'the session name {session!r} ends in a folder; add the name of the run, e.g. '
            f'{os.path.join(session, "run")}'
        )
    check_writable(session + '.pth')


def _take(lock: FileLock, session: str, patience: float) -> None:
    """Take a lock; on a file system without locks the run goes on without."""
    check_session(session)
    try:
        os.makedirs(os.path.dirname(lock.lock_file), exist_ok=True)
    except OSError as error:
        raise cannot_be_written(session, error) from None
    if not take(lock, session, patience):
        raise UserError(
            f'{session}: another training of this session name is running; wait until it has '
            'ended, or use another session name'
        )
