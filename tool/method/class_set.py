"""The type of a class set: the classes of a data set, the ignore value of its masks and the colours
they are written in."""

from dataclasses import dataclass

import numpy as np

IGNORE = 255  # value of a mask's pixels that belong to no class


@dataclass(frozen=True)
class ClassSet:
    """The classes of a data set.

    Attributes:
        names: of all classes, the background first; a class's id is its place.
    """

    names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """With the background."""
        return len(self.names)

    @property
    def num_foreground(self) -> int:
        """Without the background."""
        return len(self.names) - 1


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
