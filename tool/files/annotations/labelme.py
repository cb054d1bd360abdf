"""labelme's annotations: one JSON file a picture.

Source of the format: labelme's reader and its `shapes_to_label` (`labelme/_label_file.py` and
`labelme/utils/shape.py` of labelme 6.3.1). What is where:

    imagePath                 the picture's file, as a path from the folder of the JSON file
    imageData                 null: labelme reads the picture from imagePath
    imageHeight, imageWidth   size of the picture as its EXIF orientation turns it, as labelme
                              turns it too
    shapes[]                  label: name of the class; shape_type; points; mask; group_id: null
                              (there are no ids)

The JSON file is called like the file of the picture, with another ending: so labelme finds it.

A shape is a `mask`, which is exact: points are the first and the last column and row of the box,
[[left, top], [right, bottom]], and mask is the box as a base64 PNG, 1 where the object is. Or it is
a `polygon` through the border pixels of the object. labelme's own rule, PIL's polygon with its
outline, fills it as it was, except that holes are filled too. The shapes stand in an order in which
an object in a hole comes after the one around it. So only the holes with background are lost.
"""

import base64
import io
import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from tool.files.annotations.objects import AnnotatedPicture, MaskObject, centre_outline
from tool.files.atomic import write_text
from tool.method.class_set import ClassSet

# labelme writes its version into a file; its reader only compares it, for a warning
VERSION = '6.3.1'


def json_path(folder: str, picture_path: str) -> str:
    """Path of the JSON file in `folder` for the picture of this path."""
    stem, _ = os.path.splitext(os.path.basename(picture_path))
    return os.path.join(folder, stem + '.json')


def write(
    folder: str, pictures: Iterable[AnnotatedPicture], classes: ClassSet, polygons: bool = False
) -> None:
    """Write one JSON file for each picture, each atomically.

    Args:
        folder: where the files are written.
        pictures: the pictures and their objects.
        classes: names of the mask values.
        polygons: write outlines without holes in place of exact masks.
    Raises:
        UserError: a file cannot be written.
    """
    for picture in pictures:
        height, width = picture.size
        # `..` leads out of the folder that a link stands for
        relative = os.path.relpath(picture.path, os.path.realpath(folder))
        shapes = [_shape(item, classes.names[item.class_id], polygons) for item in picture.objects]
        content: dict[str, Any] = {
            'version': VERSION,
            'flags': {},
            'shapes': shapes,
            'imagePath': relative.replace(os.sep, '/'),
            'imageData': None,
            'imageHeight': height,
            'imageWidth': width,
        }
        text = json.dumps(content, ensure_ascii=False, indent=1)
        write_text(json_path(folder, picture.path), text + '\n')


def _shape(item: MaskObject, label: str, polygons: bool) -> dict:
    """The shape of an object."""
    return {
        'label': label,
        'points': polygon(item) if polygons else corners(item),
        'group_id': None,
        'description': '',
        'shape_type': 'polygon' if polygons else 'mask',
        'flags': {},
        'mask': None if polygons else mask_text(item),
    }


def corners(item: MaskObject) -> list[list[int]]:
    """The first and the last column and row of an object: [[left, top], [right, bottom]]."""
    left, top, width, height = item.box
    return [[left, top], [left + width - 1, top + height - 1]]


def mask_text(item: MaskObject) -> str:
    """The pixels of an object within its box as a base64 PNG."""
    buffer = io.BytesIO()
    Image.fromarray(item.pixels.astype(np.uint8)).save(buffer, 'PNG')
    return base64.b64encode(buffer.getvalue()).decode('ascii')


def polygon(item: MaskObject) -> list[list[int]]:
    """The outline of an object through its border pixels, [[x, y], …], of at least three points.

    labelme refuses a polygon of fewer: the outline of one or two pixels repeats its last point.
    """
    points = centre_outline(item).tolist()
    missing = max(0, 3 - len(points))
    return points + [points[-1]] * missing
