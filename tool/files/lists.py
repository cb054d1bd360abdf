"""Lists of pictures and image-level labels."""

import os
import re

import numpy as np

from tool.files.atomic import need_file
from tool.files.npy import read_npy
from tool.method.class_set import ClassSet
from tool.run.errors import UserError

ENDINGS = ('.jpg', '.jpeg', '.png', '.webp', '.tif')  # of picture files, in any case
# two files in a line: a picture and its mask
_ENDING = '(?:' + '|'.join(map(re.escape, ENDINGS)) + ')'
_TWO_PATHS = re.compile(rf'(.*?{_ENDING})\s+\S.*{_ENDING}', re.IGNORECASE)


def picture_name(file: str) -> str:
    """The name of a picture: its file without folder and without the ending of a picture file.

    Anything else that looks like an ending is a part of the name: 'cat_jpg.rf.0a1b'.
    """
    name, ending = os.path.splitext(os.path.basename(file))
    while ending.lower() in ENDINGS:
        name, ending = os.path.splitext(name)
    return name + ending


def read_list(path: str) -> list[str]:
    """Picture names of a list.

    A line is a name, which may hold spaces ('2007_000032', 'my cat.jpg'), or two files of which
    the first counts ('/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png'). Blank
    lines and a byte-order mark are ignored.

    Raises:
        UserError: missing, not a text file, empty, or a name stands in it twice.
    """
    need_file(path, 'make the lists with python -m voc12.make_lists')
    try:
        with open(path, encoding='utf-8-sig') as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: not a readable text file ({error})') from None
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        two_paths = _TWO_PATHS.fullmatch(line)
        name = picture_name(line[: two_paths.end(1)] if two_paths else line)
        if name in line_of:
            raise UserError(
                f'{path}: {name} stands in line {line_of[name]} and in line {number}; '
                'remove one of them'
            )
        line_of[name] = number
    if not line_of:
        raise UserError(f'{path}: the list is empty; one image name a line is expected')
    return list(line_of)


def read_labels(path: str, classes: ClassSet) -> dict[str, np.ndarray]:
    """Image-level labels {name: float32 [K]} of a `cls_labels.npy`; `labels_of` looks them up.

    Args:
        classes: their foreground classes say how long a label is (VOC: K = 20).
    Raises:
        UserError: no such file, a label of another length, or a number and a text that are alike.
    """
    need_file(path, 'make it with python -m voc12.make_lists')
    loaded = read_npy(path)
    if not isinstance(loaded, dict):
        raise UserError(f'{path}: holds a plain array, not a dict of image-level labels')
    labels: dict[str, np.ndarray] = {}
    for key, value in loaded.items():
        name = str(key)
        if value.shape != (classes.num_foreground,):
            raise UserError(
                f'{path}: label of {name} has shape {value.shape}, expected '
                f'({classes.num_foreground},)'
            )
        if name in labels:
            raise UserError(f'{path}: has {name} twice, as a number and as a text')
        labels[name] = value.astype(np.float32)
    return labels


def labels_of(labels: dict[str, np.ndarray], names: list[str]) -> list[np.ndarray | None]:
    """The label of every name, None where there is none.

    Label files of the field may number VOC's pictures: 2007000032 is the label of 2007_000032,
    unless a picture of the list is itself called 2007000032.
    """
    listed = set(names)
    found = []
    for name in names:
        number = name.replace('_', '') if re.fullmatch('[0-9]{4}_[0-9]{6}', name) else name
        if name not in labels and number not in listed:
            name = number
        found.append(labels.get(name))
    return found
