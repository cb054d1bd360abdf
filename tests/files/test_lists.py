"""tool/files/lists.py: lists and image-level labels, in both formats, damaged and wrong."""

import numpy as np
import pytest

from tool.files.lists import read_labels, read_list
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
    'content, message',
    [(b'\n \n', 'the list is empty'), (b'\xff\xfe\x00', 'not a readable text file')],
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
    labels = read_labels(path, VOC)
    assert list(labels) == ['2007_000032', '2011_003276']
    assert (
        labels['2011_003276'].tolist() == np.eye(20)[1].tolist()
        and labels['2011_003276'].dtype == np.float32
    )


def test_bad_labels(path):
    write_npy(path, {'a': np.zeros(21)})
    with pytest.raises(UserError, match=r'label of a has shape \(21,\), expected \(20,\)'):
        read_labels(path, VOC)
    write_npy(path, np.zeros((3, 20)))
    with pytest.raises(UserError, match='holds a plain array'):
        read_labels(path, VOC)
