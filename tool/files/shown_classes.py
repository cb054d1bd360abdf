"""The check that ground truth, or masks to learn from, show classes at all."""

from collections.abc import Sequence

import numpy as np

from tool.files.pictures import read_mask
from tool.method.class_set import IGNORE, MASK_COLOURS, ClassSet
from tool.run.errors import UserError


def need_a_class(
    paths: Sequence[str], classes: ClassSet, where: str, colours: str = MASK_COLOURS[0]
) -> None:
    """Check that at least one of some masks shows a class.

    Black-and-white masks of 0 and 255, and black ones, are valid masks: background, and pixels to
    ignore. As the truth for a whole list they are a mistake. A single picture may show nothing but
    the background, so one mask alone is taken as it is.

    Masks are read until one shows a class, which mostly is the first.

    Args:
        paths: the masks.
        classes: the classes that they may hold.
        where: the flag or config key and its value, for the message.
        colours: one of MASK_COLOURS, how masks are read.
    Raises:
        UserError: none shows a class; or a mask is missing or damaged.
    """
    if len(paths) < 2:
        return
    for path in paths:
        mask = read_mask(path, classes, colours)
        if np.any((mask != 0) & (mask != IGNORE)):
            return
    raise UserError(
        f'{where}: none of the {len(paths)} masks shows a class, they hold nothing but 0 '
        f'(background) and {IGNORE} (ignore); save class ids, for example 1 where an object is '
        f'{IGNORE}'
    )
