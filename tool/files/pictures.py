"""Reading and writing pictures and masks.

A picture is turned as its EXIF orientation says, here and for all stages: `read_image` turns the
pixels, `image_size` the size. Masks, saliency maps and predictions are files that belong to the
turned picture. They are read as they are stored, whatever their EXIF data say.

A picture has 8 bits a channel. Of a colour picture of 16 bits Pillow reads the upper 8. Grey
pictures of more bits, and of floats, are refused by `read_image` and `image_size`: nobody says
whether 10, 12 or 16 of the bits are used, and taken as they are they would be white.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import ExifTags, Image

from tool.files.atomic import need_file, write_bytes
from tool.files.reading import open_file
from tool.method.class_set import IGNORE, MASK_COLOURS, ClassSet, colour_map, ids_of_colours
from tool.run.errors import UserError

# The formats that are read, by their content and not by the ending of the file. Pillow knows forty
# more; some of its decoders start other programs (Ghostscript), and others allocate what a small
# file asks for.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'TIFF')
# Pixels of a picture that are read at most. Decoded, a pixel takes 4 bytes.
LARGEST = 100_000_000
# The limit of this module takes the place of Pillow's own, which calls a large picture an attack.
Image.MAX_IMAGE_PIXELS = None
_PALETTE = colour_map()
# The first and the last two bytes of a PNG (its last chunk has no data, so the checksum is always
# the same) and of a JPEG.
_FRAMES = ((b'\x89P', b'\x60\x82'), (b'\xff\xd8', b'\xff\xd9'))
# PIL's names of the 8-bit modes with one channel: palette and grey.
_GRAY = ('P', 'L')
# The modes of masks whose colours are read, and of grey ones beside them.
_COLOURED = (*_GRAY, 'RGB', 'RGBA')
# What to do with a mask that shows colours where class ids are needed.
_COLOUR_FIX = (
    'save class ids as 8-bit grey, or have colours read: --mask_colours voc, in the segmentation '
    'DATA_MASK_COLOURS=voc'
)
# What turns a picture upright, by its EXIF orientation; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The orientations that make the height of the stored picture its width.
_SWAPS_SIDES = (5, 6, 7, 8)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation 1…8 of a picture that is open and not yet decoded.

    This is the one place that decides how a picture is turned, so that its size and its pixels
    always agree. A picture is 1, used as it is stored, where it has no orientation, or one that is
    not 1…8, or EXIF data that are damaged. Only what stands before the pixels counts: a PNG with
    its EXIF data behind them is 1 too, so that its size is known without decoding it.
    """
    try:
        # not image.getexif(), which decodes a PNG to look for EXIF data behind the pixels
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        return int(value) if value in _TURNS else 1
    except Exception:  # damaged EXIF data can raise anything
        return 1


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) of a picture that is open and not yet decoded, before it is turned."""
    if image.format == 'TIFF':
        # newer versions of Pillow give the turned size of a TIFF, Pillow 10.0 the stored one
        tags = image.tag_v2  # type: ignore[attr-defined]
        return int(tags[ExifTags.Base.ImageLength]), int(tags[ExifTags.Base.ImageWidth])
    return image.height, image.width


@contextlib.contextmanager
def open_picture(file: IO[bytes], path: str) -> Iterator[Image.Image]:
    """Open a picture of one of FORMATS, to look at its header or to decode it.

    This is the only place that opens pictures.

    Args:
        file: the open file.
        path: what to call it in messages.
    Yields:
        The picture, not yet decoded.
    Raises:
        UserError: it is damaged, of another format, or has more than LARGEST pixels; also if it
            turns out to be damaged within the block.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > LARGEST:
                raise UserError(
                    f'{path}: has {pixels / 1e6:.0f} megapixels, and at most '
                    f'{LARGEST / 1e6:.0f} can be read; make it smaller'
                )
            yield image
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a damaged or hostile file can raise anything
        raise UserError(
            f'{path}: damaged or not a picture ({_reason(error)}); copy the file again'
        ) from None


def _reason(error: Exception) -> str:
    """Why Pillow cannot read a picture."""
    if isinstance(error, Image.UnidentifiedImageError):
        return f'none of the formats {", ".join(FORMATS)}'
    return str(error) or type(error).__name__


@contextlib.contextmanager
def _open_path(path: str, fix: str) -> Iterator[Image.Image]:
    """`open_picture` of a path; `fix` is the end of the message where there is no such file."""
    need_file(path, fix)
    try:
        file = open_file(path)
    except OSError as error:
        raise UserError(
            f'{path}: cannot be read ({error.strerror}); check its permissions'
        ) from None
    with file, open_picture(file, path) as image:
        yield image


def _decode(path: str, fix: str, turn: bool = False) -> Image.Image:
    """Read a picture in the mode of its file.

    Args:
        path: the file.
        fix: the end of the message where the file is missing: what the user can do.
        turn: turn it by its EXIF orientation.
    Raises:
        UserError: the file is missing, damaged or too large.
    """
    with _open_path(path, fix) as image:
        orientation = _orientation(image) if turn else 1
        image.load()
        # Pillow itself turns a TIFF when it decodes it
        if orientation == 1 or image.format == 'TIFF':
            return image
        return image.transpose(_TURNS[orientation])


def read_image(path: str, fix: str = 'check --voc12_root and the image list') -> Image.Image:
    """Read a picture as RGB, turned by its EXIF orientation.

    All stages read pictures through this function.

    Args:
        path: the file.
        fix: the end of the message where the file is missing: what the user can do.
    Raises:
        UserError: the file is missing or damaged, or a grey picture of more than 8 bits.
    """
    image = _decode(path, fix, turn=True)
    _check_depth(path, image.mode)
    return image.convert('RGB')


def _check_depth(path: str, mode: str) -> None:
    """UserError if PIL's mode of a picture is one of integers of 16 or 32 bits, or of floats."""
    if mode.startswith(('I', 'F')):
        raise UserError(
            f'{path}: is a grey picture of more than 8 bits (mode {mode}), which would become '
            'white; convert it to 8 bits, e.g. with "magick mogrify -auto-level -depth 8"'
        )


def image_size(
    path: str, fix: str = 'check --voc12_root and the image list', gray: bool = False
) -> tuple[int, int]:
    """(H, W) of a picture as `read_image` gives it, from the header of its file.

    Args:
        path: the file.
        fix: the end of the message where the file is missing: what the user can do.
        gray: the file is a mask or a saliency map: give its size as it is stored, and refuse it
            unless it is an 8-bit palette or grey picture.
    Raises:
        UserError: the file is missing or damaged; a mask is not grey, or a picture is grey with
            more than 8 bits.
    """
    size, orientation, mode = _read_header(path, fix)
    if not gray:
        _check_depth(path, mode)
    if gray and mode not in _GRAY:
        raise UserError(f'{path}: must be an 8-bit grey or palette PNG, this one is {mode}')
    if not gray and orientation in _SWAPS_SIDES:
        height, width = size
        return width, height
    return size


def stored_size(path: str) -> tuple[int, int]:
    """(H, W) of a picture before it is turned by its EXIF orientation; errors as `image_size`."""
    size, _, _ = _read_header(path, 'check --voc12_root and the image list')
    return size


def is_turned(path: str) -> bool:
    """Whether the EXIF orientation turns or mirrors a picture; errors as `image_size`."""
    _, orientation, _ = _read_header(path, 'check --voc12_root and the image list')
    return orientation != 1


def _read_header(path: str, fix: str) -> tuple[tuple[int, int], int, str]:
    """The stored size (H, W), the EXIF orientation and the mode of a picture."""
    with _open_path(path, fix) as image:
        return _stored_size(image), _orientation(image), image.mode


def check_size(
    path: str,
    size: tuple[int, int],
    expected: tuple[int, int],
    what: str = 'is',
    of: str = 'the picture',
    fix: str = 'make it again from this picture',
) -> None:
    """Check that a mask or a map is as large as its picture.

    Args:
        path: the file of the mask or map.
        size: (H, W) of the mask or map.
        expected: (H, W) that it must have.
        what: subject and verb of the message, e.g. 'maps are'; 'is' makes the file the subject.
        of: in the message, what has the expected size.
        fix: the end of the message: what the user can do.
    Raises:
        UserError: the sizes differ.
    """
    if tuple(size) != tuple(expected):
        raise UserError(
            f'{path}: {what} {size[1]}x{size[0]}, {of} is {expected[1]}x{expected[0]}; {fix}'
        )


def _read_gray_picture(path: str, fix: str) -> Image.Image:
    """Read an 8-bit palette or grey picture; arguments and errors are those of `read_gray`."""
    image = _decode(path, fix)
    if image.mode not in _GRAY:
        raise UserError(f'{path}: must be an 8-bit grey or palette PNG, this one is {image.mode}')
    return image


def read_gray(path: str, fix: str, indices: bool = True) -> np.ndarray:
    """Read an 8-bit picture with one channel as uint8 [H, W].

    Args:
        path: the file.
        fix: the end of the message where the file is missing: what the user can do.
        indices: of a palette picture, return the indices; False: the grey levels of its colours.
    Raises:
        UserError: the file is missing or damaged, or it has another mode.
    """
    image = _read_gray_picture(path, fix)
    return np.array(image if indices else image.convert('L'))


def _check_palette(path: str, image: Image.Image, mask: np.ndarray, classes: ClassSet) -> None:
    """UserError if a palette picture shows the colours of the classes at other indices.

    Image editors and converters renumber the colours of a palette. The picture looks right then,
    but its indices are no class ids. A palette with other colours than those of the classes is the
    user's own. Black says nothing: palettes are filled up with it.

    Args:
        path: the file.
        image: the picture.
        mask: its indices, uint8 [H, W].
        classes: the classes of the mask.
    """
    palette = np.array(image.getpalette('RGB'), np.uint8).reshape(-1, 3)
    class_ids = [*range(classes.num_classes), IGNORE]
    moved = None
    for index in np.unique(mask):
        colour = palette[index] if index < len(palette) else np.zeros(3, np.uint8)
        if not colour.any():
            continue
        of_colour = [class_id for class_id in class_ids if (_PALETTE[class_id] == colour).all()]
        if not of_colour:
            return  # a palette of the user's own
        if index not in of_colour:
            moved = (index, of_colour[0])
    if moved is not None:
        raise UserError(
            f'{path}: index {moved[0]} has the colour of class id {moved[1]}: saving has '
            f'renumbered the colours; {_COLOUR_FIX}'
        )


def _check_mask_mode(path: str, mode: str, colours: str) -> None:
    """UserError if PIL's mode of a picture is none of a mask that is read by ids or colours."""
    if mode in (_GRAY if colours == MASK_COLOURS[0] else _COLOURED):
        return
    fix = f'; {_COLOUR_FIX}' if mode in _COLOURED else ''
    raise UserError(f'{path}: must be an 8-bit grey or palette PNG, this one is {mode}{fix}')


def mask_size(path: str, fix: str, colours: str = MASK_COLOURS[0]) -> tuple[int, int]:
    """(H, W) of a mask as it is stored, from the header of its file.

    Args:
        path: the file.
        fix: the end of the message where the file is missing: what the user can do.
        colours: as for `read_mask`.
    Raises:
        UserError: the file is missing or damaged, or it is not a mask.
    """
    size, _, mode = _read_header(path, fix)
    _check_mask_mode(path, mode, colours)
    return size


def read_mask(path: str, classes: ClassSet, colours: str = MASK_COLOURS[0]) -> np.ndarray:
    """Read a mask (ground truth, prediction or pseudo mask).

    Args:
        path: the file.
        classes: the classes, C with the background, that the mask may hold.
        colours: one of MASK_COLOURS. 'ids': the values of the pixels, in a palette picture its
            indices, are class ids. 'voc': the colours are those of VOC's colour map, at any
            indices; the values of a grey picture, which has no colours, are class ids.
    Returns:
        uint8 [H, W], class ids 0…C−1 and 255 (ignore).
    Raises:
        UserError: the file is missing, damaged or not a mask, it holds another value or colour, or
            its palette shows the colours of VOC's colour map at other indices.
    """
    image = _decode(path, 'check the mask folder and the image list')
    _check_mask_mode(path, image.mode, colours)
    if colours != MASK_COLOURS[0] and image.mode != 'L':
        return _mask_of_colours(path, image, classes)
    mask = np.array(image)
    if image.mode == 'P':
        _check_palette(path, image, mask, classes)
    is_wrong = (mask >= classes.num_classes) & (mask != IGNORE)
    if is_wrong.any():
        value = mask[is_wrong][0]
        raise UserError(
            f'{path}: holds value {value}; a mask has class ids 0…{classes.num_classes - 1} and '
            f'{IGNORE} for ignore'
        )
    return mask


def _mask_of_colours(path: str, image: Image.Image, classes: ClassSet) -> np.ndarray:
    """The class ids of a palette or RGB picture in VOC's colours; see `read_mask`."""
    rgb = np.asarray(image.convert('RGB'))
    mask = ids_of_colours(rgb, classes.num_classes)
    unknown = np.argwhere(mask < 0)
    if len(unknown):
        row, column = unknown[0]
        red, green, blue = rgb[row, column].tolist()
        raise UserError(
            f'{path}: the pixel in column {column}, row {row} has the colour ({red}, {green}, '
            f'{blue}); VOC has other colours for class ids 0…{classes.num_classes - 1} and '
            f'{IGNORE}; save the mask without smoothing and loss of colours'
        )
    return mask.astype(np.uint8)


def write_mask(path: str, mask: np.ndarray) -> None:
    """Write a mask, uint8 [H, W], atomically, as an 8-bit palette PNG with VOC's colours."""
    image = Image.fromarray(np.asarray(mask, np.uint8))
    image.putpalette(_PALETTE.tobytes())
    write_picture(path, image)


def is_whole(path: str) -> bool:
    """Whether a file begins and ends as a PNG or a JPEG does, as it does unless it is truncated.

    Its pixels are not decoded. A file that is missing or empty is not whole.
    """
    try:
        with open_file(path) as file:
            start = file.read(2)
            file.seek(-2, os.SEEK_END)
            end = file.read()
    except OSError:
        return False
    return (start, end) in _FRAMES


def write_picture(path: str, image: Image.Image, quality: int = 75) -> None:
    """Write a picture atomically: a JPEG if the path ends in .jpg or .jpeg, otherwise a PNG.

    All pictures are written through this function. It encodes them in memory: Pillow itself takes
    the short write to a full disk for a whole one.

    Args:
        path: the file.
        image: the picture.
        quality: of a JPEG, 1…95.
    Raises:
        OutputError: the file cannot be written; the one that was there is left as it was.
    """
    encoded = io.BytesIO()
    if path.lower().endswith(('.jpg', '.jpeg')):
        image.save(encoded, 'JPEG', quality=quality)
    else:
        image.save(encoded, 'PNG')
    write_bytes(path, encoded.getbuffer())
