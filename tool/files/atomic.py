"""Atomic writing, and checks that files and folders exist."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

from tool.run.errors import UserError

# The process's umask, which can only be read by setting it. Temporary files are made with mode
# 0600; `atomic` gives them the mode of ordinary files.
_UMASK = os.umask(0)
os.umask(_UMASK)


@contextlib.contextmanager
def atomic(path: str) -> Iterator[str]:
    """Write a file so that `path` is either complete or as it was before.

    Yields:
        A temporary path in the same folder, to write to. It is renamed to `path` when the block
        ends, and removed if the block raises an error.
    Raises:
        UserError: the folder or the file cannot be written.
    """
    folder, name = os.path.split(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f'.{name}.', suffix='.tmp', dir=folder)
    except OSError as error:
        raise UserError(
            f'{path}: cannot be written ({error.strerror}); choose another output folder'
        ) from None
    os.close(handle)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error})') from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


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
