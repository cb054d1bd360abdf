"""tool/files/overlays.py: heat maps, and pictures with their masks over them."""

import cv2
import numpy as np

from tool.files.overlays import BOX, GAP, LINE, LONG_SIDE, blend, heat_map, legend_ids, overlay
from tool.method.class_set import IGNORE, ClassSet
from voc12.classes import PALETTE, VOC


def test_heat_map_runs_from_blue_to_red():
    colours = heat_map(
        np.zeros((1, 2, 3), np.uint8), {3: np.array([[0.0, 1.0]]), 7: np.array([[-1.0, 0.2]])}
    )[0]
    assert colours[0, 2] > 60 and colours[0, 0] == 0 and colours[1, 0] > 60 and colours[1, 2] == 0
    grey = heat_map(np.full((1, 1, 3), 200, np.uint8), {})[0, 0]
    assert grey[0] == 100 and grey[2] > 160  # no class at all is blue


def test_objects_are_half_transparent_with_a_white_outline():
    picture = np.full((12, 16, 3), 100, np.uint8)
    mask = np.zeros((12, 16), np.uint8)
    mask[2:9, 3:10] = 8  # cat: (64, 0, 0)
    mask[:, 15] = IGNORE
    shown = blend(picture, mask, VOC)
    assert (shown[mask == 0] == 100).all() and (shown[mask == IGNORE] == 100).all()
    assert (shown[3:8, 4:9] == [82, 50, 50]).all()
    outline = np.ones((7, 7), bool)
    outline[1:-1, 1:-1] = False
    assert (shown[2:9, 3:10][outline] == 255).all()


def test_two_objects_that_touch_are_told_apart():
    mask = np.full((5, 8), 1, np.uint8)
    mask[:, 4:] = 2
    shown = blend(np.zeros((5, 8, 3), np.uint8), mask, VOC)
    is_white = (shown == 255).all(2)
    assert is_white[:, 3:5].all() and not is_white[:, :3].any() and not is_white[:, 5:].any()


def test_the_legend_names_the_classes_that_occur():
    picture = np.zeros((40, 300, 3), np.uint8)
    mask = np.zeros((40, 300), np.uint8)
    mask[5:20, 10:100] = 12
    mask[5:20, 150:250] = 3
    mask[30:, :] = IGNORE
    image = overlay(picture, mask, VOC)
    assert image.size == (300, 40 + LINE)
    legend = np.asarray(image)[40:]
    middle = LINE // 2
    assert (legend[middle, GAP + 1] == PALETTE[3]).all()
    colours = {tuple(colour) for colour in legend[middle].tolist()}
    assert tuple(PALETTE[12].tolist()) in colours and tuple(PALETTE[0].tolist()) in colours
    assert (legend[middle, GAP + BOX + 2 : GAP + BOX + GAP] == 255).all()
    assert legend_ids({0, 12, IGNORE, 3}) == [0, 3, 12]


def test_a_narrow_picture_makes_room_for_the_longest_name_and_a_large_one_gets_large_text():
    mask = np.ones((30, 10), np.uint8)
    image = overlay(np.zeros((30, 10, 3), np.uint8), mask, ClassSet.of(['a rather long name']))
    assert image.width > 100 and image.height == 30 + LINE
    assert (np.asarray(image)[:30, 10:] == 255).all()

    side = 3 * LONG_SIDE
    large = overlay(np.zeros((side, 200, 3), np.uint8), np.ones((side, 200), np.uint8), VOC)
    assert large.height == side + 3 * LINE
    nothing = overlay(np.zeros((30, 300, 3), np.uint8), np.zeros((30, 300), np.uint8), VOC)
    assert nothing.size == (300, 30 + LINE)


def test_many_classes_take_several_lines():
    mask = np.repeat(np.arange(1, 21, dtype=np.uint8), 10)[None].repeat(30, 0)
    image = overlay(np.zeros((30, 200, 3), np.uint8), mask, VOC)
    lines = (image.height - 30) / LINE
    assert image.width == 200 and lines == int(lines) and lines >= 10


def test_every_worker_that_makes_overlays_works_in_one_thread():
    assert cv2.getNumThreads() == 1
