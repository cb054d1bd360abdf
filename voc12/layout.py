"""Where the files of a VOC2012 folder are.

This module does not import torch, so that the CPU stages and their worker processes start quickly.
"""

import functools
import os
from collections import Counter

from tool.files.atomic import need_folder
from tool.files.class_sets import read_class_set
from tool.files.lists import ENDINGS, picture_name
from tool.files.maps import maps_size
from tool.files.pictures import check_size, image_size, mask_size
from tool.files.places import Place
from tool.files.reading import read_json
from tool.files.records import Inputs
from tool.method.class_set import MASK_COLOURS, ClassSet
from tool.run.errors import UserError
from tool.run.progress import progress
from tool.run.shard import is_first
from voc12.classes import VOC

PICTURES = 'JPEGImages'
# folders of masks: VOC's own, and those of all training pictures
MASKS = ('SegmentationClass', 'SegmentationClassAug')
IMAGE_SETS = 'ImageSets/Segmentation'
MASK_RULE = 'masks.json'  # file of a data folder that says by which rule its masks were made


def class_set(root: str) -> ClassSet:
    """The classes of a data folder: those of its classes.txt, or VOC's where it has none."""
    return read_class_set(root, default=VOC)


def class_set_beside(folder: str) -> ClassSet:
    """The classes of the data folder that a folder of masks lies in."""
    return class_set(os.path.dirname(os.path.abspath(folder)))


def mask_rule_beside(folder: str) -> str:
    """The rule in words by which the masks of a folder were made.

    It is that of the masks.json of the data folder that the folder lies in; '' where there is none.
    """
    path = os.path.join(os.path.dirname(os.path.abspath(folder)), MASK_RULE)
    if not os.path.exists(path):
        return ''
    try:
        rule = read_json(path)['rule']
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f'{path}: not the rule of masks that voc12.from_coco writes ({error!r}); '
            'make it again or remove it'
        ) from None
    return ' '.join(str(rule).split())


def pictures(root: str) -> dict[str, str]:
    """{picture name: file name} of a data folder's JPEGImages; files of other kinds are left out.

    Raises:
        UserError: there is no such folder, or two files have the same picture name.
    """
    return pictures_in(os.path.join(root, PICTURES))


def pictures_in(folder: str) -> dict[str, str]:
    """{picture name: file name} of a folder of pictures; files of other kinds are left out.

    Raises:
        UserError: as `pictures`.
    """
    try:
        changed = os.stat(folder).st_mtime_ns
    except OSError:
        changed = 0
    return _index(folder, changed)


def data_places(root: str, flag: str = '--voc12_root') -> list[Place]:
    """The folders of a data folder that no command may write into, for `keep_apart`.

    Args:
        root: the folder.
        flag: the flag or config key that names it.
    """
    folders = (PICTURES, *MASKS, IMAGE_SETS, 'Annotations')
    return [(flag, os.path.join(root, folder)) for folder in folders]


@functools.lru_cache(maxsize=8)
def _index(folder: str, changed: int) -> dict[str, str]:
    """`pictures_in` a folder, cached until its modification time `changed` is another."""
    need_folder(folder, "give the devkit's VOC2012 folder, which holds it")
    index: dict[str, str] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            file = entry.name
            if file.startswith('.') or not file.lower().endswith(ENDINGS):
                continue
            name = picture_name(file)
            if name in index:
                first, second = sorted((index[name], file))
                raise UserError(
                    f'{folder}: {first} and {second} are both of the name {name}; '
                    'rename or remove one of them'
                )
            index[name] = file
    return index


def image_path(root: str, name: str) -> str:
    """Path of a picture in a data folder; <name>.jpg where the folder has no such picture."""
    file = pictures(root).get(name, name + '.jpg')
    return os.path.join(root, PICTURES, file)


def picture_and_map(root: str, map_dir: str, name: str) -> Inputs:
    """The files that a stage reads of a picture: that of a data folder, and its map file."""
    return Inputs((image_path(root, name), os.path.join(map_dir, name + '.npy')))


def map_bytes(root: str, name: str, maps: float, bytes_per_pixel: int = 4) -> int:
    """The size of a picture's .npy file with this number of maps, but for its header."""
    height, width = image_size(image_path(root, name))
    return int(maps * height * width * bytes_per_pixel)


def maps_bytes(root: str, cam_dir: str, name: str, value_bytes: int = 4) -> int:
    """The size of a picture's .npy file with maps of the background and of the classes that have a
    CAM in `cam_dir`; `value_bytes` is that of a value."""
    cam = os.path.getsize(os.path.join(cam_dir, name + '.npy'))  # its values are float32
    return cam * value_bytes // 4 + map_bytes(root, name, 1, value_bytes)


def mask_bytes(root: str, name: str) -> int:
    """About the size of a picture's mask as a palette PNG.

    Measured on 1,145 ground-truth masks (0.018 bytes a pixel) and on pseudo masks (0.016).
    """
    height, width = image_size(image_path(root, name))
    return height * width // 50


def check_images(root: str, names: list[str], flag: str = '--voc12_root') -> None:
    """Check that a VOC2012 folder holds the picture of every name.

    Args:
        root: the folder.
        names: names of the pictures.
        flag: the flag or config key that gave `root`, for the error message.
    Raises:
        UserError: there is no such folder, or a picture is missing.
    """
    fix = f"set {flag} to the devkit's VOC2012 folder"
    need_folder(root, fix)
    folder = need_folder(os.path.join(root, PICTURES), fix)
    index = pictures(root)
    lost = [name for name in names if name not in index]
    if lost:
        raise UserError(
            f'{os.path.join(folder, lost[0])}.jpg: no such file, nor one with another ending of a '
            f'picture (of the {len(names)} names of the list, {len(lost)} have none); check the '
            f'list, or {fix}'
        )


def check_cams(folder: str, root: str, names: list[str], on_error: str) -> None:
    """Check that every picture has a CAM file; of its size, unless bad ones are to be skipped.

    Args:
        folder: folder of the CAMs <name>.npy.
        root: data folder of the pictures.
        names: names of the pictures.
        on_error: 'stop', or 'skip', with which the stage leaves out what it cannot read.
    Raises:
        UserError: as `check_maps`.
    """
    fix = 'make the CAMs with contrast_infer.py --out_cam'
    if on_error == 'skip':
        check_files(folder, names, '.npy', fix)
    else:
        check_maps(folder, root, names, fix)


def check_maps(folder: str, root: str, names: list[str], fix: str) -> Counter[str]:
    """Check that every picture has a map file (CAM, la or ha) of its size; only headers are read.

    Args:
        folder: folder of the map files <name>.npy.
        root: data folder of the pictures. The maps may only have its classes.
        names: names of the pictures.
        fix: how to make the maps, for the error message.
    Returns:
        The number of files of each layout: Counter({'dict': …, 'array': …}).
    Raises:
        UserError: a file is missing, is no map file, or has another size than its picture.
    """
    check_files(folder, names, '.npy', fix)
    classes = class_set(root)
    layouts: Counter[str] = Counter()
    for name in progress(names, desc=f'checking {folder}', unit='file', quiet=not is_first()):
        path = os.path.join(folder, name + '.npy')
        size, layout = maps_size(path, classes)
        layouts[layout] += 1
        picture_size = image_size(image_path(root, name))
        if size is not None:
            check_size(path, size, picture_size, what='maps are', fix=fix)
    return layouts


def check_masks(
    folder: str, root: str, names: list[str], fix: str, colours: str = MASK_COLOURS[0]
) -> None:
    """Check that every picture has a mask of its size; only headers are read.

    Args:
        folder: folder of the masks <name>.png.
        root: data folder of the pictures.
        names: names of the pictures.
        fix: how to get the masks, for the error message.
        colours: one of MASK_COLOURS.
    Raises:
        UserError: a file is missing, is no mask, or has another size than its picture.
    """
    for name in progress(names, desc=f'checking {folder}', unit='file', quiet=not is_first()):
        path = os.path.join(folder, name + '.png')
        size = mask_size(path, fix, colours)
        picture_size = image_size(image_path(root, name))
        check_size(path, size, picture_size, what='the mask is')


def check_files(folder: str, names: list[str], extension: str, fix: str) -> None:
    """Check that a folder holds the file <name><extension> of every name.

    Raises:
        UserError: a file is missing; the message ends with `fix`.
    """
    have = set(os.listdir(need_folder(folder, fix)))
    lost = [name for name in names if name + extension not in have]
    if lost:
        raise UserError(
            f'{os.path.join(folder, lost[0] + extension)}: no such file (of the {len(names)} names '
            f'of the list, {len(lost)} have none); {fix}'
        )
