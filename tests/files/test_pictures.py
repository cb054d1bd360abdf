"""tool/files/pictures.py: pictures and masks, written and read back, damaged and wrong."""

import random

import numpy as np
import pytest
from PIL import Image

from tool.files.pictures import check_size, image_size, read_image, read_mask, write_mask
from tool.run.errors import UserError
from voc12.classes import PALETTE, VOC


def picture(seed=0, size=(40, 30)):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )


@pytest.mark.parametrize('extension', ['jpg', 'png'])
def test_pictures_and_truncated_pictures(tmp_path, extension):
    path = tmp_path / f'a.{extension}'
    picture().save(path)
    assert read_image(str(path)).size == (40, 30) and image_size(str(path)) == (30, 40)
    data = path.read_bytes()
    for end in [0, 1, 10, len(data) // 2, len(data) - 200]:
        path.write_bytes(data[:end])
        with pytest.raises(UserError, match=f'a.{extension}: damaged or not a picture'):
            read_image(str(path))
    with pytest.raises(UserError, match='no such file; check --voc12_root'):
        image_size(str(tmp_path / 'absent.png'))


def test_grey_and_palette_pictures_become_rgb(tmp_path):
    for mode in ('L', 'P', 'CMYK'):
        path = str(tmp_path / 'a.tif')
        picture().convert(mode).save(path)
        assert read_image(path).mode == 'RGB'


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
            for read in (read_image, image_size):
                try:
                    read(str(path))
                except UserError:
                    refused += 1
    assert refused > 100


def test_masks_palette_grey_and_colour(tmp_path):
    path, mask = str(tmp_path / 'm.png'), np.array([[0, 1, 20, 255]], np.uint8)
    write_mask(path, mask)
    with Image.open(path) as image:
        assert image.mode == 'P' and image.getpalette()[:63] == PALETTE[:21].ravel().tolist()
    assert PALETTE[[1, 15, 20, 255]].tolist() == [
        [128, 0, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]
    assert read_mask(path, VOC).tolist() == mask.tolist()
    Image.fromarray(mask).save(path)
    assert read_mask(path, VOC).tolist() == mask.tolist()
    picture().save(path)
    with pytest.raises(UserError, match='must be an 8-bit grey or palette PNG, this one is RGB'):
        read_mask(path, VOC)
    with pytest.raises(UserError, match='this one is RGB'):
        image_size(path, gray=True)
    Image.fromarray(np.array([[0, 21]], np.uint8)).save(path)
    assert image_size(path, gray=True) == (1, 2)
    with pytest.raises(UserError, match='holds value 21'):
        read_mask(path, VOC)


def test_another_size_is_said_as_width_and_height():
    check_size('a.png', (4, 5), (4, 5))
    with pytest.raises(
        UserError,
        match='^a.png: is 5x4, the picture is 6x4; make it again from this picture$',
    ):
        check_size('a.png', (4, 5), (4, 6))
    with pytest.raises(UserError, match='^a.npy: maps are 5x4, its truth is 6x4; do it$'):
        check_size('a.npy', (4, 5), (4, 6), what='maps are', of='its truth', fix='do it')
