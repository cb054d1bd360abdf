"""The label map of IRN's boundary head, against golden numbers and by hand."""

import numpy as np

from mini import GOLDEN
from tool.method.boundary_label import boundary_label


def test_label_map_is_the_published_one():
    golden = np.load(GOLDEN / 'irn.npz')
    crf = np.load(GOLDEN / 'crf.npz')
    label = boundary_label(crf['image'], {4: crf['cam_4'], 11: crf['cam_11']})
    np.testing.assert_array_equal(label, golden['ir_label'])
    assert label.dtype == np.uint8


def test_regions_between_the_two_scores_are_unsure():
    image = np.zeros((30, 90, 3), np.uint8)
    image[:, 30:60] = 120
    image[:, 60:] = 240
    cam = np.full((30, 90), 0.01, np.float32)
    cam[:, 30:60] = 0.15
    cam[:, 60:] = 0.9
    label = boundary_label(image, {6: cam})
    assert (label[:, :28] == 0).all()
    assert (label[:, 32:58] == 255).all()
    assert (label[:, 62:] == 7).all()
    sure = boundary_label(image, {6: cam}, fg_score=0.1)
    assert (sure[:, 32:58] == 7).all()


def test_a_picture_without_a_class_is_background():
    image = np.zeros((8, 9, 3), np.uint8)
    assert boundary_label(image, {}).tolist() == np.zeros((8, 9)).tolist()
