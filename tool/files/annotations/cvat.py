"""CVAT's "Segmentation mask 1.1": one zip archive for all pictures.

Source of the format: its page (format-smask) in CVAT's documentation, docs.cvat.ai, and the reader
of VOC's layout in datumaro, the library with which CVAT reads archives
(`datumaro/plugins/data_formats/voc` of datumaro 1.13.12). What is where:

    labelmap.txt                          a line `name:r,g,b::` for each class, the background first
    ImageSets/Segmentation/default.txt    the names of the pictures without ending, one a line
    SegmentationClass/<name>.png          RGB: the colour of the class in every pixel
    SegmentationObject/<name>.png         RGB: the colour of the object in every pixel

CVAT finds the picture of a task by its name without ending. Sizes are those of the PNG files. The
number of an object, 1…255 within its picture, is the place of its colour in VOC's colour map; the
colour of a class is that of its mask value. Black is the background in both.
"""

import io
import zipfile
from collections.abc import Iterable

import numpy as np
from PIL import Image

from tool.files.annotations.objects import AnnotatedPicture
from tool.files.atomic import atomic
from tool.method.class_set import ClassSet, colour_map
from tool.run.errors import UserError

MAX_OBJECTS = 255  # of a picture: the colours of VOC's colour map without black
# of every file in the archive, so that the same masks make the same archive
_TIME = (1980, 1, 1, 0, 0, 0)


def write(path: str, pictures: Iterable[AnnotatedPicture], classes: ClassSet) -> None:
    """Write the archive, atomically.

    Args:
        path: the file.
        pictures: the pictures and their objects.
        classes: names and colours of the mask values.
    Raises:
        UserError: the file cannot be written, the format cannot hold the name of a class or of a
            picture, or a picture has more than 255 objects.
    """
    labels = label_map(classes)
    names = []
    with atomic(path) as temporary, zipfile.ZipFile(temporary, 'w') as archive:
        for picture in pictures:
            names.append(_checked_name(picture))
            class_ids, numbers = index_maps(picture)
            class_colours = classes.colour_map[class_ids]
            object_colours = colour_map()[numbers]
            _add(archive, f'SegmentationClass/{picture.name}.png', _png(class_colours))
            _add(archive, f'SegmentationObject/{picture.name}.png', _png(object_colours))
        _add(archive, 'ImageSets/Segmentation/default.txt', _lines(names))
        _add(archive, 'labelmap.txt', _lines(labels))


def label_map(classes: ClassSet) -> list[str]:
    """The lines `name:r,g,b::` of labelmap.txt.

    Raises:
        UserError: a line cannot hold the name of a class.
    """
    lines = []
    for class_id, name in enumerate(classes.names):
        if ':' in name or name.startswith('#'):
            raise UserError(
                f"the class {name}: CVAT's labelmap.txt allows no name with a colon, and none "
                'that begins with #; give it another name with --classes_txt'
            )
        red, green, blue = classes.colour_map[class_id].tolist()
        lines.append(f'{name}:{red},{green},{blue}::')
    return lines


def index_maps(picture: AnnotatedPicture) -> tuple[np.ndarray, np.ndarray]:
    """The class id and the number 1, 2, … of the object in every pixel, both uint8 [H, W].

    Raises:
        UserError: there are more than 255 objects.
    """
    if len(picture.objects) > MAX_OBJECTS:
        raise UserError(
            f'{picture.name}: its mask has {len(picture.objects)} objects, and the format cvat '
            f'numbers {MAX_OBJECTS} in a picture; leave out small ones with --min_area'
        )
    class_ids = np.zeros(picture.size, np.uint8)
    numbers = np.zeros(picture.size, np.uint8)
    for number, item in enumerate(picture.objects, 1):
        class_ids[item.window][item.pixels] = item.class_id
        numbers[item.window][item.pixels] = number
    return class_ids, numbers


def smallest_min_area(areas: list[int]) -> int:
    """The smallest number of pixels that at most 255 objects of a picture have, or more.

    Args:
        areas: number of pixels of every object.
    """
    if len(areas) <= MAX_OBJECTS:
        return 1
    largest_first = sorted(areas, reverse=True)
    return largest_first[MAX_OBJECTS] + 1


def _checked_name(picture: AnnotatedPicture) -> str:
    """The name of a picture, if a line of default.txt can hold it."""
    if picture.name.startswith('#') or picture.name != picture.name.strip():
        raise UserError(
            f'{picture.name!r}: the list of the format cvat allows no name that begins with # or '
            'has a space at an end; rename the picture and its mask'
        )
    return picture.name


def _png(colours: np.ndarray) -> bytes:
    """A PNG file of uint8 [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, 'PNG')
    return buffer.getvalue()


def _lines(lines: list[str]) -> bytes:
    return ('\n'.join(lines) + '\n').encode()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a file to the archive, with the mode of ordinary files."""
    info = zipfile.ZipInfo(name, _TIME)
    info.external_attr = 0o644 << 16
    archive.writestr(info, content)
