"""tool/files/pictures.py: pictures and masks, written and read back, damaged and wrong."""

import errno
import io
import os
import random
import struct
import subprocess
import zlib

import cv2
import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

from full_disk import files_of_at_most
from tool.files.pictures import (
    FORMATS,
    check_size,
    image_size,
    mask_size,
    read_gray,
    read_image,
    read_mask,
    stored_size,
    write_mask,
    write_picture,
)
from tool.method.class_set import ClassSet
from tool.run.errors import OutputError, UserError
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


@pytest.mark.parametrize('extension', ['jpg', 'png'])
def test_a_full_disk_leaves_no_truncated_picture(tmp_path, extension):
    path = tmp_path / f'a.{extension}'
    write_picture(str(path), picture(), quality=90)
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        with files_of_at_most(size), pytest.raises(OutputError, match='make room and give'):
            write_picture(str(path), picture(1), quality=90)
    assert path.read_bytes() == whole and os.listdir(tmp_path) == [f'a.{extension}']


def test_the_ending_of_a_picture_decides_its_format(tmp_path):
    for name, kind in (('a.JPG', 'JPEG'), ('a.jpeg', 'JPEG'), ('a.png', 'PNG'), ('a', 'PNG')):
        write_picture(str(tmp_path / name), picture())
        assert Image.open(tmp_path / name).format == kind


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


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def turned(pixels, orientation):
    """The plain formulation: [H, W, 3] as stored, turned as EXIF defines its orientations."""
    rows_are_columns = orientation in (5, 6, 7, 8)
    first_row_is_at_the_bottom_or_right = orientation in (3, 4, 6, 7)
    first_column_is_at_the_right_or_bottom = orientation in (2, 3, 7, 8)
    if first_row_is_at_the_bottom_or_right:
        pixels = pixels[::-1]
    if first_column_is_at_the_right_or_bottom:
        pixels = pixels[:, ::-1]
    return pixels.swapaxes(0, 1) if rows_are_columns else pixels


@pytest.mark.parametrize('extension', ['jpg', 'png', 'tif', 'webp'])
@pytest.mark.parametrize('orientation', range(10))
def test_pictures_are_turned_by_their_exif_orientation(
    tmp_path, monkeypatch, extension, orientation
):
    path = str(tmp_path / f'a.{extension}')
    options = {'lossless': True} if extension == 'webp' else {}
    picture().save(path, **options)
    stored = np.asarray(read_image(path))
    picture().save(path, exif=exif(orientation), **options)
    pixels = np.asarray(read_image(path))
    np.testing.assert_array_equal(pixels, turned(stored, orientation))

    def decode(*_):
        raise AssertionError('the size is read without decoding the picture')

    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, 'load', decode)
        assert image_size(path) == pixels.shape[:2]
        assert stored_size(path) == (30, 40)


def test_masks_are_read_as_stored(tmp_path):
    path = str(tmp_path / 'm.png')
    mask = np.array([[0, 1, 2], [3, 4, 5]], np.uint8)
    Image.fromarray(mask).save(path, exif=exif(6))
    assert image_size(path, gray=True) == (2, 3) and image_size(path) == (3, 2)
    assert read_mask(path, VOC).tolist() == mask.tolist()


def test_exif_behind_the_pixels_of_a_png_does_not_count(tmp_path):
    path = tmp_path / 'a.png'
    picture().save(path, exif=exif(6))
    data = path.read_bytes()
    start = data.index(b'eXIf') - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], 'big')
    last = data.index(b'IEND') - 4
    path.write_bytes(data[:start] + data[end:last] + data[start:end] + data[last:])
    assert image_size(str(path)) == (30, 40)
    np.testing.assert_array_equal(np.asarray(read_image(str(path))), np.asarray(picture()))


@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('extension', ['jpg', 'png', 'webp'])
def test_damaged_exif_data_stop_no_picture(tmp_path, extension):
    rng = random.Random(0)
    path = tmp_path / f'a.{extension}'
    data = exif(6)
    data[0x010F] = 'a maker'
    data[0x011A] = 72.0
    whole = data.tobytes()
    sizes = set()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 3, 9])):
            damaged[rng.randrange(6, len(damaged))] = rng.randrange(256)
        picture(0, (8, 5)).save(path, exif=bytes(damaged[: rng.randrange(10, 2 * len(damaged))]))
        size = image_size(str(path))
        assert read_image(str(path)).size == size[::-1]
        sizes.add(size)
    assert sizes == {(5, 8), (8, 5)}


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


def renumbered(mask):
    """A mask as an image editor saves it: the same colours, numbered by how often they occur."""
    colours = Image.fromarray(PALETTE[mask])
    return colours.convert('P', palette=Image.Palette.ADAPTIVE, colors=256)


def test_a_palette_with_the_class_colours_elsewhere_is_refused(tmp_path):
    path = str(tmp_path / 'm.png')
    mask = np.zeros((10, 10), np.uint8)
    mask[2:5, 2:8] = 12
    mask[6:8, 2:8] = 3
    mask[0] = 255
    renumbered(mask).save(path)
    with Image.open(path) as image:
        assert (np.array(image.convert('RGB')) == PALETTE[mask]).all()
    with pytest.raises(UserError, match='m.png: index . has the colour of class id .*renumbered'):
        read_mask(path, VOC)


@pytest.mark.parametrize(
    'colours',
    [
        [(0, 0, 0), (255, 0, 0), (128, 0, 0)],  # 2 has VOC's colour of 1, but 1 has its own
        [(0, 0, 0), (0, 0, 0), (0, 0, 0)],
    ],
)
def test_palettes_of_the_users_own_are_read(tmp_path, colours):
    path, mask = str(tmp_path / 'm.png'), np.array([[0, 1, 2, 2]], np.uint8)
    image = Image.fromarray(mask)
    image.putpalette(np.array(colours, np.uint8).tobytes())
    image.save(path)
    assert read_mask(path, VOC).tolist() == mask.tolist()


def in_colours(mask, kind):
    """A mask as another program saves its colours."""
    if kind == 'adaptive palette':
        return renumbered(mask)
    if kind == 'fewer colours':
        image = Image.fromarray(mask)
        image.putpalette(PALETTE.tobytes())
        return image.remap_palette(np.unique(mask).tolist())
    return Image.fromarray(PALETTE[mask]).convert(kind)


@pytest.mark.parametrize('kind', ['adaptive palette', 'fewer colours', 'RGB', 'RGBA'])
def test_masks_are_read_by_their_colours_where_asked_for(tmp_path, kind):
    path = str(tmp_path / 'm.png')
    mask = np.repeat(np.array([[0, 3, 12, 20, 255]], np.uint8), 7, axis=0)
    in_colours(mask, kind).save(path)
    assert read_mask(path, VOC, 'voc').tolist() == mask.tolist()
    assert mask_size(path, '', 'voc') == (7, 5)
    with pytest.raises(UserError, match='--mask_colours voc, .*DATA_MASK_COLOURS=voc'):
        read_mask(path, VOC)
    if kind in ('RGB', 'RGBA'):
        with pytest.raises(UserError, match=f'this one is {kind}; .*--mask_colours voc'):
            mask_size(path, '')


def test_our_own_masks_and_grey_ones_are_the_same_by_ids_and_by_colours(tmp_path):
    path, mask = str(tmp_path / 'm.png'), np.array([[0, 1, 20, 255]], np.uint8)
    write_mask(path, mask)
    assert read_mask(path, VOC, 'voc').tolist() == mask.tolist()
    Image.fromarray(mask).save(path)
    assert read_mask(path, VOC, 'voc').tolist() == mask.tolist()
    Image.fromarray(np.array([[0, 21]], np.uint8)).save(path)
    with pytest.raises(UserError, match='holds value 21'):
        read_mask(path, VOC, 'voc')


@pytest.mark.parametrize('colour', [(1, 0, 0), (255, 255, 255), (0, 64, 129)])
def test_colours_of_no_class_are_refused_with_their_pixel(tmp_path, colour):
    path, pixels = str(tmp_path / 'm.png'), PALETTE[np.zeros((4, 6), np.uint8)]
    pixels[2, 5] = colour
    Image.fromarray(pixels).save(path)
    text = ', '.join(map(str, colour))
    with pytest.raises(UserError, match=rf'the pixel in column 5, row 2 has the colour \({text}\)'):
        read_mask(path, VOC, 'voc')
    pixels[2, 5] = PALETTE[4]  # a colour of VOC, but of no class here
    Image.fromarray(pixels).save(path)
    with pytest.raises(UserError, match='class ids 0…3 and 255'):
        read_mask(path, ClassSet.of(['a', 'b', 'c']), 'voc')


@pytest.mark.parametrize('kind', ['1', 'LA', 'I;16'])
@pytest.mark.parametrize('colours', ['ids', 'voc'])
def test_masks_of_other_modes_are_refused_however_they_are_read(tmp_path, kind, colours):
    path = str(tmp_path / 'm.png')
    Image.fromarray(np.zeros((2, 3), np.uint8)).convert(kind).save(path)
    for read in (lambda: read_mask(path, VOC, colours), lambda: mask_size(path, '', colours)):
        with pytest.raises(UserError, match=f'must be an 8-bit grey or palette PNG, .* {kind}$'):
            read()


@pytest.mark.parametrize(
    'pixels', [np.full((2, 3), 40000, np.uint16), np.full((2, 3), 0.5, np.float32)]
)
def test_grey_pictures_of_more_than_8_bits_are_refused(tmp_path, pixels):
    """Read as they are they would be white, or black; the name says nothing about the format."""
    path = str(tmp_path / 'p.jpg')
    Image.fromarray(pixels).save(path, 'PNG' if pixels.dtype == np.uint16 else 'TIFF')
    for read in (read_image, image_size):
        with pytest.raises(
            UserError, match='p.jpg: is a grey picture of more than 8 bits .*magick'
        ):
            read(path)


def test_of_colours_of_16_bits_the_upper_8_are_read(tmp_path):
    path = str(tmp_path / 'p.png')
    pixels = np.zeros((2, 3, 3), np.uint16)
    pixels[0, 1] = (40000, 256, 65535)
    cv2.imwrite(path, pixels[..., ::-1])  # OpenCV's order is BGR
    assert np.asarray(read_image(path))[0, 1].tolist() == [156, 1, 255]


def test_another_size_is_said_as_width_and_height():
    check_size('a.png', (4, 5), (4, 5))
    with pytest.raises(
        UserError,
        match='^a.png: is 5x4, the picture is 6x4; make it again from this picture$',
    ):
        check_size('a.png', (4, 5), (4, 6))
    with pytest.raises(UserError, match='^a.npy: maps are 5x4, its truth is 6x4; do it$'):
        check_size('a.npy', (4, 5), (4, 6), what='maps are', of='its truth', fix='do it')


# ---------------------------------------------------------------- files from strangers

READERS = {
    'read_image': read_image,
    'image_size': image_size,
    'stored_size': stored_size,
    'image_size of a mask': lambda path: image_size(path, gray=True),
    'read_mask': lambda path: read_mask(path, VOC),
    'read_gray': lambda path: read_gray(path, 'fix'),
}


@pytest.fixture(params=READERS)
def read(request):
    return READERS[request.param]


@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.tif', 'a.eps'])
def test_a_postscript_file_starts_no_program(tmp_path, monkeypatch, read, name):
    def start(*arguments, **_):
        raise AssertionError(f'started {arguments}')

    monkeypatch.setattr(subprocess, 'check_call', start)
    monkeypatch.setattr(subprocess, 'Popen', start)
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', start)
    path = tmp_path / name
    path.write_bytes(
        b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n'
        b'(%pipe%touch /tmp/was_run) (w) file\nshowpage\n%%EOF\n'
    )
    with pytest.raises(UserError, match=f'{name}: damaged or not a picture'):
        read(str(path))


def test_only_the_formats_of_the_documents_are_decoded(tmp_path, monkeypatch, read):
    """Pillow knows some forty formats, and it looks at the content, not at the ending."""
    Image.init()
    for name in set(Image.OPEN) - set(FORMATS):
        factory, accept = Image.OPEN[name]

        def reach(*_, name=name):
            raise AssertionError(f'the decoder of {name} was reached')

        monkeypatch.setitem(Image.OPEN, name, (reach, accept and reach))
    saved = 0
    for name in set(Image.SAVE) - set(FORMATS) - {'MPO', 'JPEG2000', 'PDF', 'AVIF'}:
        path = tmp_path / 'a.png'
        content = io.BytesIO()
        try:
            picture().convert('L').save(content, name)
        except Exception:  # the format is not of this build of Pillow, or not of grey pictures
            continue
        path.write_bytes(content.getvalue())
        saved += 1
        with pytest.raises(UserError, match='a.png: damaged or not a picture .none of the formats'):
            read(str(path))
    assert saved > 8


def png(width, height):
    """A PNG that claims so many 1-bit grey pixels and holds none."""
    file = b'\x89PNG\r\n\x1a\n'
    header = struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)
    for name, content in ((b'IHDR', header), (b'IDAT', zlib.compress(b'')), (b'IEND', b'')):
        checksum = zlib.crc32(name + content)
        file += struct.pack('>I', len(content)) + name + content + struct.pack('>I', checksum)
    return file


def test_a_picture_with_too_many_pixels_is_not_called_damaged(tmp_path, read):
    path = tmp_path / 'a.png'
    path.write_bytes(png(20_000, 10_000))
    with pytest.raises(UserError, match='a.png: has 200 megapixels, and at most 100 can be read'):
        read(str(path))


def test_the_largest_picture_is_read(tmp_path, monkeypatch):
    path = str(tmp_path / 'a.png')
    monkeypatch.setattr('tool.files.pictures.LARGEST', 6)
    Image.new('L', (3, 2)).save(path)
    assert read_image(path).size == (3, 2)
    Image.new('L', (7, 1)).save(path)
    with pytest.raises(UserError, match='megapixels'):
        read_image(path)


def test_a_pipe_and_a_device_are_refused_at_once(tmp_path, read):
    path = tmp_path / 'a.png'
    os.mkfifo(path)
    for file in (str(path), '/dev/zero'):
        with pytest.raises(UserError, match=f'{file}: is a pipe or a device, not a file'):
            read(file)


def test_a_picture_that_may_not_be_read(tmp_path, monkeypatch, read):
    path = str(tmp_path / 'a.png')
    picture().convert('L').save(path)

    def refuse(path, *_):
        raise PermissionError(errno.EACCES, 'Permission denied', path)

    # not by its mode, which does not keep root from reading
    monkeypatch.setattr('tool.files.pictures.open_file', refuse)
    with pytest.raises(
        UserError, match='a.png: cannot be read .Permission denied.; check its perm'
    ):
        read(path)


def test_a_full_memory_is_not_called_a_damaged_picture(tmp_path, monkeypatch):
    path = str(tmp_path / 'a.png')
    picture().save(path)

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, 'load', fail)
    with pytest.raises(MemoryError):
        read_image(path)
