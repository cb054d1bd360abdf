"""tool/files/picture_files.py: the pictures that files and folders stand for."""

import os

import pytest

from tool.files.picture_files import find_pictures, named_pictures
from tool.run.errors import UserError


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    for path in ('b.JPG', 'a.png', 'notes.txt', 'in/c.webp', '.hidden/d.jpg', 'in/.e.jpg'):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b'')
    return folder


def test_a_folder_stands_for_all_pictures_below_it(photos, tmp_path):
    assert find_pictures(str(photos)) == ['a.png', 'b.JPG', 'in/c.webp']
    found = named_pictures([str(photos / 'in'), str(photos / 'b.JPG')], str(tmp_path / 'out'))
    assert found == {'c': str(photos / 'in' / 'c.webp'), 'b': str(photos / 'b.JPG')}


def test_a_file_twice_is_taken_once_and_two_files_of_one_name_are_refused(photos, tmp_path):
    out = str(tmp_path / 'out')
    os.symlink(photos / 'a.png', photos / 'in' / 'a.png')
    assert list(named_pictures([str(photos)], out)) == ['a', 'b', 'c']
    (photos / 'in' / 'b.tif').write_bytes(b'')
    with pytest.raises(UserError, match='b.JPG and .*b.tif are both of the name b; rename'):
        named_pictures([str(photos)], out)


def test_the_outputs_are_no_pictures(photos):
    out = photos / 'in' / 'masks'
    out.mkdir()
    (out / 'a.png').write_bytes(b'')
    assert list(named_pictures([str(photos)], str(out))) == ['a', 'b', 'c']
    for path in (out, out / 'a.png'):
        with pytest.raises(UserError, match='is in --out .*masks'):
            named_pictures([str(path)], str(out))
    with pytest.raises(UserError, match='photos: is in --out'):
        named_pictures([str(photos)], str(photos))


def test_what_is_no_picture_is_refused(photos, tmp_path):
    out = str(tmp_path / 'out')
    with pytest.raises(UserError, match='x.jpg: no such file or folder'):
        named_pictures([str(photos / 'x.jpg')], out)
    with pytest.raises(UserError, match='notes.txt: is no picture .*.jpg'):
        named_pictures([str(photos / 'notes.txt')], out)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='empty: no picture there'):
        named_pictures([str(tmp_path / 'empty')], out)
