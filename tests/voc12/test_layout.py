"""voc12/layout.py: where pictures are, whatever their names and endings, and a folder's classes."""

import time

import numpy as np
import pytest
from PIL import Image

from tool.files.pictures import read_image
from tool.run.errors import UserError
from voc12.classes import VOC
from voc12.layout import check_images, class_set, image_path, pictures

FILES = [
    '2007_000032.jpg',
    'my cat.JPG',
    'Käse 猫.png',
    'v1.25.jpeg',
    'x_jpg.rf.0a1b.webp',
    '7.TIF',
]
NAMES = ['2007_000032', 'my cat', 'Käse 猫', 'v1.25', 'x_jpg.rf.0a1b', '7']


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'JPEGImages').mkdir()
    for file in FILES:
        Image.fromarray(np.full((5, 7, 3), 99, np.uint8)).save(tmp_path / 'JPEGImages' / file)
    for other in ('Thumbs.db', '._7.TIF', 'notes.txt'):
        (tmp_path / 'JPEGImages' / other).write_text('no picture')
    return tmp_path


def test_pictures_have_any_name_and_ending(root):
    assert pictures(str(root)) == dict(zip(NAMES, FILES))
    check_images(str(root), NAMES)
    for name, file in zip(NAMES, FILES):
        assert image_path(str(root), name) == str(root / 'JPEGImages' / file)
        assert read_image(image_path(str(root), name)).size == (7, 5)


def test_what_is_added_is_found(root):
    assert 'new' not in pictures(str(root))
    time.sleep(0.02)
    (root / 'JPEGImages' / 'new.png').write_bytes(b'')
    assert image_path(str(root), 'new') == str(root / 'JPEGImages' / 'new.png')


def test_a_lost_picture_and_a_lost_folder_are_named(root):
    with pytest.raises(UserError, match=r'lost.jpg: no such file.*of the 2 names.*1 have none'):
        check_images(str(root), ['7', 'lost'])
    with pytest.raises(UserError, match='JPEGImages: no such folder; set DATA_ROOT'):
        check_images(str(root / 'JPEGImages'), ['7'], 'DATA_ROOT')


def test_two_files_of_one_name_are_refused(root):
    (root / 'JPEGImages' / '2007_000032.PNG').write_bytes(b'')
    with pytest.raises(UserError, match='2007_000032.PNG and 2007_000032.jpg are both of the name'):
        check_images(str(root), ['7'])


def test_twelve_thousand_names_take_no_time(tmp_path):
    (tmp_path / 'JPEGImages').mkdir()
    names = [f'2007_{number:06d}' for number in range(12000)]
    for name in names:
        (tmp_path / 'JPEGImages' / f'{name}.jpg').touch()
    start = time.perf_counter()
    check_images(str(tmp_path), names)
    assert [image_path(str(tmp_path), name)[-15:-4] for name in names] == names
    assert time.perf_counter() - start < 1


def test_the_classes_of_a_folder(root):
    assert class_set(str(root)) is VOC
    (root / 'classes.txt').write_text('cat\n\ndog\n')
    assert class_set(str(root)).names == ('background', 'cat', 'dog')
