"""tool/files/annotations/objects.py: connected components and their outlines."""

import numpy as np
from pycocotools import mask as coco
from scipy.ndimage import binary_fill_holes, gaussian_filter

from tool.files.annotations.objects import MaskObject, centre_outline, edge_outline, objects_of


def test_the_objects_are_the_mask(mask, exported):
    drawn = np.zeros_like(mask)
    for item in objects_of(mask):
        full = item.full(mask.shape)
        assert not drawn[full].any()  # no pixel is in two objects
        assert full.sum() == item.area
        drawn[full] = item.class_id
    assert np.array_equal(drawn, exported(mask))


def test_an_object_has_class_box_and_area(case):
    objects = objects_of(case('two_of_a_class'))
    found = [(item.class_id, item.box, item.area) for item in objects]
    # the squares that touch at a corner are one object
    assert found == [(1, (2, 2, 7, 7), 16 + 9), (1, (20, 2, 4, 4), 16)]


def test_an_object_in_a_hole_comes_after_the_one_around_it(case):
    objects = objects_of(case('holes'))
    assert [item.class_id for item in objects] == [3, 1, 2, 1]
    ring, inside = objects[:2]
    assert ring.area < inside.area


def test_background_and_ignored_pixels_are_no_objects(case):
    assert objects_of(case('empty')) == []
    assert objects_of(np.full((4, 5), 255, np.uint8)) == []
    assert [item.class_id for item in objects_of(case('ignored'))] == [3, 1]


def rectangle(left, top, width, height):
    return MaskObject(1, (left, top, width, height), np.ones((height, width), bool))


def test_the_outline_of_a_pixel():
    pixel = rectangle(7, 3, 1, 1)
    assert sorted(edge_outline(pixel).tolist()) == [[7, 3], [7, 4], [8, 3], [8, 4]]
    assert centre_outline(pixel).tolist() == [[7, 3]]


def test_an_outline_has_corners_only():
    item = rectangle(2, 5, 10, 4)
    assert sorted(edge_outline(item).tolist()) == [[2, 5], [2, 9], [12, 5], [12, 9]]
    assert sorted(centre_outline(item).tolist()) == [[2, 5], [2, 8], [11, 5], [11, 8]]


def test_outlines_along_the_edges_lose_nothing_but_holes():
    """Objects of many shapes, drawn by pycocotools."""
    generator = np.random.default_rng(1)
    count = 0
    for sigma in (0, 0.6, 1, 3):
        values = generator.normal(size=(50, 60))
        smooth = gaussian_filter(values, sigma)
        mask = (smooth > np.quantile(smooth, 0.6)).astype(np.uint8)
        for item in objects_of(mask):
            points = edge_outline(item).ravel().tolist()
            drawn = coco.decode(coco.frPyObjects([points], *mask.shape))[..., 0]
            assert np.array_equal(drawn, binary_fill_holes(item.full(mask.shape)))
            count += 1
    assert count > 100
