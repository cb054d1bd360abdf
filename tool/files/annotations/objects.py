"""The objects of a mask: its connected components, and their outlines as polygons."""

from dataclasses import dataclass

import cv2
import numpy as np

from tool.method.class_set import IGNORE


@dataclass(frozen=True)
class MaskObject:
    """One object of a mask: a connected component of the pixels of one foreground class."""

    # mask value, 1…K
    class_id: int
    # (left, top, width, height) in pixels
    box: tuple[int, int, int, int]
    # the pixels within the box that belong to the object, bool [height, width]
    pixels: np.ndarray

    @property
    def area(self) -> int:
        """Number of pixels of the object."""
        return int(self.pixels.sum())

    @property
    def window(self) -> tuple[slice, slice]:
        """The slices (rows, columns) of the box in an array of the whole picture."""
        left, top, width, height = self.box
        return slice(top, top + height), slice(left, left + width)

    def full(self, size: tuple[int, int]) -> np.ndarray:
        """The pixels of the object in the whole picture of this size (H, W), bool [H, W]."""
        picture = np.zeros(size, bool)
        picture[self.window] = self.pixels
        return picture


@dataclass(frozen=True)
class AnnotatedPicture:
    """One picture and the objects of its mask."""

    # name of the picture, without the ending of its file
    name: str
    # path of the picture's file; only its name, <name>.jpg, where the file is not known
    path: str
    # (H, W) of the mask, which is that of the picture as its EXIF orientation turns it
    size: tuple[int, int]
    # in the order of `objects_of`
    objects: tuple[MaskObject, ...]


def objects_of(mask: np.ndarray) -> list[MaskObject]:
    """The objects of a mask.

    Pixels of one class that touch, at an edge or at a corner, are one object. The background (0)
    and the pixels to ignore (255) belong to none.

    Args:
        mask: uint8 [H, W], class ids.
    Returns:
        The objects, those of the largest box first. So an object in a hole of another one comes
        after it, and is on top where a tool draws the objects in this order.
    """
    objects = []
    for class_id in np.unique(mask).tolist():
        if class_id not in (0, IGNORE):
            objects += _components(mask == class_id, class_id)
    return sorted(objects, key=_place)


def _components(pixels: np.ndarray, class_id: int) -> list[MaskObject]:
    """The connected components of the pixels of one class, bool [H, W]."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(
        pixels.astype(np.uint8), connectivity=8
    )
    components = []
    for label in range(1, count):  # 0 is what belongs to no component
        left, top, width, height, _ = statistics[label].tolist()
        inside = labels[top : top + height, left : left + width] == label
        components.append(MaskObject(class_id, (left, top, width, height), inside))
    return components


def _place(item: MaskObject) -> tuple[int, int, int, int]:
    """The key that objects are sorted by."""
    left, top, width, height = item.box
    return -width * height, item.class_id, top, left


def edge_outline(item: MaskObject) -> np.ndarray:
    """The outer outline of an object along the edges of its pixels; holes are filled.

    The pixel in column x and row y covers the square from (x, y) to (x + 1, y + 1), so that the
    outline of a single pixel has four points.

    Returns:
        int [P, 2], the corners (x, y) of the polygon in the picture.
    """
    # Twice as large, every pixel has a left and a right half. The contour, which goes through the
    # pixels at the border, has column 2x in the left half of pixel x and 2x + 1 in the right one.
    doubled = item.pixels.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contour = _outer_contour(doubled, cv2.CHAIN_APPROX_NONE)
    corners = (contour + 1) // 2
    moves = (corners != np.roll(corners, 1, axis=0)).any(axis=1)
    corners = corners[moves]
    # every step is horizontal or vertical: a point where the axis stays the same is no corner
    is_horizontal = corners[:, 1] == np.roll(corners[:, 1], 1)
    turns = is_horizontal != np.roll(is_horizontal, -1)
    return corners[turns] + item.box[:2]


def centre_outline(item: MaskObject) -> np.ndarray:
    """The outer outline of an object through its border pixels; holes are filled.

    Points are the columns and rows of pixels. So an object of one pixel has one point.

    Returns:
        int [P, 2], the points (x, y) in the picture.
    """
    contour = _outer_contour(item.pixels.astype(np.uint8), cv2.CHAIN_APPROX_SIMPLE)
    return contour + item.box[:2]


def _outer_contour(pixels: np.ndarray, approximation: int) -> np.ndarray:
    """The outer contour, int [P, 2], of the one component in uint8 [H, W]."""
    contours, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, approximation)
    return contours[0].reshape(-1, 2)
