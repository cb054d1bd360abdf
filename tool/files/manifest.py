"""The manifest of an output folder: the settings that its files were made with.

With it a stage resumes its own work, and refuses a folder that was made with other settings.
"""

import json
import os
from collections.abc import Callable

from tool.files import fingerprints
from tool.files.atomic import write_text
from tool.files.reading import read_json
from tool.files.records import as_json, state_of
from tool.run.errors import UserError

MANIFEST = '.manifest.json'


def fingerprint(path: str) -> str:
    """The first 16 hex digits of a file's SHA-256.

    For a folder it is the fingerprint of its manifest; '' where it has none.
    """
    if os.path.isdir(path):
        path = os.path.join(path, MANIFEST)
        if not os.path.exists(path):
            return ''
    return fingerprints.of_file(path)


def claim_all(
    folders: list[tuple[str, dict]],
    overwrite: bool = False,
    is_own: Callable[[str, str], bool] | None = None,
) -> None:
    """Make folders the outputs of a stage, by writing their manifests.

    A folder with the same settings is left as it is, so that complete files can be skipped. A
    folder that another stage has made, or that holds files without a manifest, is refused, and so
    is one of other settings unless it is to be overwritten. If one folder is refused, none is
    changed.

    Args:
        folders: (folder, settings) of each output. The settings are JSON values that decide the
            bytes of the files (fingerprint of the weights, scales, α, …) and name the stage
            ('stage'); the image list is not among them.
        overwrite: remove what this stage has written into the folders, whatever the settings.
        is_own: is_own(folder, file name) says whether the stage has written a .npy or .png file;
            None: all files of a folder with a manifest are its own.
    Raises:
        UserError: a folder is refused, and the message says why; or a folder is given twice.
    """
    check_claims(folders, overwrite, is_own)
    for folder, settings in folders:
        if overwrite:
            for name in _outputs(folder):
                os.unlink(os.path.join(folder, name))
        if read_manifest(folder) != as_json(settings):
            _write(folder, settings)


def check_claims(
    folders: list[tuple[str, dict]],
    overwrite: bool = False,
    is_own: Callable[[str, str], bool] | None = None,
) -> None:
    """The checks of `claim_all`, whose arguments and errors these are; nothing is written."""
    check_distinct([folder for folder, _ in folders])
    for folder, settings in folders:
        _check(folder, settings, overwrite, is_own)


def check_distinct(folders: list[str]) -> None:
    """Check that no two outputs of a stage are the same folder, links resolved.

    Raises:
        UserError: a folder is given twice.
    """
    paths = [os.path.realpath(folder) for folder in folders]
    for folder, path in zip(folders, paths):
        if paths.count(path) > 1:
            raise UserError(f'{folder}: is given for two outputs; each needs a folder of its own')


def _check(
    folder: str,
    settings: dict,
    overwrite: bool,
    is_own: Callable[[str, str], bool] | None,
) -> None:
    """UserError if a folder cannot be claimed, see `claim_all`."""
    outputs = _outputs(folder)
    if not outputs:
        return
    before = read_manifest(folder)
    now = as_json(settings)
    if before is None:
        raise _foreign(folder, outputs)
    if before.get('stage') != now.get('stage'):
        raise UserError(
            f'{folder}: was made by the stage {before.get("stage")}; use another folder, or remove '
            'this one'
        )
    difference = first_difference(before, now)
    if difference is None and not overwrite:
        return
    if is_own is not None:
        foreign = [name for name in outputs if not is_own(folder, name)]
        if foreign:
            raise _foreign(folder, foreign)
    if difference is not None and not overwrite:
        raise UserError(
            f'{folder}: was made with {difference}; use --overwrite to replace it or another folder'
        )


def _foreign(folder: str, names: list[str]) -> UserError:
    """The error to raise for files that are not the stage's own, so that it may not remove them."""
    return UserError(
        f'{folder}: holds {len(names)} files that this stage did not write, or that were changed '
        f'since, e.g. {min(names)}; use another folder, or move them away'
    )


def first_difference(before: dict, now: dict) -> str | None:
    """The first setting that is not what it was, in words for a message; None where all are.

    A setting that one side lacks counts as None there.

    Returns:
        For example 'alpha = 4, now alpha = 8'.
    """
    for key in {**before, **now}:
        if before.get(key) != now.get(key):
            return f'{key} = {before.get(key)}, now {key} = {now.get(key)}'
    return None


def _outputs(folder: str) -> list[str]:
    """The names of the .npy and .png files in a folder, which need not exist."""
    if not os.path.isdir(folder):
        return []
    return [name for name in os.listdir(folder) if name.endswith(('.npy', '.png'))]


def _write(folder: str, settings: dict) -> None:
    """Write the manifest of a folder."""
    write_text(os.path.join(folder, MANIFEST), json.dumps(settings, indent=1) + '\n')


def read_manifest(folder: str) -> dict | None:
    """The settings in the manifest of a folder; None where there is no manifest."""
    path = os.path.join(folder, MANIFEST)
    try:
        return dict(read_json(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f'{path}: unreadable manifest ({error}); use another folder, or remove this one'
        ) from None


def missing(names: list[str], outputs: list[tuple[str, str]]) -> list[str]:
    """The names that lack a file in at least one output folder; an empty file is none.

    Args:
        names: names of pictures.
        outputs: (folder, extension) of each output; a folder need not exist.
    """
    lacking: set[str] = set()
    for folder, extension in outputs:
        for name in names:
            state = state_of(os.path.join(folder, name + extension))
            if state is None or state.size == 0:
                lacking.add(name)
    return [name for name in names if name in lacking]
