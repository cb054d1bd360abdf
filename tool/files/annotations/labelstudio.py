"""Label Studio's tasks with brush masks: one JSON file for all pictures, and the labelling set-up.

Source of the format: https://labelstud.io/guide/predictions (import of pre-annotations) and
https://labelstud.io/tags/brushlabels. The encoding of a brush mask is that of the JavaScript
package @thi.ng/rle-pack, which `label_studio_sdk.converter.brush` reads too. What is where:

    tasks.json             a list with a task for each picture
      data.image           the address at which Label Studio serves the picture; it ends with the
                           name of the picture's file
      predictions[].result a result for each object: id: object1, object2, … within the picture;
                           type: brushlabels; original_width and original_height: size of the
                           picture as its EXIF orientation turns it, as browsers do;
                           value: {format: rle, rle: bytes as numbers, brushlabels: [class]}
    labels.xml             the labelling set-up, to paste into the settings of the project

The masks are predictions: Label Studio shows them to a person, who corrects a copy.

The run-length encoding is a string of bits. It describes H · W · 4 values, R, G, B and alpha of
every pixel row by row; all four are 255 where the object is, else 0:

    32 bits               number of values
    5 bits                bits of a value − 1: 7
    4 times 4 bits        the four widths of a run length, in bits, − 1: here of 3, 4, 8 and 16
    then for every run:
    1 bit                 1: the next value is repeated
    2 bits                which of the four widths
    3, 4, 8 or 16 bits    run length − 1
    8 bits                the value

and zeros up to a whole byte. A run longer than 65,536 values is written as several.
"""

import json
import os
import urllib.parse
from collections.abc import Iterable
from xml.sax.saxutils import quoteattr

import numpy as np

from tool.files.annotations.objects import AnnotatedPicture, MaskObject
from tool.files.atomic import atomic, write_text
from tool.method.class_set import ClassSet

TASKS = 'tasks.json'
LABELS = 'labels.xml'
# names of the two tags in labels.xml, which the results refer to
_IMAGE_TAG = 'image'
_BRUSH_TAG = 'tag'
_MODEL_VERSION = 'tool.export'

_CHANNELS = 4
_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)
_LONGEST_RUN = 1 << _LENGTH_BITS[-1]


def write(
    folder: str, pictures: Iterable[AnnotatedPicture], classes: ClassSet, url_prefix: str
) -> None:
    """Write labels.xml and tasks.json, each atomically.

    Args:
        folder: where the files are written.
        pictures: the pictures and their objects.
        classes: names and colours of the mask values.
        url_prefix: what stands before the quoted name of a picture's file in its address.
    Raises:
        UserError: a file cannot be written.
    """
    # The tasks of a large data set do not fit into memory: they are written one by one.
    with (
        atomic(os.path.join(folder, TASKS)) as temporary,
        open(temporary, 'w', encoding='utf-8') as file,
    ):
        separator = '[\n'
        for picture in pictures:
            task = _task(picture, classes, url_prefix)
            file.write(separator + json.dumps(task, ensure_ascii=False))
            separator = ',\n'
        file.write('\n]\n')
    write_text(os.path.join(folder, LABELS), label_config(classes))


def label_config(classes: ClassSet) -> str:
    """The labelling set-up: a brush for every foreground class, in the colours of the masks."""
    lines = [
        '<View>',
        f'  <Image name="{_IMAGE_TAG}" value="$image" zoom="true"/>',
        f'  <BrushLabels name="{_BRUSH_TAG}" toName="{_IMAGE_TAG}">',
    ]
    for class_id, name in enumerate(classes.foreground, 1):
        red, green, blue = classes.colour_map[class_id].tolist()
        colour = f'#{red:02x}{green:02x}{blue:02x}'
        lines.append(f'    <Label value={quoteattr(name)} background="{colour}"/>')
    lines += ['  </BrushLabels>', '</View>']
    return '\n'.join(lines) + '\n'


def _task(picture: AnnotatedPicture, classes: ClassSet, url_prefix: str) -> dict:
    """The task of a picture."""
    file = os.path.basename(picture.path)
    results = [
        _result(number, item, picture.size, classes.names[item.class_id])
        for number, item in enumerate(picture.objects, 1)
    ]
    prediction = {'model_version': _MODEL_VERSION, 'result': results}
    return {
        'data': {'image': url_prefix + urllib.parse.quote(file)},
        'predictions': [prediction],
    }


def _result(number: int, item: MaskObject, size: tuple[int, int], label: str) -> dict:
    """The brush mask of an object in a picture of size (H, W)."""
    height, width = size
    return {
        'id': f'object{number}',
        'type': 'brushlabels',
        'from_name': _BRUSH_TAG,
        'to_name': _IMAGE_TAG,
        'original_width': width,
        'original_height': height,
        'image_rotation': 0,
        'value': {'format': 'rle', 'rle': encode(item.full(size)), 'brushlabels': [label]},
    }


def encode(mask: np.ndarray) -> list[int]:
    """The run-length encoding of a mask, bool [H, W], as the numbers 0…255 of its bytes."""
    flat = mask.ravel()
    # a run begins at the first pixel and where a pixel differs from the one before
    differs = flat[1:] != flat[:-1]
    starts = np.concatenate(([0], np.flatnonzero(differs) + 1))
    ends = np.append(starts[1:], flat.size)
    lengths = (ends - starts) * _CHANNELS
    values = np.where(flat[starts], 255, 0)

    parts = [f'{flat.size * _CHANNELS:032b}', f'{_VALUE_BITS - 1:05b}']
    parts += [f'{bits - 1:04b}' for bits in _LENGTH_BITS]
    for length, value in zip(lengths.tolist(), values.tolist()):
        while length > _LONGEST_RUN:
            parts.append(_run(_LONGEST_RUN, value))
            length -= _LONGEST_RUN
        parts.append(_run(length, value))
    text = ''.join(parts)
    text += '0' * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, 'big'))


def _run(length: int, value: int) -> str:
    """The bits of a run of at most 65,536 equal values, in the smallest width that holds it."""
    which = 0
    while length > 1 << _LENGTH_BITS[which]:
        which += 1
    return f'1{which:02b}{length - 1:0{_LENGTH_BITS[which]}b}{value:0{_VALUE_BITS}b}'
