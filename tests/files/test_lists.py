"""tool/files/lists.py: lists and image-level labels, in both formats, damaged and wrong."""

import os

import numpy as np
import pytest

from tool.files.lists import labels_of, read_labels, read_list, spaced
from tool.files.npy import write_npy
from tool.run.errors import UserError
from voc12.classes import VOC


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'file.npy')


def test_both_list_formats(tmp_path):
    path = tmp_path / 'list.txt'
    path.write_text(
        '2007_000032\n\n  /JPEGImages/2007_000039.jpg /SegmentationClassAug/2007_000039.png\n\n'
        '2007_000063.jpg\r\n'
    )
    assert read_list(str(path)) == ['2007_000032', '2007_000039', '2007_000063']


@pytest.mark.parametrize(
    'line, name',
    [
        ('my cat on a sofa', 'my cat on a sofa'),
        ('my cat on a sofa.JPG', 'my cat on a sofa'),
        ('/JPEGImages/my cat.jpg /SegmentationClassAug/my cat.png', 'my cat'),
        ('JPEGImages/a.b.jpg\tSegmentationClass/a.b.png', 'a.b'),
        ('cat_jpg.rf.0a1b', 'cat_jpg.rf.0a1b'),
        ('cat_jpg.rf.0a1b.WebP', 'cat_jpg.rf.0a1b'),
        ('v1.25', 'v1.25'),
        ('Käse 猫 ИВАН', 'Käse 猫 ИВАН'),
        ('000000391895', '000000391895'),
        ('2007000032', '2007000032'),
        ('photo.jpg.jpg', 'photo'),
        ('photo.jpg copy.png', 'photo.jpg copy'),
        ('JPEGImages/photo.jpg copy.png', 'photo.jpg copy'),
        ('a.jpg b.png', 'a.jpg b'),
        ('a.jpg a.png', 'a'),
        ('a.jpg masks/a.png', 'a'),
        ('JPEGImages/a.jpg masks/a_mask.png', 'a'),
        ('scan.tif', 'scan'),
    ],
)
def test_a_line_is_a_name(tmp_path, line, name):
    path = tmp_path / 'list.txt'
    path.write_bytes(b'\xef\xbb\xbf' + line.encode() + b'\r\n')
    assert read_list(str(path)) == [name]
    path.write_text(name + '\n', encoding='utf-8')  # what read_list gives is read as it is
    assert read_list(str(path)) == [name]


def test_a_name_twice_is_refused(tmp_path):
    path = tmp_path / 'list.txt'
    path.write_text('a\n\nb\n/JPEGImages/a.jpg /SegmentationClass/a.png\n')
    with pytest.raises(UserError, match='list.txt: a stands in line 1 and in line 4'):
        read_list(str(path))


@pytest.mark.parametrize(
    'content, message',
    [
        (b'\n \n', 'the list is empty'),
        (b'\xff\xfe\x00', 'not a readable text file'),
        ('cat\n'.encode('utf-16-le'), 'line 1 holds zero bytes'),
        ('cat\n'.encode('utf-32'), 'line 1 holds zero bytes'),
    ],
)
def test_bad_lists(tmp_path, content, message):
    path = tmp_path / 'list.txt'
    path.write_bytes(content)
    with pytest.raises(UserError, match=f'list.txt: {message}'):
        read_list(str(path))
    with pytest.raises(UserError, match='no such file'):
        read_list(str(tmp_path / 'absent.txt'))
    with pytest.raises(UserError, match='is a folder'):
        read_list(str(tmp_path))


@pytest.mark.parametrize(
    'keys',
    [
        ['2007_000032', '2011_003276'],
        [2007000032, 2011003276],
        [np.int64(2007000032), np.int64(2011003276)],
    ],
)
@pytest.mark.parametrize('dtype', [np.float32, np.float64, np.uint8])
def test_both_label_key_formats(path, keys, dtype):
    write_npy(path, {key: np.eye(20, dtype=dtype)[i] for i, key in enumerate(keys)})
    first, second = labels_of(read_labels(path, VOC), ['2007_000032', '2011_003276'])
    assert first.tolist() == np.eye(20)[0].tolist()
    assert second.tolist() == np.eye(20)[1].tolist() and second.dtype == np.float32


def test_a_number_is_the_name_of_a_picture_before_it_is_one_of_voc(path):
    write_npy(path, {391895: np.zeros(20), 2007000032: np.ones(20), '2007_000039': np.ones(20)})
    labels = read_labels(path, VOC)
    assert list(labels) == ['391895', '2007000032', '2007_000039']
    numbered, voc = labels_of(labels, ['391895', '2007_000032'])
    assert numbered.sum() == 0 and voc.sum() == 20
    number, other = labels_of(labels, ['2007000032', '2007_000032'])
    assert number.sum() == 20 and other is None
    assert labels_of(labels, ['0000391895', '3918_95']) == [None, None]
    write_npy(path, {5: np.zeros(20), '5': np.ones(20)})
    with pytest.raises(UserError, match='has 5 twice, as a number and as a text'):
        read_labels(path, VOC)


def test_bad_labels(path):
    write_npy(path, {'a': np.zeros(21)})
    with pytest.raises(UserError, match=r'label of a has shape \(21,\), expected \(20,\)'):
        read_labels(path, VOC)
    write_npy(path, np.zeros((3, 20)))
    with pytest.raises(UserError, match='holds a plain array'):
        read_labels(path, VOC)


@pytest.mark.parametrize(
    'label, message',
    [
        ([0, -1, 1], 'holds -1.*as in ImageSets/Main, convert with numpy.maximum'),
        ([0, 0.3, 1], r'holds 0\.3\d*; a label is 1 for each class that the picture shows'),
        ([0, 3, 0], 'holds 3'),
        ([0, 255, 0], 'holds 255'),
        ([0, np.nan, 0], 'holds nan'),
    ],
)
def test_labels_that_are_no_labels(path, label, message):
    values = np.zeros(20, np.float32)
    values[:3] = label
    write_npy(path, {'good': np.zeros(20), 'bad': values})
    with pytest.raises(UserError, match=f'label of bad {message}'):
        read_labels(path, VOC)


def test_labels_of_booleans_and_integers(path):
    write_npy(path, {'a': np.arange(20) % 2 == 0, 'b': np.arange(20) % 2})
    labels = read_labels(path, VOC)
    assert labels['a'].sum() == labels['b'].sum() == 10


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-be'])
def test_lists_in_the_encodings_of_editors(tmp_path, encoding):
    mark = b'\xfe\xff' if encoding == 'utf-16-be' else b''
    path = tmp_path / 'list.txt'
    path.write_bytes(mark + 'größe 1\r\n二\r\n'.encode(encoding))
    assert read_list(str(path)) == ['größe 1', '二']


def test_pictures_are_evenly_spaced():
    names = [str(i) for i in range(10)]
    assert (
        spaced(names, 3) == ['1', '5', '8']
        and spaced(names, 20) == names
        and spaced(names, 1) == ['5']
    )
    assert spaced(names, 10) == names


def test_a_line_of_many_endings_takes_no_time(tmp_path):
    """A regular expression with two open ends needed minutes for such lines."""
    path = tmp_path / 'list.txt'
    line = '.jpg ' * 1700 + 'x'
    path.write_text(''.join(f'{number} {line}\n' for number in range(1000)))
    assert len(read_list(str(path))) == 1000


def test_a_line_that_is_no_name_is_a_short_message(tmp_path):
    path = tmp_path / 'list.txt'
    path.write_text('a\n' + 'b.jpg ' * 2_000_000)
    with pytest.raises(UserError, match='list.txt: line 2 has 11,999,999 characters; one image'):
        read_list(str(path))


def test_a_pipe_is_no_list(tmp_path):
    path = tmp_path / 'list.txt'
    os.mkfifo(path)
    with pytest.raises(UserError, match='list.txt: is a pipe or a device, not a file'):
        read_list(str(path))
