"""tool/files/annotations/labelme.py: read back by the rules of labelme's own reader.

The package labelme needs Qt, so it is not installed for the tests. `shapes_to_label` does what its
function of this name does: a mask fills its box from the first to the last column and row, a
polygon is drawn by PIL with its outline.
"""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import binary_fill_holes

from tool.files.annotations import labelme
from tool.method.class_set import ClassSet

CLASSES = ClassSet.of(('chat', 'voiture à bras', '猫'))


def write(folder, picture, classes=CLASSES, polygons=False):
    """The content of the one file."""
    labelme.write(str(folder), iter([picture]), classes, polygons)
    (path,) = folder.iterdir()
    return json.loads(path.read_text('utf-8'))


def pixels_of(shape, size):
    """The pixels of a shape, bool [H, W]."""
    if shape['shape_type'] == 'mask':
        encoded = base64.b64decode(shape['mask'])
        (left, top), (right, bottom) = shape['points']
        pixels = np.zeros(size, bool)
        box = np.asarray(Image.open(io.BytesIO(encoded))).astype(bool)
        pixels[top : bottom + 1, left : right + 1] = box
        return pixels
    assert shape['shape_type'] == 'polygon' and len(shape['points']) >= 3
    image = Image.new('L', (size[1], size[0]))
    points = [tuple(point) for point in shape['points']]
    ImageDraw.Draw(image).polygon(points, outline=1, fill=1)
    return np.asarray(image).astype(bool)


def shapes_to_label(content, classes=CLASSES):
    """The mask that the shapes make, later ones over earlier ones."""
    size = (content['imageHeight'], content['imageWidth'])
    mask = np.zeros(size, np.uint8)
    for shape in content['shapes']:
        mask[pixels_of(shape, size)] = classes.names.index(shape['label'])
    return mask


def test_the_shapes_are_the_mask(tmp_path, mask, annotate, exported):
    content = write(tmp_path, annotate(mask))
    assert np.array_equal(shapes_to_label(content), exported(mask))


def test_polygons_fill_holes_and_lose_nothing_else(tmp_path, mask, annotate):
    picture = annotate(mask)
    content = write(tmp_path, picture, polygons=True)
    assert len(content['shapes']) == len(picture.objects)
    for shape, item in zip(content['shapes'], picture.objects):
        filled = binary_fill_holes(item.full(mask.shape))
        assert np.array_equal(pixels_of(shape, mask.shape), filled)
        assert shape['mask'] is None


def test_names_and_sizes(tmp_path, case, annotate):
    path = tmp_path / 'my pictures' / 'a cat.jpg.PNG'
    content = write(tmp_path / 'out', annotate(case('large'), str(path)))
    assert content['imagePath'] == '../my pictures/a cat.jpg.PNG'
    assert (content['imageHeight'], content['imageWidth']) == (150, 160)
    assert content['imageData'] is None
    assert [shape['label'] for shape in content['shapes']] == ['voiture à bras']
    # labelme looks for the name of the picture's file without its last ending
    assert [file.name for file in (tmp_path / 'out').iterdir()] == ['a cat.jpg.json']


@pytest.mark.parametrize('count', [1, 254])
def test_one_and_254_classes(tmp_path, annotate, count):
    mask = np.arange(count + 1, dtype=np.uint8).reshape(1, -1).repeat(2, axis=0)
    classes = ClassSet.of([f'class {number}' for number in range(count)])
    content = write(tmp_path, annotate(mask), classes)
    assert np.array_equal(shapes_to_label(content, classes), mask)
