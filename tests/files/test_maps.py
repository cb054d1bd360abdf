"""tool/files/maps.py: maps of CAMs and CRFs, in both layouts, and what is none."""

import re

import numpy as np
import pytest
import torch

from tool.files.maps import maps_size, read_cam, read_maps
from tool.files.npy import write_npy
from tool.method.maps import scale_scores
from tool.run.errors import UserError
from voc12.classes import VOC


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'file.npy')


def test_array_layout_is_read_as_a_dict(path):
    maps = np.random.default_rng(0).random((21, 6, 9), np.float32)
    write_npy(path, maps)
    assert maps_size(path, VOC) == ((6, 9), 'array')
    read = read_maps(path, VOC, (6, 9))
    assert list(read) == list(range(21)) and all((read[i] == maps[i]).all() for i in range(21))


def test_size_of_no_maps(path):
    write_npy(path, {})
    assert maps_size(path, VOC) == (None, 'dict')
    assert read_cam(path, VOC, (5, 5)) == {}


@pytest.mark.parametrize(
    'value, message',
    [
        ({21: np.zeros((2, 2))}, 'entry 21'),
        ({-1: np.zeros((2, 2))}, 'entry -1'),
        ({'cat': np.zeros((2, 2))}, "entry 'cat'"),
        ({1: np.zeros(4)}, r'shape \(4,\)'),
        ({1: np.zeros((2, 2)), 2: np.zeros((2, 3))}, 'different sizes'),
        (np.zeros((20, 4, 4)), r'shape \(20, 4, 4\)'),
        ({1: np.zeros((4, 3))}, 'maps are 3x4, the picture is 5x6'),
    ],
)
def test_bad_maps(path, value, message):
    write_npy(path, value)
    with pytest.raises(UserError, match=message):
        read_maps(path, VOC, (6, 5))


def test_a_cam_has_no_class_20(path):
    write_npy(path, {20: np.zeros((2, 2), np.float32)})
    assert list(read_maps(path, VOC)) == [20]
    with pytest.raises(UserError, match='has class 20'):
        read_cam(path, VOC)


@pytest.mark.parametrize(
    'value, message',
    [
        (np.nan, 'the map of class 4 holds values that are not finite'),
        (np.inf, 'the map of class 4 holds values that are not finite'),
        (-np.inf, 'the map of class 4 holds values that are not finite'),
        (255, 'the map of class 4 goes up to 255; scores are in 0…1'),
    ],
)
def test_one_pixel_that_is_no_score_is_refused(path, value, message):
    maps = {2: np.ones((3, 4), np.float32), 4: np.zeros((3, 4), np.float32)}
    maps[4][1, 2] = value
    write_npy(path, maps)
    with pytest.raises(UserError, match=message):
        read_cam(path, VOC)


@pytest.mark.parametrize('values', [(-4.5, -4.4), (-0.002, -0.003), (-1, -np.float32(1.0001))])
def test_several_values_below_0_are_no_scores(path, values):
    class_map = np.zeros((3, 4), np.float32)
    class_map[1, 1:3] = values
    write_npy(path, {4: class_map})
    lowest = re.escape(f'{min(values):g}')
    with pytest.raises(UserError, match=f'class 4 has several values below 0, down to {lowest};'):
        read_cam(path, VOC)


@pytest.mark.parametrize(
    'scores', [[[0.0, 0.0]], [[0.5, 0.5], [0.5, 0.5001]], [[0.9, 0.9, 1.0]], [[-1.0, 0.2]]]
)
def test_the_floor_of_seams_scaling_is_read_as_it_is(path, scores):
    scaled = scale_scores(torch.tensor(scores)).numpy()
    write_npy(path, {4: scaled})
    assert scaled.min() < 0 and (read_cam(path, VOC)[4] == scaled).all()


@pytest.mark.parametrize('value', [1.05, -1e-4])  # rounding, or another way of scaling
def test_values_a_little_outside_0_to_1_are_read_as_they_are(path, value):
    write_npy(path, {4: np.full((3, 4), value, np.float32)})
    assert (read_cam(path, VOC)[4] == np.float32(value)).all()
