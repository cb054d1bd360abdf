"""COCO's object annotations: one JSON file for all pictures.

Source of the format: https://cocodataset.org/#format-data (object detection), as pycocotools and
many annotation tools read it. What is where:

    images[]       id 1, 2, …, in the order of the pictures; file_name: the file's name without a
                   folder; height, width
    annotations[]  id 1, 2, …; image_id; category_id: the mask value 1…K; bbox: [left, top, width,
                   height] in pixels; area: number of the object's pixels in the mask; iscrowd: 0;
                   segmentation
    categories[]   id: the mask value 1…K; name

A segmentation is the compressed run-length encoding {size: [H, W], counts: text} of pycocotools,
which is exact, or a polygon [[x, y, x, y, …]] along the edges of the pixels. The polygon fills the
holes of an object, because COCO's polygons have none. The objects of a picture stand in an order in
which an object in a hole comes after the one around it. So a reader that lets later annotations win
loses only the holes with background. iscrowd is 0 for both kinds: readers ignore crowds or leave
them out.
"""

import json
import os
from collections.abc import Iterable

from tool.files.annotations.objects import AnnotatedPicture, MaskObject, edge_outline
from tool.files.atomic import write_text
from tool.method.class_set import ClassSet


def write(
    path: str, pictures: Iterable[AnnotatedPicture], classes: ClassSet, polygons: bool = False
) -> None:
    """Write the annotations of pictures as one JSON file, atomically.

    Args:
        path: the file.
        pictures: the pictures and their objects.
        classes: names of the mask values.
        polygons: write outlines without holes in place of the exact run-length encoding.
    Raises:
        UserError: the file cannot be written.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for picture in pictures:
        image_id = len(images) + 1
        height, width = picture.size
        images.append(
            {
                'id': image_id,
                'file_name': os.path.basename(picture.path),
                'height': height,
                'width': width,
            }
        )
        for item in picture.objects:
            annotation = {
                'id': len(annotations) + 1,
                'image_id': image_id,
                'category_id': item.class_id,
                'bbox': list(item.box),
                'area': item.area,
                'iscrowd': 0,
                'segmentation': polygon(item) if polygons else run_lengths(item, picture.size),
            }
            annotations.append(annotation)
    categories = [
        {'id': class_id, 'name': name, 'supercategory': ''}
        for class_id, name in enumerate(classes.foreground, 1)
    ]
    content = {'images': images, 'annotations': annotations, 'categories': categories}
    write_text(path, json.dumps(content, ensure_ascii=False) + '\n')


def run_lengths(item: MaskObject, size: tuple[int, int]) -> dict:
    """The compressed run-length encoding of an object in a picture of size (H, W)."""
    # imported here, because the other formats do not need it
    from pycocotools import mask as coco

    # pycocotools counts down the columns
    pixels = item.full(size).astype('uint8', order='F')
    encoded = coco.encode(pixels)
    return {'size': list(size), 'counts': encoded['counts'].decode('ascii')}


def polygon(item: MaskObject) -> list[list[int]]:
    """The outline of an object, [[x, y, x, y, …]], along the edges of its pixels."""
    return [edge_outline(item).ravel().tolist()]
