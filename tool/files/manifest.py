"""The manifest of an output folder: the settings that its files were made with.

With it a stage resumes its own work, and refuses a folder that was made with other settings.
"""

import hashlib
import json
import os

from tool.files.atomic import write_text
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
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def claim(folder: str, settings: dict, overwrite: bool = False) -> None:
    """Claim one folder, see `claim_all`."""
    claim_all([(folder, settings)], overwrite)


def claim_all(folders: list[tuple[str, dict]], overwrite: bool = False) -> None:
    """Make folders the outputs of a stage, by writing their manifests.

    A folder with the same settings is left as it is, so that complete files can be skipped. A
    folder that holds files of other settings, or files without a manifest, is refused. If one
    folder is refused, none is changed.

    Args:
        folders: (folder, settings) of each output. The settings are JSON values that decide the
            bytes of the files (fingerprint of the weights, scales, α, …); the image list does not.
        overwrite: remove the .npy and .png files of each folder instead of refusing it.
    Raises:
        UserError: a folder holds files of other settings, and the message names the first
            difference; or a folder is given twice.
    """
    paths = [os.path.realpath(folder) for folder, _ in folders]
    for (folder, _), path in zip(folders, paths):
        if paths.count(path) > 1:
            raise UserError(f'{folder}: is given for two outputs; each needs a folder of its own')
    if overwrite:
        for folder, settings in folders:
            for name in _outputs(folder):
                os.unlink(os.path.join(folder, name))
            _write(folder, settings)
        return
    for folder, settings in folders:
        _check(folder, settings)
    for folder, settings in folders:
        if read_manifest(folder) != _as_json(settings):
            _write(folder, settings)


def _check(folder: str, settings: dict) -> None:
    """UserError if a folder holds files of other settings."""
    outputs = _outputs(folder)
    before = read_manifest(folder)
    now = _as_json(settings)
    if not outputs or before == now:
        return
    if before is None:
        raise UserError(
            f'{folder}: holds {len(outputs)} files that this stage did not write; '
            'use --overwrite to replace them or another folder'
        )
    difference = first_difference(before, now)
    if difference is not None:
        raise UserError(
            f'{folder}: was made with {difference}; use --overwrite to replace it or another folder'
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


def _as_json(settings: dict) -> dict:
    """Settings as they are when read back: tuples become lists."""
    return json.loads(json.dumps(settings))


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
        with open(path, encoding='utf-8') as file:
            return dict(json.load(file))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f'{path}: unreadable manifest ({error}); use --overwrite or another folder'
        ) from None


def missing(names: list[str], outputs: list[tuple[str, str]]) -> list[str]:
    """The names that lack a file in at least one output folder.

    Args:
        names: names of pictures.
        outputs: (folder, extension) of each output; a folder need not exist.
    """
    lacking = set()
    for folder, extension in outputs:
        files = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        lacking |= {name for name in names if name + extension not in files}
    return [name for name in names if name in lacking]
