"""The hue shift of the colour jitter (docs/method.md §4), equal to torchvision's of PIL pictures.

torchvision lets Pillow convert the picture to HSV with 8 bits a channel, adds to the hue modulo
256, and lets Pillow convert it back. Three channels of 8 bits have few combinations in which either
conversion depends on more than two numbers, so most of it is a look-up here:

    v = max(r, g, b)        c = v − min(r, g, b)        p = (v − middle channel) / c
    s = ⌊255 c / v⌋         h = ⌊255 (k ± p) / 6⌋, where the order of the channels decides k and ±

and back, with the hue h' = h + shift (mod 256), its sector i = ⌊6 h' / 255⌋ and f = 6 h' / 255 − i:

    greatest = v    least = v (1 − s/255)    middle = v (1 − s/255 · f) or v (1 − s/255 · (1 − f))

Where a result lies on a boundary, rounding decides. So the tables are made, and the middle channel
is computed, in float32 and float64 just where Pillow uses them.
"""

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image

from tool.method.jit import compiled

LEVELS = 256  # values of a channel

# For every order of the channels of a pixel, as `_shift` numbers them: 6 h = k + sign · p
K = (1, -1, 3, 1, 5, 3)
SIGN = (-1, 1, -1, 1, -1, 1)
# For every sector of the hue: the channel that is the greatest, the least, and in the middle.
CHANNELS = ((0, 2, 1), (1, 2, 0), (1, 0, 2), (2, 0, 1), (2, 1, 0), (0, 1, 2))


class _Tables(NamedTuple):
    """The tables that the conversions look up.

    Attributes:
        hues: h, uint8 [order of the channels, c, v − middle channel].
        saturations: s/255, float32 [v, c].
        least: the least channel on the way back, uint8 [v, c].
        channels: CHANNELS as an array.
        sectors: i of every h', int64 [256].
        fractions: f of every h', float32 [256].
    """

    hues: np.ndarray
    saturations: np.ndarray
    least: np.ndarray
    channels: np.ndarray
    sectors: np.ndarray
    fractions: np.ndarray


@functools.cache
def _tables() -> _Tables:
    """The tables, made once in a process."""
    levels = np.arange(LEVELS)
    with np.errstate(divide='ignore', invalid='ignore'):  # where c or v is 0 all is 0
        p = levels.astype(np.float32) / levels.astype(np.float32)[:, None]  # [c, v − middle]
        share = levels.astype(np.float32) / levels.astype(np.float32)[:, None]  # c / v, [v, c]
    p[0] = 0
    share[0] = 0

    hues = np.zeros((len(K), LEVELS, LEVELS), np.uint8)
    for order, (k, sign) in enumerate(zip(K, SIGN)):
        sixths = (k + sign * p.astype(np.float64)).astype(np.float32)
        turns = np.fmod(sixths.astype(np.float64) / 6 + 1, 1).astype(np.float32)
        hue = (turns.astype(np.float64) * 255).astype(np.int64)
        hues[order] = np.where(levels[:, None] > 0, hue, 0)

    # a chroma c above v does not occur
    saturation = np.minimum((share.astype(np.float64) * 255).astype(np.int64), 255)
    saturations = (saturation / 255).astype(np.float32)
    least = _rounded(levels[:, None] * (1 - saturations.astype(np.float64)))

    six_turns = levels * 6.0 / 255
    sectors = np.floor(six_turns).astype(np.int64)
    fractions = (six_turns - sectors).astype(np.float32)
    channels = np.array(CHANNELS)
    return _Tables(hues, saturations, least, channels, sectors % len(CHANNELS), fractions)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Values in 0…255 as uint8, rounded to the nearest whole number, halves up."""
    return np.floor(values + 0.5).astype(np.uint8)


@compiled()
def _shift(pixels, shift, hues, saturations, least, channels, sectors, fractions, shifted):
    """Write the pixels uint8 [N, 3], with a shift 0…255 of their hue, into `shifted`."""
    for pixel in range(len(pixels)):
        r = np.int64(pixels[pixel, 0])
        g = np.int64(pixels[pixel, 1])
        b = np.int64(pixels[pixel, 2])
        v = max(r, g, b)
        lowest = min(r, g, b)
        c = v - lowest
        middle = r + g + b - v - lowest
        # of equal channels Pillow takes the first for the greatest; which is the least of equal
        # ones makes no difference
        if r == v:
            order = 0 if b == lowest else 1
        elif g == v:
            order = 3 if b == lowest else 2
        else:
            order = 5 if r == lowest else 4
        hue = (np.int64(hues[order, c, v - middle]) + shift) & 255
        sector = sectors[hue]
        fraction = fractions[hue]
        saturation = saturations[v, c]
        if sector % 2 == 1:
            loss = np.float64(saturation * fraction)
        else:
            loss = np.float64(saturation) * (1.0 - np.float64(fraction))
        shifted[pixel, channels[sector, 0]] = v
        shifted[pixel, channels[sector, 1]] = least[v, c]
        shifted[pixel, channels[sector, 2]] = np.uint8(v * (1.0 - loss) + 0.5)


def shift_hue(image: Image.Image, shift: float) -> Image.Image:
    """A PIL RGB picture with its hue shifted, equal to torchvision's `adjust_hue`.

    Args:
        image: the picture.
        shift: in turns of the colour circle, −½…½.
    """
    pixels = np.asarray(image)
    shifted = np.empty_like(pixels)
    levels = int(shift * 255) % LEVELS
    _shift(pixels.reshape(-1, 3), levels, *_tables(), shifted.reshape(-1, 3))
    return Image.fromarray(shifted)
