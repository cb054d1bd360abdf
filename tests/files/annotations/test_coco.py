"""tool/files/annotations/coco.py: what pycocotools reads is the mask."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from scipy.ndimage import binary_fill_holes

from tool.files.annotations import coco
from tool.method.class_set import ClassSet

CLASSES = ClassSet.of(('chat', 'voiture à bras', '猫'))


def write(path, pictures, classes=CLASSES, polygons=False):
    """The file as pycocotools reads it."""
    coco.write(str(path), iter(pictures), classes, polygons)
    return COCO(str(path))


def drawn(file, image_id):
    """The mask that the annotations of a picture make, later ones over earlier ones."""
    image = file.loadImgs(image_id)[0]
    mask = np.zeros((image['height'], image['width']), np.uint8)
    for annotation in file.loadAnns(file.getAnnIds(image_id)):
        mask[file.annToMask(annotation) == 1] = annotation['category_id']
    return mask


def test_the_annotations_are_the_mask(tmp_path, mask, annotate, exported):
    file = write(tmp_path / 'a.json', [annotate(mask)])
    assert np.array_equal(drawn(file, 1), exported(mask))
    for annotation in file.loadAnns(file.getAnnIds()):
        pixels = file.annToMask(annotation)
        rows, columns = np.nonzero(pixels)
        left, top = columns.min(), rows.min()
        assert annotation['area'] == pixels.sum()
        assert annotation['bbox'] == [left, top, np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation['iscrowd'] == 0


def test_polygons_fill_holes_and_lose_nothing_else(tmp_path, mask, annotate):
    picture = annotate(mask)
    file = write(tmp_path / 'a.json', [picture], polygons=True)
    annotations = file.loadAnns(file.getAnnIds())
    assert len(annotations) == len(picture.objects)
    for annotation, item in zip(annotations, picture.objects):
        filled = binary_fill_holes(item.full(mask.shape))
        assert np.array_equal(file.annToMask(annotation), filled)


def test_objects_in_holes_survive_polygons(tmp_path, case, annotate):
    mask = case('holes')
    file = write(tmp_path / 'a.json', [annotate(mask)], polygons=True)
    # the holes with background or ignored pixels are filled by the object around them
    expected = mask.copy()
    expected[5:7, 4:6] = 1
    expected[12, 7] = 1
    expected[10:12, 18:21] = 2
    expected[11, 19] = 1
    assert np.array_equal(drawn(file, 1), expected)


def test_ids_names_and_sizes(tmp_path, case, annotate):
    pictures = [
        annotate(case('empty'), 'x/b.jpg'),
        annotate(case('two_of_a_class'), 'x/my cat.PNG'),
        annotate(case('large'), '猫.jpg'),
    ]
    write(tmp_path / 'a.json', pictures)
    content = json.loads((tmp_path / 'a.json').read_text('utf-8'))
    assert content['images'] == [
        {'id': 1, 'file_name': 'b.jpg', 'height': 24, 'width': 31},
        {'id': 2, 'file_name': 'my cat.PNG', 'height': 24, 'width': 31},
        {'id': 3, 'file_name': '猫.jpg', 'height': 150, 'width': 160},
    ]
    assert [(item['id'], item['image_id']) for item in content['annotations']] == [
        (1, 2),
        (2, 2),
        (3, 3),
    ]
    assert [(item['id'], item['name']) for item in content['categories']] == [
        (1, 'chat'),
        (2, 'voiture à bras'),
        (3, '猫'),
    ]


@pytest.mark.parametrize('count', [1, 254])
def test_one_and_254_classes(tmp_path, annotate, count):
    mask = np.arange(count + 1, dtype=np.uint8).reshape(1, -1).repeat(2, axis=0)
    classes = ClassSet.of([f'class {number}' for number in range(count)])
    file = write(tmp_path / 'a.json', [annotate(mask)], classes)
    assert np.array_equal(drawn(file, 1), mask)
    assert len(file.cats) == count
