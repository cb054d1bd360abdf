"""Reading pictures and masks, and writing masks."""

import numpy as np
from PIL import Image, UnidentifiedImageError

from tool.files.atomic import atomic, need_file
from tool.method.class_set import IGNORE, ClassSet, colour_map
from tool.run.errors import UserError

# The exceptions that PIL raises for a damaged file.
_DAMAGED = (
    OSError,
    UnidentifiedImageError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
)
_PALETTE = colour_map()
# PIL's names of the 8-bit modes with one channel: palette and grey.
_GRAY = ('P', 'L')


def _decode(path: str, fix: str) -> Image.Image:
    """Read a picture in the mode of its file; UserError if it is missing or damaged."""
    need_file(path, fix)
    try:
        image = Image.open(path)
        image.load()
        return image
    except _DAMAGED as error:
        raise UserError(
            f'{path}: damaged or not a picture ({error}); copy the file again'
        ) from None


def read_image(path: str) -> Image.Image:
    """Read a picture as RGB. All stages read pictures through this function.

    Raises:
        UserError: the file is missing or damaged.
    """
    return _decode(path, 'check --voc12_root and the image list').convert('RGB')


def image_size(
    path: str, fix: str = 'check --voc12_root and the image list', gray: bool = False
) -> tuple[int, int]:
    """(H, W) of a picture, from the header of its file.

    Args:
        path: the file.
        fix: the end of the message where the file is missing: what the user can do.
        gray: refuse a picture that is not an 8-bit palette or grey one.
    Raises:
        UserError: the file is missing or damaged, or it is not grey.
    """
    need_file(path, fix)
    try:
        with Image.open(path) as image:
            size = (image.height, image.width)
            mode = image.mode
    except _DAMAGED as error:
        raise UserError(
            f'{path}: damaged or not a picture ({error}); copy the file again'
        ) from None
    if gray and mode not in _GRAY:
        raise UserError(f'{path}: must be an 8-bit grey or palette PNG, this one is {mode}')
    return size


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


def read_gray(path: str, fix: str, indices: bool = True) -> np.ndarray:
    """Read an 8-bit picture with one channel as uint8 [H, W].

    Args:
        path: the file.
        fix: the end of the message where the file is missing: what the user can do.
        indices: of a palette picture, return the indices; False: the grey levels of its colours.
    Raises:
        UserError: the file is missing or damaged, or it has another mode.
    """
    image = _decode(path, fix)
    if image.mode not in _GRAY:
        raise UserError(f'{path}: must be an 8-bit grey or palette PNG, this one is {image.mode}')
    return np.array(image if indices else image.convert('L'))


def read_mask(path: str, classes: ClassSet) -> np.ndarray:
    """Read a mask (ground truth, prediction or pseudo mask).

    Args:
        path: the file.
        classes: the classes, C with the background, that the mask may hold.
    Returns:
        uint8 [H, W], class ids 0…C−1 and 255 (ignore).
    Raises:
        UserError: the file is missing, damaged or not a mask, or it holds another value.
    """
    mask = read_gray(path, 'check the mask folder and the image list')
    is_wrong = (mask >= classes.num_classes) & (mask != IGNORE)
    if is_wrong.any():
        value = mask[is_wrong][0]
        raise UserError(
            f'{path}: holds value {value}; a mask has class ids 0…{classes.num_classes - 1} and '
            f'{IGNORE} for ignore'
        )
    return mask


def write_mask(path: str, mask: np.ndarray) -> None:
    """Write a mask, uint8 [H, W], atomically, as an 8-bit palette PNG with VOC's colours."""
    image = Image.fromarray(np.asarray(mask, np.uint8))
    image.putpalette(_PALETTE.tobytes())
    with atomic(path) as temporary:
        image.save(temporary, 'PNG')
