"""Opening files to read them: regular files only, and JSON of any depth.

Every file that this project reads is opened here. A pipe or a device under the name of a picture
could block a stage for ever, so `open_file` refuses both without opening them.
"""

import errno
import json
import os
import stat
from typing import IO, Any

# Reading a file that is no regular one fails with this reason.
_NOT_REGULAR = 'a pipe, a device or a folder, not a file'


def open_file(path: str, mode: str = 'rb', **options: Any) -> IO[Any]:
    """Open a regular file to read it.

    Args:
        path: the file; a link to a file is one too.
        mode: 'rb', or 'r' for text.
        options: those of the builtin `open`, e.g. encoding.
    Raises:
        OSError: it is missing, may not be read, or is no regular file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, _NOT_REGULAR, path)
    return open(path, mode, **options)


def read_json(path: str) -> Any:
    """The value of a JSON file in UTF-8.

    Raises:
        OSError: as `open_file`.
        ValueError: it is no JSON, no UTF-8, or nested too deeply.
    """
    with open_file(path, 'r', encoding='utf-8') as file:
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
