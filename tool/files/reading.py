"""Opening files to read them: regular files only, and JSON of any depth.

Every file that this project reads is opened here. A pipe or a device under the name of a picture
could block a stage for ever, so both are refused without being opened.
"""

import errno
import io
import json
import os
import stat
from typing import Any, BinaryIO, TextIO

# Reading a file that is no regular one fails with this reason.
_NOT_REGULAR = 'a pipe, a device or a folder, not a file'
# Bytes that may be allocated without looking at the length of the file.
_SMALL = 1 << 16


def open_file(path: str) -> BinaryIO:
    """Open a regular file, or a link to one, to read its bytes.

    Raises:
        OSError: it is missing, may not be read, or is no regular file.
    """
    _need_regular(path)
    return _Bounded(path)


class _Bounded(io.BufferedReader):
    """A file that is asked for more than it holds allocates no more than it holds.

    Python's own `read` allocates what it is asked for. Decoders ask for lengths that stand in the
    file, such as that of a PNG's chunk.
    """

    def __init__(self, path: str):
        raw = io.FileIO(path)
        super().__init__(raw)
        self._length = os.fstat(raw.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _SMALL:
            size = min(size, max(self._length - self.tell(), 0))
        return super().read(size)


def open_text(path: str, encoding: str = 'utf-8', **options: Any) -> TextIO:
    """Open a regular file, or a link to one, to read its text.

    Args:
        path: the file.
        encoding: the encoding of the text.
        options: further ones of the builtin `open`.
    Raises:
        OSError: as `open_file`.
    """
    _need_regular(path)
    return open(path, encoding=encoding, **options)


def _need_regular(path: str) -> None:
    """OSError unless a path is that of a regular file."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, _NOT_REGULAR, path)


def read_json(path: str) -> Any:
    """The value of a JSON file in UTF-8.

    Raises:
        OSError: as `open_file`.
        ValueError: it is no JSON, no UTF-8, or nested too deeply.
    """
    with open_text(path) as file:
        return parse_json(file.read())


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError('it is nested too deeply') from None
