"""The manifest of an output folder: what made the files in it, so that a stage resumes its own work
and no one else's."""

import hashlib
import json
import os

from tool.files.atomic import write_text
from tool.run.errors import UserError

MANIFEST = '.manifest.json'


def fingerprint(path: str) -> str:
    """First 16 hex digits of a file's SHA-256; for a folder, those of its manifest ('' where it has
    none)."""
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
    """`claim_all` of one folder."""
    claim_all([(folder, settings)], overwrite)


def claim_all(folders: list[tuple[str, dict]], overwrite: bool = False) -> None:
    """Make each folder the output of a stage run with the settings beside it; when one is refused,
    none is touched.

    A folder of the same settings is left as it is, so what is complete can be skipped. One that
    holds output of other settings, or output without a manifest, is refused; with `overwrite` its
    .npy and .png files are removed first.

    Args:
        folders: (folder, settings): JSON values that decide the bytes written (weights fingerprint,
            scales, α, …), not the image list.
    Raises:
        UserError: a folder holds files of other settings (names the first difference), or is given
            twice.
    """
    paths = [os.path.realpath(folder) for folder, _ in folders]
    for (folder, _), path in zip(folders, paths):
        if paths.count(path) > 1:
            raise UserError(f'{folder}: is given for two outputs; each needs a folder of its own')
    for folder, settings in folders if not overwrite else ():
        before, outputs = _read(folder), _outputs(folder)
        settings = _as_json(settings)
        if not outputs or before == settings:
            continue
        if before is None:
            raise UserError(
                f'{folder}: holds {len(outputs)} files that this stage did not write; '
                'use --overwrite to replace them or another folder'
            )
        key = next(key for key in {**before, **settings} if before.get(key) != settings.get(key))
        raise UserError(
            f'{folder}: was made with {key} = {before.get(key)}, now {key} = {settings.get(key)}; '
            'use --overwrite to replace it or another folder'
        )
    for folder, settings in folders:
        if overwrite:
            for name in _outputs(folder):
                os.unlink(os.path.join(folder, name))
        if overwrite or _read(folder) != _as_json(settings):
            write_text(os.path.join(folder, MANIFEST), json.dumps(settings, indent=1) + '\n')


def _as_json(settings: dict) -> dict:
    """Settings as they will be when read back (tuples become lists)."""
    return json.loads(json.dumps(settings))


def _outputs(folder: str) -> list[str]:
    return (
        [name for name in os.listdir(folder) if name.endswith(('.npy', '.png'))]
        if os.path.isdir(folder)
        else []
    )


def _read(folder: str) -> dict | None:
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
    """The names for which any of the (folder, extension) outputs does not exist yet."""
    done = [
        {entry for entry in os.listdir(folder)} if os.path.isdir(folder) else set()
        for folder, _ in outputs
    ]
    return [
        name
        for name in names
        if not all(name + extension in files for files, (_, extension) in zip(done, outputs))
    ]
