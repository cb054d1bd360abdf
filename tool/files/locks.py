"""Taking file locks, which the operating system frees when a process ends, however it ends."""

import errno

from filelock import FileLock, Timeout

from tool.files.atomic import cannot_be_written

# What a file system without locks answers.
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def take(lock: FileLock, what: str, patience: float = 0) -> bool:
    """Take a lock.

    On a file system that has no locks a line says so, and the command goes on without.

    Args:
        lock: the lock.
        what: what it keeps for one run, for that line: a folder or a session name.
        patience: seconds to wait for another process that has it.
    Returns:
        False if another process has it.
    Raises:
        UserError: the lock file cannot be written.
    """
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        return False
    except NotImplementedError:
        print(_note(what), flush=True)
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise cannot_be_written(lock.lock_file, error) from None
        print(_note(what), flush=True)
    return True


def _note(what: str) -> str:
    """The error message where a file system has no locks."""
    return f'{what}: its file system has no locks; take care that no other run writes there'
