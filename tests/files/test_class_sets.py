"""tool/files/class_sets.py: classes.txt, well-formed and not."""

import pytest

from tool.files.class_sets import read_class_set, read_classes, write_classes
from tool.method.class_set import ClassSet
from tool.run.errors import UserError
from voc12.classes import VOC


def test_one_class_a_line(tmp_path):
    path = tmp_path / 'classes.txt'
    path.write_bytes('\ufeffcat\r\n\n  traffic light \nKäse'.encode())
    classes = read_class_set(str(tmp_path), VOC)
    assert classes.names == ('background', 'cat', 'traffic light', 'Käse')
    assert (classes.num_classes, classes.num_foreground) == (4, 3)
    write_classes(str(tmp_path / 'again.txt'), classes)
    assert read_classes(str(tmp_path / 'again.txt')) == classes


def test_without_a_file_the_default(tmp_path):
    assert read_class_set(str(tmp_path), VOC) is VOC
    write_classes(str(tmp_path / 'classes.txt'), VOC)
    assert read_class_set(str(tmp_path), ClassSet.of(['cat'])) == VOC


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'a class set needs at least one foreground class'),
        (b'cat\ndog\ncat\n', 'the class name cat occurs 2 times'),
        (b'background\ncat\n', 'names the class background, which every class set has'),
        (b'\xff\xfe', 'not a readable text file'),
        ('\n'.join(map(str, range(255))).encode(), '255 foreground classes: a mask has 8 bits'),
    ],
)
def test_what_is_no_class_set_is_refused(tmp_path, content, message):
    path = tmp_path / 'classes.txt'
    path.write_bytes(content)
    with pytest.raises(UserError, match=f'classes.txt: {message}') as error:
        read_classes(str(path))
    assert '\n' not in str(error.value)


def test_254_foreground_classes_fit(tmp_path):
    (tmp_path / 'classes.txt').write_text('\n'.join(map(str, range(254))))
    assert read_class_set(str(tmp_path), VOC).num_classes == 255
