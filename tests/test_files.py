"""tool/files.py: every format, written and read back, damaged and wrong."""
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tool import files
from tool.run.errors import UserError
from voc12.classes import PALETTE


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'file.npy')


# ---------------------------------------------------------------- lists and labels

def test_both_list_formats(tmp_path):
    path = tmp_path / 'list.txt'
    path.write_text('2007_000032\n\n  /JPEGImages/2007_000039.jpg /SegmentationClassAug/2007_000039.png\n\n'
                    '2007_000063.jpg\r\n')
    assert files.read_list(str(path)) == ['2007_000032', '2007_000039', '2007_000063']


@pytest.mark.parametrize('content, message', [(b'\n \n', 'the list is empty'),
                                              (b'\xff\xfe\x00', 'not a readable text file')])
def test_bad_lists(tmp_path, content, message):
    path = tmp_path / 'list.txt'
    path.write_bytes(content)
    with pytest.raises(UserError, match=f'list.txt: {message}'):
        files.read_list(str(path))
    with pytest.raises(UserError, match='no such file'):
        files.read_list(str(tmp_path / 'absent.txt'))
    with pytest.raises(UserError, match='is a folder'):
        files.read_list(str(tmp_path))


@pytest.mark.parametrize('keys', [['2007_000032', '2011_003276'], [2007000032, 2011003276],
                                  [np.int64(2007000032), np.int64(2011003276)]])
@pytest.mark.parametrize('dtype', [np.float32, np.float64, np.uint8])
def test_both_label_key_formats(path, keys, dtype):
    files.write_npy(path, {key: np.eye(20, dtype=dtype)[i] for i, key in enumerate(keys)})
    labels = files.read_labels(path)
    assert list(labels) == ['2007_000032', '2011_003276']
    assert labels['2011_003276'].tolist() == np.eye(20)[1].tolist() and labels['2011_003276'].dtype == np.float32


def test_bad_labels(path):
    files.write_npy(path, {'a': np.zeros(21)})
    with pytest.raises(UserError, match=r'label of a has shape \(21,\), expected \(20,\)'):
        files.read_labels(path)
    files.write_npy(path, np.zeros((3, 20)))
    with pytest.raises(UserError, match='holds a plain array'):
        files.read_labels(path)


# ---------------------------------------------------------------- maps

def test_array_layout_is_read_as_a_dict(path):
    maps = np.random.default_rng(0).random((21, 6, 9), np.float32)
    files.write_npy(path, maps)
    assert files.maps_size(path) == ((6, 9), 'array')
    read = files.read_maps(path, (6, 9))
    assert list(read) == list(range(21)) and all((read[i] == maps[i]).all() for i in range(21))


def test_size_of_no_maps(path):
    files.write_npy(path, {})
    assert files.maps_size(path) == (None, 'dict')
    assert files.read_cam(path, (5, 5)) == {}


@pytest.mark.parametrize('value, message', [
    ({21: np.zeros((2, 2))}, 'entry 21'), ({-1: np.zeros((2, 2))}, 'entry -1'), ({'cat': np.zeros((2, 2))}, "entry 'cat'"),
    ({1: np.zeros(4)}, r'shape \(4,\)'), ({1: np.zeros((2, 2)), 2: np.zeros((2, 3))}, 'different sizes'),
    (np.zeros((20, 4, 4)), r'shape \(20, 4, 4\)'), ({1: np.zeros((4, 3))}, 'maps are 3x4, the picture is 5x6'),
])
def test_bad_maps(path, value, message):
    files.write_npy(path, value)
    with pytest.raises(UserError, match=message):
        files.read_maps(path, (6, 5))


def test_a_cam_has_no_class_20(path):
    files.write_npy(path, {20: np.zeros((2, 2), np.float32)})
    assert list(files.read_maps(path)) == [20]
    with pytest.raises(UserError, match='has class 20'):
        files.read_cam(path)


# ---------------------------------------------------------------- pictures and masks

def picture(seed=0, size=(40, 30)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.mark.parametrize('extension', ['jpg', 'png'])
def test_pictures_and_truncated_pictures(tmp_path, extension):
    path = tmp_path / f'a.{extension}'
    picture().save(path)
    assert files.read_image(str(path)).size == (40, 30) and files.image_size(str(path)) == (30, 40)
    data = path.read_bytes()
    for end in [0, 1, 10, len(data) // 2, len(data) - 200]:
        path.write_bytes(data[:end])
        with pytest.raises(UserError, match=f'a.{extension}: damaged or not a picture'):
            files.read_image(str(path))
    with pytest.raises(UserError, match='no such file; check --voc12_root'):
        files.image_size(str(tmp_path / 'absent.png'))


def test_grey_and_palette_pictures_become_rgb(tmp_path):
    for mode in ('L', 'P', 'CMYK'):
        path = str(tmp_path / 'a.tif')
        picture().convert(mode).save(path)
        assert files.read_image(path).mode == 'RGB'


def test_damaged_pictures_raise_nothing_but_a_user_error(tmp_path):
    rng, refused = random.Random(0), 0
    for extension in ('jpg', 'png'):
        path = tmp_path / f'a.{extension}'
        picture(1, (12, 9)).save(path)
        whole = path.read_bytes()
        for _ in range(400):
            data = bytearray(whole)
            for _ in range(3):
                data[rng.randrange(len(data))] = rng.randrange(256)
            path.write_bytes(data)
            for read in (files.read_image, files.image_size):
                try:
                    read(str(path))
                except UserError:
                    refused += 1
    assert refused > 100


def test_masks_palette_grey_and_colour(tmp_path):
    path, mask = str(tmp_path / 'm.png'), np.array([[0, 1, 20, 255]], np.uint8)
    files.write_mask(path, mask)
    with Image.open(path) as image:
        assert image.mode == 'P' and image.getpalette()[:63] == PALETTE[:21].ravel().tolist()
    assert PALETTE[[1, 15, 20, 255]].tolist() == [[128, 0, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192]]
    assert files.read_mask(path).tolist() == mask.tolist()
    Image.fromarray(mask).save(path)
    assert files.read_mask(path).tolist() == mask.tolist()
    picture().save(path)
    with pytest.raises(UserError, match='must be an 8-bit grey or palette PNG, this one is RGB'):
        files.read_mask(path)
    with pytest.raises(UserError, match='this one is RGB'):
        files.image_size(path, gray=True)
    Image.fromarray(np.array([[0, 21]], np.uint8)).save(path)
    assert files.image_size(path, gray=True) == (1, 2)
    with pytest.raises(UserError, match='holds value 21'):
        files.read_mask(path)


# ---------------------------------------------------------------- writing

def test_atomic_leaves_nothing_when_the_writer_fails(tmp_path):
    path = tmp_path / 'out/a.txt'
    with pytest.raises(ZeroDivisionError), files.atomic(str(path)) as temporary:
        Path(temporary).write_text('half')
        _ = 1 / 0
    assert list(path.parent.iterdir()) == []
    files.write_text(str(path), 'old')
    with pytest.raises(KeyboardInterrupt), files.atomic(str(path)) as temporary:
        Path(temporary).write_text('half')
        raise KeyboardInterrupt
    assert [p.name for p in path.parent.iterdir()] == ['a.txt'] and path.read_text() == 'old'
    with pytest.raises(UserError, match='cannot be written'), files.atomic(str(path)):
        raise OSError(28, 'No space left on device')
    assert path.read_text() == 'old' and path.stat().st_mode & 0o777 == 0o666 & ~files._UMASK


def test_output_folder_that_cannot_be(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='file/a.npy: cannot be written'):
        files.write_npy(str(tmp_path / 'file/a.npy'), {})
    (tmp_path / 'b.npy').mkdir()
    with pytest.raises(UserError, match='b.npy: cannot be written'):
        files.write_npy(str(tmp_path / 'b.npy'), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ['b.npy', 'file']


# ---------------------------------------------------------------- checkpoints

def test_checkpoint_round_trip_and_module_prefix(tmp_path):
    path = str(tmp_path / 'net.pth')
    state = {'a.weight': torch.arange(6.).view(2, 3).T, 'a.num': torch.tensor(3)}
    files.save_checkpoint(path, state)
    assert all(torch.equal(value, state[key]) for key, value in files.load_checkpoint(path).items())
    files.save_checkpoint(path, {'module.' + key: value for key, value in state.items()})
    assert list(files.load_checkpoint(path)) == ['a.weight', 'a.num']
    files.save_checkpoint(path, {'module.a': torch.ones(1), 'b': torch.ones(1)})
    assert list(files.load_checkpoint(path)) == ['module.a', 'b']
    assert [p.name for p in tmp_path.iterdir()] == ['net.pth']


def test_checkpoint_with_code_is_refused(tmp_path):
    path, mark = str(tmp_path / 'net.pth'), tmp_path / 'was run'

    class Call:
        def __reduce__(self):
            return os.system, (f'touch {mark}',)

    for legacy in (False, True):
        torch.save({'a': torch.ones(1), 'b': Call()}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(UserError, match='net.pth: not a PyTorch checkpoint of plain weights'):
            files.load_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize('value', [
    {}, [torch.ones(1)], torch.ones(1), {'net': {'a': torch.ones(1)}}, {'a': 1}, {3: torch.ones(1)}, torch.nn.Linear(1, 1)],
    ids=['empty', 'list', 'tensor', 'nested', 'number', 'int key', 'module'])
def test_what_is_no_state_dict_is_refused(tmp_path, value):
    torch.save(value, tmp_path / 'net.pth')
    with pytest.raises(UserError, match='net.pth: not a'):
        files.load_checkpoint(str(tmp_path / 'net.pth'))


def test_truncated_checkpoint(tmp_path):
    path = tmp_path / 'net.pth'
    files.save_checkpoint(str(path), {'a': torch.ones(100)})
    data = path.read_bytes()
    for end in (0, 1, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(UserError, match='net.pth: not a PyTorch checkpoint'):
            files.load_checkpoint(str(path))
