"""The type of a class set: the classes of a data set, the ignore value of its masks and the colours
they are written in."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tool.run.errors import UserError

IGNORE = 255  # value of a mask's pixels that belong to no class
BACKGROUND = 'background'  # name of class 0


@dataclass(frozen=True)
class ClassSet:
    """The classes of a data set. Two sets are equal if their names are.

    Attributes:
        names: of all classes, the background first; a class's id is its place.
    Raises:
        UserError: no foreground class, an empty name, a name twice, or more classes than a mask's
            8 bits can number beside IGNORE.
    """

    names: tuple[str, ...]

    def __post_init__(self):
        if len(self.names) < 2:
            raise UserError('a class set needs at least one foreground class')
        if len(self.names) > IGNORE:
            raise UserError(
                f'{len(self.names) - 1} foreground classes: a mask has 8 bits, which number the '
                f'background, at most {IGNORE - 1} foreground classes and {IGNORE} for ignore'
            )
        if not all(name.strip() for name in self.names):
            raise UserError('a class has an empty name')
        name, count = Counter(self.names).most_common(1)[0]
        if count > 1:
            raise UserError(f'the class name {name} occurs {count} times')

    @classmethod
    def of(cls, foreground: Iterable[str]) -> 'ClassSet':
        """The class set of these foreground classes."""
        return cls((BACKGROUND, *foreground))

    @property
    def foreground(self) -> tuple[str, ...]:
        """Names of the foreground classes; class k of a CAM file or an image label is the k-th."""
        return self.names[1:]

    @property
    def colour_map(self) -> np.ndarray:
        """Colour of every class id and of IGNORE: uint8 [256, 3], VOC's for any class set."""
        return colour_map()

    @property
    def num_classes(self) -> int:
        """With the background."""
        return len(self.names)

    @property
    def num_foreground(self) -> int:
        """Without the background."""
        return len(self.names) - 1

    def __str__(self) -> str:
        """'3 classes (cat, cow, dog)'; of many only the first three are named."""
        shown = ', '.join(self.foreground[:3])
        noun = 'class' if self.num_foreground == 1 else 'classes'
        more = ', …' if self.num_foreground > 3 else ''
        return f'{self.num_foreground} {noun} ({shown}{more})'

    def difference(self, other: 'ClassSet') -> str:
        """How two class sets differ, for a message: '' where they do not."""
        for place, (own, others) in enumerate(zip(self.names, other.names)):
            if own != others:
                return f'class {place} is {own} in one and {others} in the other'
        if len(self.names) != len(other.names):
            return f'one has {self.num_foreground} and the other {other.num_foreground}'
        return ''


def colour_map() -> np.ndarray:
    """The VOC colour map, uint8 [256, 3]: the bits of the class id, three at a time, fill R, G, B
    from the top."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return palette
