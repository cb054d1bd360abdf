"""The classes of a data set, the value of ignored pixels in masks, and the colours of masks."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

IGNORE = 255  # value of mask pixels that no loss and no score counts
BACKGROUND = 'background'  # name of class 0
# What a mask file says the classes by: the values of its pixels, or VOC's colours.
MASK_COLOURS = ('ids', 'voc')


@dataclass(frozen=True)
class ClassSet:
    """The classes of a data set. Two class sets are equal if they have the same names in order.

    Attributes:
        names: the names of all classes, the background first. The id of a class is its position.
    Raises:
        ValueError: there is no foreground class, a name is empty or occurs twice, or there are more
            classes than an 8-bit mask can number beside IGNORE.
    """

    names: tuple[str, ...]

    def __post_init__(self):
        if len(self.names) < 2:
            raise ValueError('a class set needs at least one foreground class')
        if len(self.names) > IGNORE:
            raise ValueError(
                f'{len(self.names) - 1} foreground classes: a mask has 8 bits, which number the '
                f'background, at most {IGNORE - 1} foreground classes and {IGNORE} for ignore'
            )
        if not all(name.strip() for name in self.names):
            raise ValueError('a class has an empty name')
        name, count = Counter(self.names).most_common(1)[0]
        if count > 1:
            raise ValueError(f'the class name {name} occurs {count} times')

    @classmethod
    def of(cls, foreground: Iterable[str]) -> 'ClassSet':
        """The class set of the background and these foreground classes."""
        return cls((BACKGROUND, *foreground))

    @property
    def foreground(self) -> tuple[str, ...]:
        """Names of the foreground classes, in the order of image labels and CAM files."""
        return self.names[1:]

    @property
    def colour_map(self) -> np.ndarray:
        """RGB colour of every mask value, uint8 [256, 3]: VOC's colours, whatever the classes."""
        return colour_map()

    @property
    def num_classes(self) -> int:
        """C: the number of classes with the background."""
        return len(self.names)

    @property
    def num_foreground(self) -> int:
        """K = C − 1: the number of classes without the background."""
        return len(self.names) - 1

    def __str__(self) -> str:
        """The classes for a message, e.g. '3 classes (cat, cow, dog)'; names three at most."""
        shown = ', '.join(self.foreground[:3])
        noun = 'class' if self.num_foreground == 1 else 'classes'
        more = ', …' if self.num_foreground > 3 else ''
        return f'{self.num_foreground} {noun} ({shown}{more})'

    def difference(self, other: 'ClassSet') -> str:
        """The first difference between two class sets, for a message; '' if they are equal."""
        for place, (own, others) in enumerate(zip(self.names, other.names)):
            if own != others:
                return f'class {place} is {own} in one and {others} in the other'
        if len(self.names) != len(other.names):
            return f'one has {self.num_foreground} and the other {other.num_foreground}'
        return ''


def colour_map() -> np.ndarray:
    """VOC's colour map, uint8 [256, 3].

    The bits 0, 1, 2 of a class id are the highest bits of R, G and B, its bits 3, 4, 5 the next
    lower ones, and so on.
    """
    ids = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for group in range(8):
        for channel in range(3):
            bit_of_id = (ids >> (3 * group + channel)) & 1
            bit_of_colour = bit_of_id << (7 - group)
            palette[:, channel] |= bit_of_colour.astype(np.uint8)
    return palette


def ids_of_colours(colours: np.ndarray, num_classes: int) -> np.ndarray:
    """The class ids that colours stand for in VOC's colour map.

    Args:
        colours: RGB, uint8 [..., 3].
        num_classes: C, the number of classes with the background.
    Returns:
        int64 [...]: 0…C−1, 255 for the colour of ignored pixels, and −1 for any other colour.
    """
    class_ids = np.array([*range(num_classes), IGNORE])
    codes_of_classes = _colour_codes(colour_map()[class_ids])
    order = np.argsort(codes_of_classes)
    sorted_codes = codes_of_classes[order]
    codes = _colour_codes(colours)
    places = np.searchsorted(sorted_codes, codes).clip(max=len(class_ids) - 1)
    is_known = sorted_codes[places] == codes
    return np.where(is_known, class_ids[order][places], -1)


def _colour_codes(colours: np.ndarray) -> np.ndarray:
    """RGB colours [..., 3] as whole numbers [...], one for each colour."""
    red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
    return (red << 16) | (green << 8) | blue
