"""Finding picture files: in a folder, and by the files and folders of a command line."""

import os
from collections.abc import Iterable, Iterator

from tool.files.lists import ENDINGS, picture_name
from tool.run.errors import UserError


def find_pictures(root: str) -> list[str]:
    """Sorted paths below a folder of all pictures in it; linked folders are followed."""
    return sorted(_walk(root, '', frozenset()))


def _walk(root: str, below: str, parents: frozenset[str]) -> Iterator[str]:
    """The pictures of a folder; `parents` are the real paths of the folders above it."""
    folder = os.path.join(root, below)
    real = os.path.realpath(folder)
    if real in parents:  # a link to a folder that it lies in
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UserError(f'{folder}: cannot be read ({error.strerror})') from None
    for entry in entries:
        if entry.name.startswith('.'):
            continue
        path = os.path.join(below, entry.name)
        if entry.is_dir():
            yield from _walk(root, path, parents | {real})
        elif entry.name.lower().endswith(ENDINGS):
            yield path


def named_pictures(paths: Iterable[str], out: str) -> dict[str, str]:
    """The pictures that files and folders stand for, by their names.

    Of a folder all pictures below it are taken, in all its folders. Hidden files and folders are
    left out, and so is `out` where it lies in a folder.

    Args:
        paths: files and folders, in any order.
        out: the folder that outputs are written into.
    Returns:
        {name: file}, in the order of `paths`, those of a folder sorted.
    Raises:
        UserError: a path does not exist, is no picture, or is or lies in `out`; a folder cannot be
            read; two files have the same name; or there is no picture.
    """
    paths = list(paths)
    file_of: dict[str, str] = {}
    for path in paths:
        if lies_in(path, out):
            raise UserError(
                f'{path}: is in --out {out}, where masks are written; choose another --out'
            )
        for file in _pictures_of(path):
            if lies_in(file, out):
                continue
            name = picture_name(file)
            other = file_of.setdefault(name, file)
            if os.path.realpath(other) != os.path.realpath(file):
                raise UserError(
                    f'{other} and {file} are both of the name {name}; rename one of them, or '
                    'predict them into two folders'
                )
    if not file_of:
        raise UserError(f'{" ".join(paths)}: no picture there ({", ".join(ENDINGS)})')
    return file_of


def _pictures_of(path: str) -> list[str]:
    """The pictures that one path stands for: the file itself, or those below the folder."""
    if os.path.isdir(path):
        return [os.path.join(path, below) for below in find_pictures(path)]
    if not os.path.exists(path):
        raise UserError(f'{path}: no such file or folder; give pictures, or folders of them')
    if not path.lower().endswith(ENDINGS):
        raise UserError(f'{path}: is no picture ({", ".join(ENDINGS)}); leave it out')
    return [path]


def lies_in(path: str, folder: str) -> bool:
    """Whether a path is the folder itself, or lies in it, links followed."""
    inner = os.path.realpath(path)
    outer = os.path.realpath(folder)
    return os.path.commonpath([inner, outer]) == outer
