"""tool/files/annotations/cvat.py: the colours in the archive are the mask and its objects."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from tool.files.annotations import cvat
from tool.method.class_set import ClassSet, colour_map
from tool.run.errors import UserError

CLASSES = ClassSet.of(('chat', 'voiture à bras', '猫'))


def write(path, pictures, classes=CLASSES):
    """{name of a file in the archive: its content}."""
    cvat.write(str(path), iter(pictures), classes)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def colours_of(files):
    """{colour: place in labelmap.txt} and the names of the classes."""
    places = {}
    names = []
    for line in files['labelmap.txt'].decode().splitlines():
        name, colour, parts, actions = line.split(':')
        assert parts == actions == ''
        places[tuple(map(int, colour.split(',')))] = len(names)
        names.append(name)
    return places, names


def indices(content, places):
    """The places of the colours of a PNG file, int [H, W]."""
    image = Image.open(io.BytesIO(content))
    assert image.format == 'PNG' and image.mode == 'RGB'
    pixels = np.asarray(image)
    flat = [places[tuple(colour)] for colour in pixels.reshape(-1, 3).tolist()]
    return np.array(flat).reshape(pixels.shape[:2])


OBJECT_NUMBERS = {tuple(colour): number for number, colour in enumerate(colour_map().tolist())}


def test_the_colours_are_the_mask(tmp_path, mask, annotate, exported):
    picture = annotate(mask)
    files = write(tmp_path / 'a.zip', [picture])
    places, names = colours_of(files)
    assert names == list(CLASSES.names)
    class_ids = indices(files['SegmentationClass/a b.png'], places)
    assert np.array_equal(class_ids, exported(mask))
    numbers = indices(files['SegmentationObject/a b.png'], OBJECT_NUMBERS)
    assert np.array_equal(numbers > 0, class_ids > 0)
    for number, item in enumerate(picture.objects, 1):
        assert np.array_equal(numbers == number, item.full(mask.shape))


def test_the_layout_of_the_archive(tmp_path, case, annotate):
    pictures = [annotate(case('empty'), 'b.jpg'), annotate(case('holes'), 'my cat.png')]
    files = write(tmp_path / 'a.zip', pictures)
    assert sorted(files) == [
        'ImageSets/Segmentation/default.txt',
        'SegmentationClass/b.png',
        'SegmentationClass/my cat.png',
        'SegmentationObject/b.png',
        'SegmentationObject/my cat.png',
        'labelmap.txt',
    ]
    assert files['ImageSets/Segmentation/default.txt'] == b'b\nmy cat\n'
    assert files['labelmap.txt'].decode().splitlines()[:3] == [
        'background:0,0,0::',
        'chat:128,0,0::',
        'voiture à bras:0,128,0::',
    ]


def test_the_same_masks_make_the_same_archive(tmp_path, case, annotate):
    for file in ('a.zip', 'b.zip'):
        write(tmp_path / file, [annotate(case('holes'))])
    assert (tmp_path / 'a.zip').read_bytes() == (tmp_path / 'b.zip').read_bytes()


@pytest.mark.parametrize('count', [1, 254])
def test_one_and_254_classes(tmp_path, annotate, count):
    mask = np.arange(count + 1, dtype=np.uint8).reshape(1, -1).repeat(2, axis=0)
    classes = ClassSet.of([f'class {number}' for number in range(count)])
    files = write(tmp_path / 'a.zip', [annotate(mask)], classes)
    places, _ = colours_of(files)
    assert np.array_equal(indices(files['SegmentationClass/a b.png'], places), mask)


def dots(count):
    """A mask of `count` objects of one pixel."""
    mask = np.zeros((2, 2 * count), np.uint8)
    mask[0, ::2] = 1
    return mask


def test_255_objects_and_no_more(tmp_path, annotate):
    files = write(tmp_path / 'a.zip', [annotate(dots(255))])
    numbers = indices(files['SegmentationObject/a b.png'], OBJECT_NUMBERS)
    assert len(np.unique(numbers)) == 256
    with pytest.raises(UserError, match='a b: its mask has 256 objects.*--min_area'):
        write(tmp_path / 'b.zip', [annotate(dots(255)), annotate(dots(256))])
    assert [path.name for path in tmp_path.iterdir()] == ['a.zip']


def test_names_that_the_lists_cannot_hold(tmp_path, case, annotate):
    picture = annotate(case('holes'))
    for name in ('a:b', '#a'):
        with pytest.raises(UserError, match=f'the class {name}'):
            write(tmp_path / 'a.zip', [picture], ClassSet.of((name, 'b', 'c')))
    for path in ('#1.jpg', ' a.jpg'):
        with pytest.raises(UserError, match='rename the picture'):
            write(tmp_path / 'a.zip', [annotate(case('holes'), path)])
    assert list(tmp_path.iterdir()) == []


def test_the_smallest_area_that_leaves_255_objects():
    assert cvat.smallest_min_area([1] * 255) == 1
    assert cvat.smallest_min_area([5] * 255 + [1]) == 2
    assert cvat.smallest_min_area([*range(1, 301)]) == 46  # 46…300 are 255 numbers
    assert cvat.smallest_min_area([7] * 256) == 8
