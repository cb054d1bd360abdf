"""Files written whole or not at all, and files and folders that have to be there."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

from tool.run.errors import UserError


@contextlib.contextmanager
def atomic(path: str) -> Iterator[str]:
    """Yield a temporary name beside `path`; when the block ends well it becomes `path`, else it is
    removed."""
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


_UMASK = os.umask(0)
os.umask(_UMASK)


def need_file(path: str, fix: str) -> str:
    """`path` if it is a file, else a UserError that ends with `fix`."""
    if not os.path.isfile(path):
        raise UserError(
            f'{path}: {"is a folder, not a file" if os.path.isdir(path) else "no such file"}; {fix}'
        )
    return path


def need_folder(path: str, fix: str) -> str:
    """`path` if it is a folder, else a UserError that ends with `fix`."""
    if not os.path.isdir(path):
        raise UserError(f'{path}: no such folder; {fix}')
    return path


def write_text(path: str, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
        file.write(text)
