"""Where the files of a VOC2012 folder are (no torch here: the CPU stages and their worker processes
start quickly)."""

import os
from collections import Counter

from tool.files.atomic import need_folder
from tool.files.maps import maps_size
from tool.files.pictures import check_size, image_size
from tool.run.errors import UserError
from tool.run.progress import progress
from tool.run.shard import is_first
from voc12.classes import VOC


def image_path(root: str, name: str) -> str:
    """JPEG of an image in a VOC2012 folder."""
    return os.path.join(root, 'JPEGImages', name + '.jpg')


def check_images(root: str, names: list[str], flag: str = '--voc12_root') -> None:
    """UserError unless `root`, the value of `flag`, is a VOC2012 folder that holds the JPEG of
    every name."""
    fix = f"set {flag} to the devkit's VOC2012 folder"
    check_files(
        os.path.join(need_folder(root, fix), 'JPEGImages'),
        names,
        '.jpg',
        f'check the list, or {fix}',
    )


def check_maps(folder: str, root: str, names: list[str], fix: str) -> Counter:
    """UserError unless `folder` holds a map file (CAM, la or ha) of its picture's size for every
    name; reads headers only.

    Args:
        root: VOC2012 folder of the pictures.
        fix: how to make the maps, for the message.
    Returns:
        How many files have which layout: Counter({'dict': …, 'array': …}).
    """
    check_files(folder, names, '.npy', fix)
    layouts = Counter()
    for name in progress(names, desc=f'checking {folder}', unit='file', quiet=not is_first()):
        path = os.path.join(folder, name + '.npy')
        size, layout = maps_size(path, VOC)
        layouts[layout] += 1
        picture_size = image_size(image_path(root, name))
        if size is not None:
            check_size(path, size, picture_size, what='maps are', fix=fix)
    return layouts


def check_files(folder: str, names: list[str], extension: str, fix: str) -> None:
    """UserError, ending with `fix`, unless `folder` holds <name><extension> for every name."""
    have = set(os.listdir(need_folder(folder, fix)))
    lost = [name for name in names if name + extension not in have]
    if lost:
        raise UserError(
            f'{os.path.join(folder, lost[0] + extension)}: no such file (of the {len(names)} names '
            f'of the list, {len(lost)} have none); {fix}'
        )
