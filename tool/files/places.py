"""The check that a command writes nothing over what it reads."""

import os
import stat
from collections.abc import Iterable

from tool.files.lists import ENDINGS
from tool.files.manifest import MANIFEST
from tool.run.errors import UserError

# A flag or a config key, and the file or folder that it names; None or '' where it names none.
Place = tuple[str, str | None]


def keep_apart(outputs: Iterable[Place], inputs: Iterable[Place]) -> None:
    """Check that no output is an input or another output, links followed.

    A picture or a file of maps directly in an input folder would be read as an input by the next
    run, so that is refused too. A folder that lies in another one is a place of its own, so
    `--voc12_root data --out_dir data/masks` is allowed. None of the places needs to exist. Devices
    such as /dev/null hold nothing that could be lost, and are left out.

    Nor may such a file lie in the output folder of a stage, which its manifest tells: it would
    replace a mask or a map there, or be taken for one.

    Args:
        outputs: what the command writes: files, and folders that it writes into.
        inputs: what the command reads: files, and folders that it reads from.
    Raises:
        UserError: two of them are the same file or folder, or an output lies among the inputs or
            among the files of a stage; the message names the flags.
    """
    given = [(flag, path) for flag, path in inputs if path]
    written: list[tuple[str, str]] = []
    for flag, path in outputs:
        if not path or _is_device(path):
            continue
        fix = f'choose another {flag}'
        folder = os.path.dirname(path) or '.'
        is_data = path.lower().endswith((*ENDINGS, '.npy'))
        if is_data and os.path.exists(os.path.join(folder, MANIFEST)):
            raise UserError(f'{flag} {path}: lies in {folder}, whose files a stage has made; {fix}')
        for other_flag, other_path in given:
            if same_place(path, other_path):
                raise UserError(
                    f'{flag} {path}: is the same as the input {other_flag} {other_path}; {fix}'
                )
            if is_data and same_place(folder, other_path):
                raise UserError(
                    f'{flag} {path}: lies in {other_flag} {other_path}, whose files are inputs; '
                    f'{fix}'
                )
        for other_flag, other_path in written:
            if same_place(path, other_path):
                raise UserError(
                    f'{flag} {path}: is the same as the output {other_flag} {other_path}; {fix}'
                )
        written.append((flag, path))


def same_place(first: str, second: str) -> bool:
    """Whether two paths are the same file or folder, links followed; they need not exist."""
    if os.path.realpath(first) == os.path.realpath(second):
        return True
    try:
        # also finds hard links, mounts and names that differ in upper and lower case
        return os.path.samefile(first, second)
    except OSError:  # one of them does not exist
        return False


def _is_device(path: str) -> bool:
    """Whether a path is something else than a file, a folder, or a place for one."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
