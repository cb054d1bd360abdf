"""The records of an output folder: from what each of its files was made, and what was written.

The manifest of a folder (`tool.files.manifest`) holds the settings, which all its files share. The
records hold what differs from picture to picture: the files that the output was made from, facts
such as the labels of the picture, and the output as it was when the stage had written it. With them
a stage makes again exactly what has become stale, and tells its own files from those of others.

Each process of a stage appends to a file of its own, `.records-<rank>.jsonl`. A line is one of

    {"name": "2007_000032", "at": 1764460800.1}
        the stage begins to make the file of this picture
    {"name": "2007_000032", "at": 1764460801.3, "facts": …, "inputs": [[size, mtime, digest], …],
     "output": [size, mtime, digest]}
        the file is complete

A size is in bytes, an mtime in nanoseconds. A file counts as unchanged if its size and its mtime
are the recorded ones. If only the mtime is another one, as after copying a folder, the digest of
its content decides.

This module does not import torch, so that the worker processes of a stage start quickly.
"""

import errno
import json
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tool.files import fingerprints
from tool.files.atomic import cannot_be_written, check_writable
from tool.files.reading import open_file, open_text

_PREFIX = '.records-'
_SUFFIX = '.jsonl'


@dataclass(frozen=True)
class Inputs:
    """The inputs that the files of one picture are made from."""

    # paths of the files: the picture, its CAMs, …, always in the same order
    files: tuple[str, ...]
    # JSON values that decide the files besides, e.g. the labels of the picture
    facts: Any = None


@dataclass(frozen=True)
class FileState:
    """A file at the time of a record."""

    # bytes
    size: int
    # time of its last change, nanoseconds
    mtime: int
    # of its content; '' where it is not known
    digest: str = ''

    def is_unchanged(self, path: str) -> bool:
        """Whether the file is still as it was; the content is read only where the mtime differs."""
        now = state_of(path)
        if now is None or now.size != self.size:
            return False
        if now.mtime == self.mtime:
            return True
        return self.digest != '' and digest_of(path) == self.digest

    def as_json(self) -> list:
        """The state as a record holds it."""
        return [self.size, self.mtime, self.digest]


def state_of(path: str) -> FileState | None:
    """The size and the mtime of a regular file, links followed; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return FileState(found.st_size, found.st_mtime_ns)


def digest_of(path: str) -> str:
    """The fingerprint of a file; '' where it cannot be read."""
    try:
        return fingerprints.of_file(path)
    except OSError:
        return ''


def with_digest(state: FileState | None, path: str) -> FileState | None:
    """A state with the digest of the file, if the file is still in this state.

    Where it has changed since, the state is returned as it is. No file matches it then.
    """
    if state is None or state_of(path) != state:
        return state
    return FileState(state.size, state.mtime, digest_of(path))


@dataclass(frozen=True)
class Made:
    """The record of a complete file."""

    inputs: tuple[FileState | None, ...]
    facts: Any
    output: FileState

    def has_inputs(self, now: Inputs) -> bool:
        """Whether the file was made from what its inputs are now."""
        if self.facts != as_json(now.facts) or len(self.inputs) != len(now.files):
            return False
        for before, path in zip(self.inputs, now.files):
            if before is None or not before.is_unchanged(path):
                return False
        return True


@dataclass
class History:
    """All that the records of a folder say about one picture."""

    # the complete files, the latest last
    made: list[Made] = field(default_factory=list)
    # the latest record says that the file is being made: its process was stopped, or is at work
    is_begun: bool = False


def read_records(folder: str) -> dict[str, History]:
    """The records of a folder, {name of the picture: its history}.

    Lines that are no records are passed over: a process that was killed leaves half a line.
    """
    lines: list[tuple[float, dict]] = []
    for path in record_files(folder):
        with open_text(path, errors='replace') as file:
            for line in file:
                record = _parsed(line)
                if record is not None:
                    lines.append((record['at'], record))
    lines.sort(key=lambda item: item[0])
    histories: dict[str, History] = {}
    for _, record in lines:
        history = histories.setdefault(record['name'], History())
        made = _made_of(record)
        history.is_begun = made is None
        if made is not None:
            history.made.append(made)
    return histories


def record_files(folder: str) -> list[str]:
    """The paths of the record files in a folder, which need not exist."""
    if not os.path.isdir(folder):
        return []
    paths = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith(_PREFIX) and name.endswith(_SUFFIX) and os.path.isfile(path):
            paths.append(path)
    return paths


def _parsed(line: str) -> dict | None:
    """The record in a line; None if it is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get('name'), str):
        return None
    if not isinstance(record.get('at'), float):
        return None
    return record


def _made_of(record: dict) -> Made | None:
    """The complete file that a record speaks of; None if it says that the file is begun."""
    inputs = record.get('inputs')
    output = _state_from_json(record.get('output'))
    if not isinstance(inputs, list) or output is None:
        return None
    states = tuple(_state_from_json(state) for state in inputs)
    return Made(states, record.get('facts'), output)


def _state_from_json(value: Any) -> FileState | None:
    """The state that `FileState.as_json` gave; None for anything else."""
    if not isinstance(value, list) or len(value) != 3:
        return None
    size, mtime, digest = value
    if not (isinstance(size, int) and isinstance(mtime, int) and isinstance(digest, str)):
        return None
    return FileState(size, mtime, digest)


def as_json(value: Any) -> Any:
    """A JSON value as it is when read back: tuples become lists."""
    return json.loads(json.dumps(value))


class RecordFile:
    """The record file that one process appends to.

    Args:
        folder: the output folder.
        rank: number of the process among those that share the stage.
    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, folder: str, rank: int):
        self.path = os.path.join(folder, f'{_PREFIX}{rank}{_SUFFIX}')
        check_writable(self.path)
        if _ends_within_a_line(self.path):
            self._write(b'\n')

    def begin(self, name: str) -> None:
        """Note that the file of a picture is going to be made."""
        self._append({'name': name, 'at': time.time()})

    def complete(self, name: str, made: Made) -> None:
        """Note that the file of a picture is complete."""
        self._append(
            {
                'name': name,
                'at': time.time(),
                'facts': made.facts,
                'inputs': [state.as_json() if state else None for state in made.inputs],
                'output': made.output.as_json(),
            }
        )

    def _append(self, record: dict) -> None:
        """Append a line."""
        self._write((json.dumps(record) + '\n').encode())

    def _write(self, line: bytes) -> None:
        """Append bytes with one write, so that a process that is killed leaves whole lines.

        Raises:
            UserError: the file cannot be written.
        """
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                if os.write(handle, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(handle)
        except OSError as error:
            raise cannot_be_written(self.path, error) from None


def _ends_within_a_line(path: str) -> bool:
    """Whether the last line of a file has no end, as after a write to a full disk."""
    try:
        with open_file(path) as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b'\n'
    except OSError:  # there is none yet, or `RecordFile` will say that it cannot be written
        return False


def remove_records(folder: str) -> None:
    """Remove the record files of a folder, whose files have been removed."""
    for path in record_files(folder):
        os.unlink(path)


def made_from(
    inputs: Inputs, states: Iterable[FileState | None], paths: Iterable[str]
) -> tuple[Made, ...]:
    """The records of files that have just been made from inputs.

    Args:
        inputs: what they were made from.
        states: the state of each input file before any of them was read.
        paths: the files.
    Raises:
        FileNotFoundError: one of the files is not there.
    """
    known = []
    for state, path in zip(states, inputs.files):
        known.append(with_digest(state, path))
    made = []
    for path in paths:
        output = with_digest(state_of(path), path)
        if output is None:
            raise FileNotFoundError(path)
        made.append(Made(tuple(known), as_json(inputs.facts), output))
    return tuple(made)
