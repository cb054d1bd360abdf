"""tool.crf.affinity_maps: golden numbers, the 21-label oracle, and what the presets and unaries promise."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recipe import uniform
from tool.crf import AFFINITY_CRF, affinity_maps, dense_crf

GOLDEN = Path(__file__).parent / 'golden'


@pytest.fixture(scope='module')
def golden():
    return dict(np.load(GOLDEN / 'crf.npz'))


@pytest.fixture
def small():
    """A picture 20 × 24 and CAMs of classes 2 and 7."""
    image = (uniform('image', 20, 24, 3).numpy() * 255).astype(np.uint8)
    return image, {7: uniform('cam 7', 20, 24).numpy(), 2: uniform('cam 2', 20, 24).numpy()}


def test_maps_agree_with_the_published_code(golden):
    cam = {4: golden['cam_4'], 11: golden['cam_11']}
    for alpha, maps in zip((4, 32), affinity_maps(golden['image'], cam, [4, 32])):
        assert list(maps) == [0, 5, 12]
        np.testing.assert_allclose(np.stack(list(maps.values())), golden[f'prepare_alpha{alpha}'], atol=1e-5)


def all_labels(image, cam, alpha):
    """The plain formulation: all 21 labels, the kernels built for this α alone."""
    seeds = np.zeros((21, *image.shape[:2]), np.float32)
    for class_id, values in cam.items():
        seeds[class_id + 1] = values
    seeds[0] = (1 - seeds[1:].max(0)) ** alpha
    label = seeds.argmax(0)
    unary = np.where(np.arange(21)[:, None, None] == label, -np.log(0.7), -np.log(0.3 / 20)).astype(np.float32)
    return dense_crf(image, [unary], AFFINITY_CRF)[0]


def test_present_classes_and_a_stand_in_equal_all_21_labels(small):
    image, cam = small
    for alpha, maps in zip((1, 16), affinity_maps(image, cam, [1, 16])):
        oracle = all_labels(image, cam, alpha)
        assert list(maps) == [0, 3, 8]
        np.testing.assert_allclose(np.stack(list(maps.values())), oracle[[0, 3, 8]], atol=1e-5)


def test_several_alphas_equal_one_at_a_time(small):
    image, cam = small
    for kind in ('labels', 'probs'):
        together = affinity_maps(image, cam, [2, 8, 24], kind)
        for alpha, maps in zip([2, 8, 24], together):
            alone, = affinity_maps(image, cam, [alpha], kind)
            for label in alone:
                np.testing.assert_array_equal(maps[label], alone[label])


def test_a_larger_alpha_leaves_less_background(small):
    image, cam = small
    means = [maps[0].mean() for maps in affinity_maps(image, cam, [0.5, 2, 8])]
    assert means[0] > means[1] > means[2]


def test_probs_unary_has_background_and_present_classes_only(small):
    image, cam = small
    maps, = affinity_maps(image, cam, [4], 'probs')
    np.testing.assert_allclose(sum(maps.values()), 1, atol=1e-5)
    scores = np.stack([(1 - np.maximum(cam[2], cam[7])) ** 4, cam[2], cam[7]])
    oracle, = dense_crf(image, [-np.log(np.clip(scores, 1e-5, 1)).astype(np.float32)], AFFINITY_CRF)
    np.testing.assert_allclose(np.stack([maps[0], maps[3], maps[8]]), oracle, atol=1e-5)


def test_iterations_are_used(small):
    image, cam = small
    for kind in ('labels', 'probs'):
        one, = affinity_maps(image, cam, [4], kind, 1)
        ten, = affinity_maps(image, cam, [4], kind)
        assert np.abs(one[0] - ten[0]).max() > 1e-3
    assert replace(AFFINITY_CRF, iterations=1).iterations == 1 and AFFINITY_CRF.iterations == 10


def test_a_picture_without_classes_is_background(small):
    maps, = affinity_maps(small[0], {}, [4])
    assert list(maps) == [0] and maps[0].min() > 0.9


def test_scores_above_one_do_not_become_background(small):
    image, cam = small
    for kind in ('labels', 'probs'):
        maps, = affinity_maps(image, {3: np.full_like(cam[2], 1.5)}, [2.5], kind)
        assert np.isfinite(maps[0]).all() and maps[4].min() > 0.9
