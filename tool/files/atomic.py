"""Atomic writing, and checks that files and folders exist."""

import atexit
import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator

from tool.files.reading import open_file
from tool.run.errors import OutputError, OutputNameError, UserError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

# The process's umask, which can only be read by setting it. Temporary files are made with mode
# 0600; `atomic` gives them the mode of ordinary files.
_UMASK = os.umask(0)
os.umask(_UMASK)

# end of the names of temporary files
_TEMPORARY = '.tmp'
# what stands in the place of random characters in the name of a link that is being made
_LINK = 'link'

# {folder: {name of a file: its temporary files}}, as this process found each folder at its first
# `atomic` file there. A folder of 10,000 files is not listed again for each of them.
_found: dict[str, dict[str, list[str]]] = {}


# the temporary files of this process that have not been renamed
_unfinished: set[str] = set()


@contextlib.contextmanager
def atomic(path: str) -> Iterator[str]:
    """Write a file so that `path` is either complete or as it was before.

    What a process that was killed has left of an earlier attempt to write `path` is removed.

    A device, such as /dev/null, is written to and never replaced: the administrator may replace
    it, and nothing on the machine could use it any more.

    Yields:
        A temporary path in the same folder, to write to. It is renamed to `path` when the block
        ends, and removed if the block raises an error. For a device it lies in the folder of
        temporary files and is copied.
    Raises:
        OutputError: the folder or the file cannot be written, or `path` is a pipe.
    """
    folder, name = os.path.split(os.path.abspath(path))
    to_device = is_device(path)
    if to_device:
        folder = tempfile.gettempdir()
    else:
        _refuse_pipe(path)
    temporary = ''
    handle = -1
    try:
        os.makedirs(folder, exist_ok=True)
        _remove_left_overs_of(folder, name)
        handle, temporary = _new_temporary(folder, name)
        yield temporary
        if to_device:
            _copy_to_device(temporary, path)
        else:
            os.chmod(temporary, 0o666 & ~_UMASK)
            os.replace(temporary, path)
    except OSError as error:
        raise cannot_be_written(path, error) from None
    finally:
        if temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            _unfinished.discard(temporary)
            os.close(handle)


def _remove_unfinished() -> None:
    """Remove the temporary files of this process.

    A signal that comes while a file is made, or between `atomic` and its block, keeps `atomic` from
    doing so.
    """
    for temporary in _unfinished:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


atexit.register(_remove_unfinished)


def _new_temporary(folder: str, name: str) -> tuple[int, str]:
    """Make a temporary file for a file of this name.

    Returns:
        (open handle, path). The handle holds a lock on the file, which the operating system frees
        when the process ends: a temporary file that nobody has locked was left behind.
    """
    while True:
        random_part = secrets.token_hex(4)
        temporary = os.path.join(folder, f'.{name}.{random_part}{_TEMPORARY}')
        _unfinished.add(temporary)  # before it exists: a signal may come at any moment
        try:
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            _unfinished.discard(temporary)
            continue
        # Another process may have taken the file, before it was locked, for one left behind.
        if _lock(handle) and os.path.exists(temporary):
            return handle, temporary
        os.close(handle)
        _unfinished.discard(temporary)


def _lock(handle: int) -> bool:
    """Lock an open file; False where another process has locked it.

    On a file system without locks nothing is locked.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _remove_left_overs_of(folder: str, name: str) -> None:
    """Remove what killed processes have left of earlier attempts to write a file."""
    if folder not in _found:
        _found[folder] = {}
        entries: list[str] = []
        with contextlib.suppress(OSError):  # a folder that can be written may not be readable
            entries = os.listdir(folder)
        for entry in entries:
            of_name = _name_of_temporary(entry)
            if of_name:
                _found[folder].setdefault(of_name, []).append(os.path.join(folder, entry))
    for path in _found[folder].pop(name, []):
        _remove_left_over(path)


def _name_of_temporary(entry: str) -> str:
    """The name of the file that a temporary file becomes; '' if it is no temporary file."""
    if not (entry.startswith('.') and entry.endswith(_TEMPORARY)):
        return ''
    # .<name>.<random characters>.tmp
    return entry[1 : -len(_TEMPORARY)].rpartition('.')[0]


def _remove_left_over(path: str) -> None:
    """Remove a temporary file, unless a process is writing it at this time."""
    with contextlib.suppress(OSError):  # it is gone, or another user's
        if stat.S_ISREG(os.lstat(path).st_mode) and fcntl is not None:
            handle = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(handle)


def write_bytes(path: str, content: bytes | memoryview) -> None:
    """Write a file of these bytes atomically.

    Every file that a library can encode in memory is written through this function. Given a file,
    Pillow and numpy may take the short write to a full disk for a whole one.

    Raises:
        OutputError: the file cannot be written; the one that was there is left as it was.
    """
    with atomic(path) as temporary, open(temporary, 'wb') as file:
        file.write(content)


def make_link(source: str, path: str) -> None:
    """Make `path` a symbolic link to a file, in place of what was there.

    No other process may do the same at this time.

    Raises:
        OSError: the link cannot be made.
    """
    folder, name = os.path.split(os.path.abspath(path))
    # not with `atomic`, which sets the mode of its file: that would be the mode of the source
    temporary = os.path.join(folder, f'.{name}.{_LINK}{_TEMPORARY}')
    os.makedirs(folder, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(source, temporary)
    os.replace(temporary, path)


def empty_file(path: str) -> None:
    """Make an empty file in place of what was there, for a log that is begun anew.

    The earlier file is replaced and not emptied: a hard link to it, such as a backup of the old
    log, keeps what it holds. A symbolic link is followed. A device is left as it is.

    Raises:
        OutputError: the file cannot be written.
    """
    if not is_device(path):
        write_bytes(os.path.realpath(path), b'')


def is_device(path: str) -> bool:
    """Whether a path is a character device, or a name of an open file such as /dev/stdout."""
    folder = os.path.dirname(os.path.abspath(path))
    if folder in ('/dev', '/dev/fd') or folder.startswith('/proc/'):
        return os.path.exists(path)
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:  # there is nothing yet
        return False


def _refuse_pipe(path: str) -> None:
    """OutputError for a pipe, a socket or a disk.

    To open a pipe that nobody reads would never return.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        reason = 'a pipe, a socket or a disk, not a file'
        raise cannot_be_written(path, OSError(errno.EINVAL, reason))


def _copy_to_device(source: str, path: str) -> None:
    """Write the content of a file to a device."""
    with open_file(source) as file, open(path, 'wb', buffering=0) as device:
        shutil.copyfileobj(file, device)


def cannot_be_written(path: str, error: OSError) -> OutputError:
    """The error to raise where a file cannot be written."""
    problem = f'{path}: cannot be written ({error.strerror or error})'
    if error.errno == errno.ENAMETOOLONG:
        return OutputNameError(
            f'{problem}; give the picture, or what else names it, a shorter name'
        )
    if error.errno == errno.EISDIR:
        return OutputNameError(f'{problem}; move this folder away')
    if is_full_disk(error):
        return OutputError(f'{problem}; make room and give the same command again')
    return OutputError(f'{problem}; choose another output folder')


def is_full_disk(error: OSError) -> bool:
    """Whether an error says that there is no room for a file."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        if _name_of_temporary(entry) in own:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, entry))


def check_writable(path: str | None) -> None:
    """Check before the work that a file can be written at its end. Nothing is made.

    Args:
        path: the file, which need not exist, nor need its folder; None or '': there is none.
    Raises:
        OutputError: it is a folder or a pipe, or lies below a file, or the folder cannot be
            written.
    """
    if not path:
        return
    if os.path.isdir(path):
        raise cannot_be_written(path, OSError(errno.EISDIR, os.strerror(errno.EISDIR)))
    if is_device(path):
        return
    _refuse_pipe(path)
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
