"""The states of the files and folders of a stage's command when the stage completed.

The pipeline compares them with what they are now. So it notices a list, labels, pictures or masks
that were changed or removed since, and runs the stage again; the stage then makes what is stale.

Copying files does not change them: of a file the content counts; of a folder the names and sizes of
its files, and their content as far as the records of the folder know it (`tool.files.records`).
"""

import hashlib
import os
from collections.abc import Iterable

from tool.files.records import digest_of, read_records, state_of

# TensorBoard's files: all trainings of a run write theirs into one folder
_TENSORBOARD = 'events.out.tfevents'


class PathStates:
    """The states of paths, each computed once until `forget` is called.

    Args:
        root: the folder that relative paths start at.
    """

    def __init__(self, root: str):
        self.root = root
        self._known: dict[str, str] = {}

    def of(self, path: str) -> str:
        """16 hex digits that stand for a file or a folder with all below it; '' for no path."""
        if path not in self._known:
            self._known[path] = _state(os.path.join(self.root, path))
        return self._known[path]

    def of_all(self, paths: Iterable[str]) -> dict[str, str]:
        """{path: state} of the paths that exist."""
        return {path: self.of(path) for path in sorted(set(paths)) if self.of(path)}

    def forget(self) -> None:
        """Compute all states anew, because a stage has run."""
        self._known.clear()


def possible_paths(command: Iterable[str]) -> list[str]:
    """The words of a command that may be paths of files or folders, but not of scripts.

    Of KEY=VALUE the value is looked at.
    """
    paths = []
    for word in command:
        path = word.partition('=')[2] or word
        looks_like_one = os.path.sep in path or '.' in path
        if looks_like_one and not path.endswith('.py'):
            paths.append(path)
    return paths


def _state(path: str) -> str:
    """See `PathStates.of`."""
    if os.path.isfile(path):
        return digest_of(path)
    if not os.path.isdir(path):
        return ''
    digest = hashlib.blake2b(digest_size=8)
    seen = set()
    for folder, subfolders, files in os.walk(path, followlinks=True):
        resolved = os.path.realpath(folder)
        if resolved in seen:  # a link that leads back
            subfolders.clear()
            continue
        seen.add(resolved)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith('.'))
        histories = read_records(folder)
        for file in sorted(files):
            if file.startswith(('.', _TENSORBOARD)):
                continue
            full = os.path.join(folder, file)
            state = state_of(full)
            size = state.size if state else -1
            line = [os.path.relpath(full, path), str(size)]
            history = histories.get(os.path.splitext(file)[0])
            if history is not None:
                line.append(_content(full, [made.output for made in history.made]))
            digest.update('\0'.join(line).encode('utf-8', 'surrogateescape') + b'\n')
    return digest.hexdigest()


def _content(path: str, recorded: list) -> str:
    """The digest of a file, from its record if it is still as recorded."""
    for state in recorded:
        if state.is_unchanged(path):
            return state.digest
    return digest_of(path)
