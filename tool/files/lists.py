"""Image lists and image-level labels."""

import codecs
import os
import re

import numpy as np

from tool.files.atomic import need_file, write_text
from tool.files.npy import read_npy
from tool.files.reading import open_file, open_text
from tool.method.class_set import ClassSet
from tool.run.errors import UserError

# Extensions of picture files, in upper or lower case.
ENDINGS = ('.jpg', '.jpeg', '.png', '.webp', '.tif')
# The end of the first file in a line of a list that names two files, a picture and its mask.
_END_OF_FIRST = re.compile('(?:' + '|'.join(map(re.escape, ENDINGS)) + r')(?=\s+\S)', re.IGNORECASE)
_BYTE_ORDER_MARK = '\ufeff'
# Characters that a line of a list has at most: two paths of the longest kind.
_LONGEST_LINE = 9000


def picture_name(file: str) -> str:
    """The name of a picture: its file name without the folder and the extension.

    Only the extensions of picture files are removed; in 'cat_jpg.rf.0a1b' nothing is.
    """
    name, ending = os.path.splitext(os.path.basename(file))
    while ending.lower() in ENDINGS:
        name, ending = os.path.splitext(name)
    return name + ending


def read_list(path: str) -> list[str]:
    """The names of the pictures in an image list.

    A line is the name of a picture ('2007_000032') or of its file ('my cat.jpg'), with or without
    spaces, or it names two files, a picture and its mask, of which the mask is ignored
    ('/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png'). Blank lines are ignored.
    The file is in UTF-8, with or without a byte-order mark, or in UTF-16 with one, as PowerShell
    writes it.

    Raises:
        UserError: the list is missing, not a text file or empty, or it has a name twice.
    """
    need_file(path, 'make the lists with python -m voc12.make_lists')
    try:
        with open_text(path, _encoding(path)) as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeError) as error:
        raise UserError(
            f'{path}: not a readable text file ({error}); save it as plain text in UTF-8'
        ) from None
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        if len(line) > _LONGEST_LINE:
            raise UserError(
                f'{path}: line {number} has {len(line):,} characters; one image name a line is '
                'expected'
            )
        if '\0' in line:
            raise UserError(
                f'{path}: line {number} holds zero bytes, as texts in UTF-32 do, or in UTF-16 '
                'without a byte-order mark; save it as plain text in UTF-8'
            )
        name = _name_in(line)
        if not name:
            raise UserError(
                f'{path}: line {number} names a folder; one image name a line is expected'
            )
        if name in line_of:
            raise UserError(
                f'{path}: {name} stands in line {line_of[name]} and in line {number}; '
                'remove one of them'
            )
        line_of[name] = number
    if not line_of:
        raise UserError(f'{path}: the list is empty; one image name a line is expected')
    return list(line_of)


def _name_in(line: str) -> str:
    """The name of the picture in a line of a list."""
    return picture_name(_first_of_two(line) or line)


def _first_of_two(line: str) -> str | None:
    """The first file of a line that names two files; None where the line names one.

    Two files are two paths, of which the second names a folder, or two files of the same name:
    'a.jpg a.png'. 'a.jpg b.png' is one file whose name has a space in it.

    It takes time in proportion to the length of the line, whatever stands there.
    """
    end_of_first = _END_OF_FIRST.search(line)
    if end_of_first is None:
        return None
    second = line[end_of_first.end() :].strip()
    if not second.lower().endswith(ENDINGS) or second.lower() in ENDINGS:
        return None
    # A name may hold such an end itself, 'a.jpg b'. Then the mask's name tells where the first file
    # ends, because both have the same.
    mask_name = picture_name(line)
    for end in _END_OF_FIRST.finditer(line, end_of_first.start()):
        if line.endswith('/' + mask_name, 0, end.start()):
            return line[: end.end()]
    first = line[: end_of_first.end()]
    if '/' in second or picture_name(first) == picture_name(second):
        return first
    return None


def _encoding(path: str) -> str:
    """The encoding of a text file by its byte-order mark: UTF-16 where it has that of UTF-16."""
    with open_file(path) as file:
        start = file.read(2)
    return 'utf-16' if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else 'utf-8-sig'


def write_list(path: str, names: list[str]) -> None:
    """Write an image list, one name a line, which `read_list` reads as these names.

    Raises:
        UserError: a list cannot hold one of the names, or has it twice.
    """
    seen: set[str] = set()
    for name in names:
        problem = unlistable(name)
        if not problem and name in seen:
            problem = 'stands there twice'
        if problem:
            raise UserError(f'{path}: the name {name!r} {problem}; rename the file')
        seen.add(name)
    write_text(path, '\n'.join(names) + '\n')


def unlistable(name: str) -> str:
    """Why an image list cannot hold a name, e.g. 'is not UTF-8'; '' if it can.

    A line of a list loses its outer spaces and the ending of a picture, so some names would be read
    as others.
    """
    try:
        name.encode('utf-8')
    except UnicodeEncodeError:
        return 'is not UTF-8'
    if not name or name != name.strip() or '\n' in name or '\r' in name:
        return 'begins or ends with a space, or has a line break'
    if name.startswith(_BYTE_ORDER_MARK):
        return 'begins with a byte-order mark'
    read = _name_in(name)
    if read != name:
        return f'would be read as {read!r} in a list'
    return ''


def spaced(names: list[str], count: int) -> list[str]:
    """`count` of the names, evenly spaced; all names if there are no more than that."""
    count = min(count, len(names))
    # the middles of `count` equal parts of the list
    indices = [(2 * part + 1) * len(names) // (2 * count) for part in range(count)]
    return [names[index] for index in indices]


def read_labels(path: str, classes: ClassSet) -> dict[str, np.ndarray]:
    """Read the image-level labels of a `cls_labels.npy`; `labels_of` looks them up.

    Args:
        path: the file.
        classes: the classes, of which K are foreground (VOC: 20).
    Returns:
        {name: float32 [K]}, 1 for each class that the picture shows, else 0.
    Raises:
        UserError: there is no such file, a label has another length or holds something else than
            0 and 1, or a picture is named twice, by a number and by the same number as text.
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
        _check_label(path, name, value)
        if name in labels:
            raise UserError(f'{path}: has {name} twice, as a number and as a text')
        labels[name] = value.astype(np.float32)
    return labels


def _check_label(path: str, name: str, label: np.ndarray) -> None:
    """UserError if a label holds something else than 0 and 1."""
    is_other = ~np.isin(label, (0, 1))
    if not is_other.any():
        return
    value = label[is_other][0]
    fix = 'a label is 1 for each class that the picture shows, else 0'
    if value == -1:
        fix += '; where -1 means absent, as in ImageSets/Main, convert with numpy.maximum(label, 0)'
    raise UserError(f'{path}: label of {name} holds {value}; {fix}')


def labels_of(labels: dict[str, np.ndarray], names: list[str]) -> list[np.ndarray | None]:
    """The label of each picture of a list; None for a picture without one.

    In the label files of other projects the key of VOC's picture 2007_000032 may be the number
    2007000032. It is found here too, unless another picture of the list is called 2007000032.

    Args:
        labels: what `read_labels` returns.
        names: the pictures of the list.
    """
    listed = set(names)
    found = []
    for name in names:
        key = name
        if name not in labels and re.fullmatch('[0-9]{4}_[0-9]{6}', name):
            number = name.replace('_', '')
            if number not in listed:
                key = number
        found.append(labels.get(key))
    return found
