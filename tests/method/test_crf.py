"""tool/method/crf.py against the published implementation's numbers, and the stand-in label against
all 21."""

import functools
from pathlib import Path

import numpy as np
import pytest

from tool.method import crf, plain
from tool.method.crf import AFFINITY_CRF, SEED_CRF, TEST_CRFS, CrfPreset, dense_crf, prob_unary

GOLDEN = np.load(Path(__file__).parents[1] / 'golden/crf.npz')
crf_from_labels = functools.partial(crf.crf_from_labels, num_labels=21)
affinity_maps = functools.partial(crf.affinity_maps, num_labels=21)
IMAGE, CAM = GOLDEN['image'], {4: GOLDEN['cam_4'], 11: GOLDEN['cam_11']}


def labels_at(background):
    """Argmax of [background, CAMs] as label ids 0, 5, 12."""
    scores = np.stack([np.broadcast_to(background, CAM[4].shape), CAM[4], CAM[11]])
    return np.array([0, 5, 12], np.uint8)[scores.argmax(0)]


def all_labels(label, preset, gt_prob=0.7):
    """The plain formulation: one row for each of the 21 labels."""
    unary = np.full((21, *label.shape), -np.log((1 - gt_prob) / 20), np.float32)
    for class_id in range(21):
        unary[class_id][label == class_id] = -np.log(gt_prob)
    return dense_crf(IMAGE, [unary], preset)[0]


def test_seed_crf_is_the_published_one():
    (probs,) = crf_from_labels(IMAGE, [labels_at(0.26)], [0, 5, 12], SEED_CRF)
    wrong = np.array([0, 5, 12])[probs.argmax(0)] != GOLDEN['infer_crf']
    assert wrong.sum() == 0
    assert set(np.unique(GOLDEN['infer_crf'])) == {0, 5, 12}  # so the equality says something


def test_affinity_crf_is_the_published_one():
    maps = affinity_maps(IMAGE, CAM, [4, 32])
    for alpha, found in zip((4, 32), maps):
        assert list(found) == [0, 5, 12]
        np.testing.assert_allclose(
            np.stack(list(found.values())), GOLDEN[f'prepare_alpha{alpha}'], rtol=1e-4, atol=1e-5
        )
    assert not np.allclose(maps[0][0], maps[1][0], atol=0.1)


@pytest.mark.parametrize('alpha', [4, 32])
def test_largest_probability_of_an_absent_label(alpha):
    label = labels_at((1 - np.maximum(CAM[4], CAM[11])) ** np.float32(alpha))
    (probs,) = crf_from_labels(IMAGE, [label], [0, 5, 12], AFFINITY_CRF)
    absent = (1 - probs.sum(0)) / 18  # the stand-in's share, over its 18 labels
    assert absent.max() == pytest.approx(float(GOLDEN[f'prepare_alpha{alpha}_absent']), abs=1e-5)


@pytest.mark.parametrize('preset', [SEED_CRF, AFFINITY_CRF, CrfPreset(iterations=3)])
def test_stand_in_equals_all_21_labels(preset):
    label = labels_at(0.3)
    expected = all_labels(label, preset)
    (fast,) = crf_from_labels(IMAGE, [label], [0, 5, 12], preset)
    np.testing.assert_allclose(fast, expected[[0, 5, 12]], rtol=1e-4, atol=1e-5)
    assert (
        np.ptp(expected[[c for c in range(21) if c not in (0, 5, 12)]], axis=0).max() < 1e-6
    )  # identical by symmetry


def test_all_21_classes_present_need_no_stand_in():
    label = labels_at(0.3)
    (probs,) = crf_from_labels(IMAGE, [label], list(range(21)), SEED_CRF)
    np.testing.assert_allclose(probs, all_labels(label, SEED_CRF), atol=1e-6)


def test_deeplab_crf_of_ten_iterations():
    preset = CrfPreset(
        3, 3, bilateral_sxy=32, bilateral_srgb=13, bilateral_compat=10, iterations=10
    )
    assert TEST_CRFS['seam'] == preset
    (probs,) = dense_crf(IMAGE, [prob_unary(GOLDEN['deeplab_prob'])], preset)
    assert (probs.argmax(0) != GOLDEN['deeplab_crf_10']).sum() == 0
    assert (GOLDEN['deeplab_prob'].argmax(0) != GOLDEN['deeplab_crf_10']).any()


def test_several_unaries_equal_one_at_a_time():
    labels = [labels_at(background) for background in (0.1, 0.3, 0.5)]
    together = crf_from_labels(IMAGE, labels, [0, 5, 12], SEED_CRF, iterations=2)
    for label, probs in zip(labels, together):
        np.testing.assert_array_equal(
            probs, crf_from_labels(IMAGE, [label], [0, 5, 12], SEED_CRF, iterations=2)[0]
        )


def test_no_iterations_give_the_unary_back():
    label = labels_at(0.3)
    (probs,) = crf_from_labels(IMAGE, [label], [0, 5, 12], SEED_CRF, iterations=0, gt_prob=0.6)
    assert probs[0][label == 0] == pytest.approx(0.6, abs=1e-6)
    assert probs[0][label == 5] == pytest.approx(0.4 / 20, abs=1e-6)
    p = np.random.default_rng(0).dirichlet(np.ones(4), (5, 6)).transpose(2, 0, 1).astype(np.float32)
    (back,) = dense_crf(IMAGE[:5, :6], [prob_unary(p)], CrfPreset(iterations=0))
    np.testing.assert_allclose(back, np.maximum(p, 1e-5) / np.maximum(p, 1e-5).sum(0), rtol=1e-5)


def test_picture_of_background_only():
    maps = affinity_maps(IMAGE, {}, [4, 32])
    assert [list(found) for found in maps] == [[0], [0]]
    assert (maps[0][0] > 0.7).all() and (maps[0][0] == maps[1][0]).all()


def test_softmax_unary_of_present_classes():
    (found,) = affinity_maps(IMAGE, CAM, [8], kind='probs')
    total = sum(found.values())
    np.testing.assert_allclose(total, 1, atol=1e-5)  # K + 1 labels, no others
    scores = np.stack([(1 - np.maximum(CAM[4], CAM[11])) ** 8, CAM[4], CAM[11]])
    (expected,) = dense_crf(IMAGE, [prob_unary(scores)], AFFINITY_CRF)
    np.testing.assert_allclose(np.stack(list(found.values())), expected, atol=1e-6)


def test_all_alphas_at_once_equal_one_at_a_time():
    for kind in ('labels', 'probs'):
        for alpha, maps in zip((2, 24), affinity_maps(IMAGE, CAM, [2, 24], kind)):
            (alone,) = affinity_maps(IMAGE, CAM, [alpha], kind)
            for label in (0, 5, 12):
                np.testing.assert_array_equal(maps[label], alone[label])


def test_affinity_maps_equal_those_of_all_21_labels():
    maps = affinity_maps(IMAGE, CAM, [1, 16])
    for found, expected in zip(maps, plain.affinity_maps(IMAGE, CAM, [1, 16], 21)):
        np.testing.assert_allclose(
            np.stack(list(found.values())), expected[[0, 5, 12]], rtol=1e-4, atol=1e-5
        )
    assert maps[0][0].mean() > maps[1][0].mean()  # a larger α leaves less background


def test_affinity_maps_use_the_iterations():
    for kind in ('labels', 'probs'):
        one, ten = (
            affinity_maps(IMAGE, CAM, [4], kind, iterations)[0][0] for iterations in (1, None)
        )
        assert np.abs(one - ten).max() > 1e-2


@pytest.mark.parametrize('kind', ['labels', 'probs'])
def test_scores_above_one_do_not_become_background(kind):
    (found,) = affinity_maps(IMAGE, {3: np.full_like(CAM[4], 1.5)}, [2.5], kind)
    assert found[4].min() > 0.9 and np.isfinite(found[0]).all()


@pytest.mark.parametrize('kind', ['labels', 'probs'])
@pytest.mark.filterwarnings('error')
def test_scores_far_below_zero_are_background(kind):
    (found,) = affinity_maps(IMAGE, {3: np.full_like(CAM[4], -99)}, [32], kind)
    assert found[0].min() > 0.9 and np.isfinite(found[4]).all()
