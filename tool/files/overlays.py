"""Pictures for the eye: the heat map of a picture's CAMs, and a picture with its mask over it."""

import math
from collections.abc import Iterable

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tool.method.class_set import IGNORE, ClassSet

# Overlays are made in as many worker processes as there are cores: each works in one thread.
cv2.setNumThreads(1)

# A picture whose long side has this many pixels gets lines, text and colour boxes of the sizes
# below, in pixels. Those of a larger picture are larger in proportion.
LONG_SIDE = 500
OUTLINE = 1  # width of the outline of a mask
TEXT = 14  # size of the font
LINE = 24  # height of a line of the legend
BOX = 14  # side of a box of colour
GAP = 6  # between the box, its text and what follows


def heat_map(picture: np.ndarray, cam: dict[int, np.ndarray]) -> np.ndarray:
    """The strongest CAM of every pixel as a colour over the grey picture, uint8 [H, W, 3].

    Args:
        picture: uint8 [H, W, 3].
        cam: {foreground class: float32 [H, W]}. The colours run from blue (0) to red (1).
    """
    if cam:
        strongest = np.max(list(cam.values()), axis=0)
    else:
        strongest = np.zeros(picture.shape[:2], np.float32)
    levels = (strongest.clip(0, 1) * 255).astype(np.uint8)
    colours_bgr = cv2.applyColorMap(levels, cv2.COLORMAP_JET)
    colours = cv2.cvtColor(colours_bgr, cv2.COLOR_BGR2RGB)
    grey = picture.mean(2, keepdims=True)
    return (0.5 * grey + 0.5 * colours).astype(np.uint8)


def legend_ids(shown: Iterable[int]) -> list[int]:
    """The class ids for a legend, ascending, without IGNORE."""
    return [class_id for class_id in sorted(shown) if class_id != IGNORE]


def blend(picture: np.ndarray, mask: np.ndarray, classes: ClassSet) -> np.ndarray:
    """A picture with the objects of its mask in half transparent colours and white outlines.

    White, because many of VOC's colours are dark and could not be told from a dark object. The
    background, and pixels with the value IGNORE, look as they do in the picture.

    Args:
        picture: uint8 [H, W, 3].
        mask: uint8 [H, W], class ids.
        classes: the colours of the classes.
    Returns:
        uint8 [H, W, 3].
    """
    colours = classes.colour_map[mask]
    is_object = (mask > 0) & (mask != IGNORE)
    half = (picture.astype(np.uint16) + colours + 1) // 2
    blended = np.where(is_object[..., None], half.astype(np.uint8), picture)
    # pixels from which another class is not farther than the width of the outline
    side = 2 * OUTLINE * _enlargement(picture) + 1
    window = np.ones((side, side), np.uint8)
    is_edge = cv2.dilate(mask, window) != cv2.erode(mask, window)
    return np.where((is_object & is_edge)[..., None], np.uint8(255), blended)


def overlay(picture: np.ndarray, mask: np.ndarray, classes: ClassSet) -> Image.Image:
    """`blend`, and below it a legend with the names of the classes that occur.

    Where the mask has no object, the legend says that all is background. The image is as wide as
    the picture; a narrow picture gets a white margin that makes room for the longest name.
    """
    times = _enlargement(picture)
    font = ImageFont.load_default(TEXT * times)
    ids = [class_id for class_id in legend_ids(np.unique(mask).tolist()) if class_id != 0]
    texts = [classes.names[class_id] for class_id in ids] or [f'all {classes.names[0]}']
    longest = max(math.ceil(font.getlength(text)) for text in texts)
    entry_width = (GAP + BOX + GAP) * times + longest + GAP * times
    height, width = picture.shape[:2]
    total_width = max(width, entry_width)
    entries_per_line = total_width // entry_width
    lines = math.ceil(len(texts) / entries_per_line)

    image = Image.new('RGB', (total_width, height + lines * LINE * times), 'white')
    image.paste(Image.fromarray(blend(picture, mask, classes)), (0, 0))
    draw = ImageDraw.Draw(image)
    for place, (class_id, text) in enumerate(zip(ids or [0], texts)):
        left = place % entries_per_line * entry_width + GAP * times
        top = height + place // entries_per_line * LINE * times
        box_top = top + (LINE - BOX) // 2 * times
        colour = tuple(classes.colour_map[class_id].tolist())
        draw.rectangle((left, box_top, left + BOX * times, box_top + BOX * times), colour)
        middle = top + LINE * times // 2
        draw.text((left + (BOX + GAP) * times, middle), text, 'black', font, anchor='lm')
    return image


def _enlargement(picture: np.ndarray) -> int:
    """The factor on the sizes of lines and texts, which hold at LONG_SIDE; at least 1."""
    return max(1, round(max(picture.shape[:2]) / LONG_SIDE))
