"""Masks of nothing but background and ignored pixels are no ground truth."""

import numpy as np
import pytest

from tool.files.pictures import write_mask
from tool.files.shown_classes import need_a_class
from tool.run.errors import UserError
from voc12.classes import VOC


def masks(folder, *values):
    """Paths of masks; each has the value in one pixel, and 0 and 255 in the others."""
    paths = []
    for index, value in enumerate(values):
        paths.append(str(folder / f'{index}.png'))
        write_mask(paths[-1], np.array([[0, 255], [0, value]], np.uint8))
    return paths


@pytest.mark.parametrize('values', [(0, 0, 0), (255, 255), (0, 255)])
def test_masks_without_any_class_are_refused(tmp_path, values):
    with pytest.raises(UserError, match=f'^--gt_dir x: none of the {len(values)} masks shows a'):
        need_a_class(masks(tmp_path, *values), VOC, '--gt_dir x')


def test_one_class_in_one_mask_is_enough(tmp_path):
    need_a_class(masks(tmp_path, 0, 0, 20), VOC, '--gt_dir x')


def test_a_single_picture_may_be_background(tmp_path):
    need_a_class(masks(tmp_path, 0), VOC, '--gt_dir x')
    need_a_class([], VOC, '--gt_dir x')


def test_reading_ends_at_the_first_class(tmp_path):
    need_a_class([*masks(tmp_path, 0, 1), str(tmp_path / 'missing.png')], VOC, '--gt_dir x')
