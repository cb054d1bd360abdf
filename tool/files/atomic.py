"""Atomic writing, and checks that files and folders exist."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Iterator

from tool.run.errors import OutputError, UserError

# The process's umask, which can only be read by setting it. Temporary files are made with mode
# 0600; `atomic` gives them the mode of ordinary files.
_UMASK = os.umask(0)
os.umask(_UMASK)

# end of the names of temporary files
_TEMPORARY = '.tmp'


@contextlib.contextmanager
def atomic(path: str) -> Iterator[str]:
    """Write a file so that `path` is either complete or as it was before.

    Yields:
        A temporary path in the same folder, to write to. It is renamed to `path` when the block
        ends, and removed if the block raises an error.
    Raises:
        OutputError: the folder or the file cannot be written.
    """
    folder, name = os.path.split(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f'.{name}.', suffix=_TEMPORARY, dir=folder)
    except OSError as error:
        raise cannot_be_written(path, error) from None
    os.close(handle)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_be_written(path, error) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def cannot_be_written(path: str, error: OSError) -> OutputError:
    """The error to raise where a file cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        fix = 'make room and give the same command again'
    else:
        fix = 'choose another output folder'
    return OutputError(f'{path}: cannot be written ({error.strerror or error}); {fix}')


def remove_left_overs(folder: str, names: Iterable[str]) -> None:
    """Remove what killed processes have left of `atomic` files in a folder.

    Args:
        folder: it need not exist.
        names: names of the files in the folder that no other process writes at this time.
    """
    if not os.path.isdir(folder):
        return
    own = set(names)
    for entry in os.listdir(folder):
        if not (entry.startswith('.') and entry.endswith(_TEMPORARY)):
            continue
        # .<name>.<random characters>.tmp
        name = entry[1 : -len(_TEMPORARY)].rpartition('.')[0]
        if name in own:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, entry))


def check_writable(path: str | None) -> None:
    """Check before the work that a file can be written at its end. Nothing is made.

    Args:
        path: the file, which need not exist, nor need its folder; None or '': there is none.
    Raises:
        OutputError: it is a folder or lies below a file, or the folder cannot be written.
    """
    if not path:
        return
    if os.path.isdir(path):
        raise cannot_be_written(path, OSError(errno.EISDIR, os.strerror(errno.EISDIR)))
    if os.path.exists(path) and not os.path.isfile(path):
        return  # a device, such as /dev/null
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise cannot_be_written(path, OSError(errno.ENOTDIR, f'{folder} is no folder'))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise cannot_be_written(path, OSError(errno.EACCES, os.strerror(errno.EACCES)))


def need_file(path: str, fix: str) -> str:
    """Return `path` if it is a file.

    Args:
        path: the file.
        fix: the end of the message: what the user can do.
    Raises:
        UserError: there is no such file.
    """
    if os.path.isdir(path):
        raise UserError(f'{path}: is a folder, not a file; {fix}')
    if not os.path.isfile(path):
        if os.path.exists(path):
            raise UserError(f'{path}: is a pipe or a device, not a file; {fix}')
        raise UserError(f'{path}: no such file; {fix}')
    return path


def need_folder(path: str, fix: str) -> str:
    """Return `path` if it is a folder.

    Args:
        path: the folder.
        fix: the end of the message: what the user can do.
    Raises:
        UserError: there is no such folder.
    """
    if not os.path.isdir(path):
        raise UserError(f'{path}: no such folder; {fix}')
    return path


def write_text(path: str, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
        file.write(text)
