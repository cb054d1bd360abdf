"""Lists of pictures and image-level labels."""

import os

import numpy as np

from tool.files.atomic import need_file
from tool.files.npy import read_npy
from tool.method.class_set import ClassSet
from tool.run.errors import UserError


def read_list(path: str) -> list[str]:
    """Image names of a list: the stem of each line's first column ('2007_000032' or
    '/JPEGImages/2007_000032.jpg …')."""
    need_file(path, 'make the lists with python -m voc12.make_lists')
    try:
        with open(path, encoding='utf-8') as file:
            lines = [line.split() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: not a readable text file ({error})') from None
    names = [os.path.splitext(os.path.basename(columns[0]))[0] for columns in lines if columns]
    if not names:
        raise UserError(f'{path}: the list is empty; one image name a line is expected')
    return names


def read_labels(path: str, classes: ClassSet) -> dict[str, np.ndarray]:
    """Image-level labels {name: float32 [20]} of a `cls_labels.npy`; integer keys (2007000032) are
    turned into names.

    `classes` say how long a label is.
    """
    need_file(path, 'make it with python -m voc12.make_lists')
    loaded = read_npy(path)
    if not isinstance(loaded, dict):
        raise UserError(f'{path}: holds a plain array, not a dict of image-level labels')
    labels = {}
    for key, value in loaded.items():
        name = key if isinstance(key, str) else f'{key // 1000000:04d}_{key % 1000000:06d}'
        if value.shape != (classes.num_foreground,):
            raise UserError(
                f'{path}: label of {name} has shape {value.shape}, expected '
                f'({classes.num_foreground},)'
            )
        labels[name] = value.astype(np.float32)
    return labels
