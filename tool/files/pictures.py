"""Pictures and masks."""

import numpy as np
from PIL import Image, UnidentifiedImageError

from tool.files.atomic import atomic, need_file
from tool.method.class_set import IGNORE, ClassSet, colour_map
from tool.run.errors import UserError

# what PIL raises for a damaged file
_DAMAGED = (
    OSError,
    UnidentifiedImageError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
)
_PALETTE = colour_map()


def _decode(path: str, fix: str) -> Image.Image:
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
    """A picture as PIL RGB. Every stage decodes pictures through this function."""
    return _decode(path, 'check --voc12_root and the image list').convert('RGB')


def image_size(
    path: str, fix: str = 'check --voc12_root and the image list', gray: bool = False
) -> tuple[int, int]:
    """(H, W) of a picture from its header, without decoding; with `gray` it must be an 8-bit
    palette or grey one."""
    need_file(path, fix)
    try:
        with Image.open(path) as image:
            size, mode = (image.height, image.width), image.mode
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
    """UserError unless what a file holds is as large as what it belongs to.

    Args:
        path: the file.
        size, expected: (H, W) of what it holds and of what it belongs to.
        what: the sentence's subject and verb, where the file holds several things.
        of: name of what it belongs to. fix: what to do about it.
    """
    if tuple(size) != tuple(expected):
        raise UserError(
            f'{path}: {what} {size[1]}x{size[0]}, {of} is {expected[1]}x{expected[0]}; {fix}'
        )


_GRAY = ('P', 'L')  # PIL's names of the 8-bit one-channel modes


def read_gray(path: str, fix: str, indices: bool = True) -> np.ndarray:
    """An 8-bit one-channel PNG as uint8 [H, W]; a palette image gives its indices, or with
    indices=False its grey levels."""
    image = _decode(path, fix)
    if image.mode not in _GRAY:
        raise UserError(f'{path}: must be an 8-bit grey or palette PNG, this one is {image.mode}')
    return np.array(image if indices else image.convert('L'))


def read_mask(path: str, classes: ClassSet) -> np.ndarray:
    """A ground-truth, predicted or pseudo mask: uint8 [H, W], class ids 0…K and 255 = ignore."""
    mask = read_gray(path, 'check the mask folder and the image list')
    wrong = mask[(mask >= classes.num_classes) & (mask != IGNORE)]
    if wrong.size:
        raise UserError(
            f'{path}: holds value {wrong[0]}; a mask has class ids 0…{classes.num_classes - 1} and '
            f'{IGNORE} for ignore'
        )
    return mask


def write_mask(path: str, mask: np.ndarray) -> None:
    """Write uint8 [H, W] class ids as an 8-bit palette PNG with the VOC colour map, atomically."""
    image = Image.fromarray(np.asarray(mask, np.uint8))
    image.putpalette(_PALETTE.tobytes())
    with atomic(path) as temporary:
        image.save(temporary, 'PNG')
