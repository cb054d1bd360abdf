"""Confusion matrices, IoU and the one-pass threshold curve."""

import numpy as np
import pytest

from tool.method import metrics, plain
from voc12.classes import CLASSES


def random_case(seed, classes=(2, 7), shape=(13, 17)):
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 3, 8, 255], shape).astype(np.uint8)
    # scores that hit thresholds exactly, and ties between classes
    return {
        c: rng.integers(0, 80, shape).astype(np.float32) / np.float32(100) for c in classes
    }, truth


def test_iou_by_hand():
    truth = np.array([[0, 0, 1, 1, 255]], np.uint8)
    prediction = np.array([[0, 1, 1, 255, 5]], np.uint8)
    matrix = metrics.confusion(prediction, truth, 21)
    assert (
        matrix[0, 0] == 1
        and matrix[0, 1] == 1
        and matrix[1, 1] == 1
        and matrix[1, 21] == 1
        and matrix.sum() == 4
    )
    values = metrics.iou(matrix)
    assert values[0] == pytest.approx(50) and values[1] == pytest.approx(
        100 / 3
    )  # a prediction of 255 is a miss
    assert values[2:].max() == 0
    assert metrics.scores(matrix, CLASSES)['mIoU'] == pytest.approx((50 + 100 / 3) / 21)


@pytest.mark.parametrize('classes', [(), (5,), (2, 7, 19)])
def test_curve_is_what_single_thresholds_give(classes):
    cam, truth = random_case(1, classes)
    matrices = metrics.curve_confusions(metrics.curve_histogram(cam, truth, 21))
    for threshold, matrix in zip(metrics.THRESHOLDS, matrices):
        prediction = metrics.cam_prediction(cam, truth.shape, threshold)
        np.testing.assert_array_equal(matrix, metrics.confusion(prediction, truth, 21))


def test_curve_equals_the_plain_evaluation():
    pictures, total = [random_case(seed) for seed in range(3)], 0
    for cam, truth in pictures:
        total = total + metrics.curve_histogram(cam, truth, 21)
    curve = metrics.iou(metrics.curve_confusions(total)).mean(1)
    for index in (0, 1, 26, 59):
        expected = plain.miou(pictures, metrics.THRESHOLDS[index], 21)
        assert curve[index] == pytest.approx(expected, abs=1e-9)


def test_prediction_is_the_argmax_with_ties_to_the_background():
    cam = {4: np.array([[0.26, 0.3, 0.3]], np.float32), 6: np.array([[0.1, 0.3, 0.5]], np.float32)}
    assert metrics.cam_prediction(cam, (1, 3), 0.26).tolist() == [[0, 5, 7]]


def test_counts_never_overflow():
    """Ten thousand pictures of 500×375 in one class are more pixels than 32 bits hold after a few
    sums."""
    matrix = (
        metrics.confusion(np.zeros((375, 500), np.uint8), np.zeros((375, 500), np.uint8), 21)
        * 10582
        * 10
    )
    assert matrix.dtype == np.int64 and matrix[0, 0] == 375 * 500 * 10582 * 10
    assert metrics.iou(matrix)[0] == 100


def test_agreement_of_classes_by_hand():
    """Four pictures and five classes: found twice of three times and once too often, found always,
    never predicted, never shown, neither."""
    known = np.array([[1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0]], bool)
    predicted = np.array([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]], bool)
    agreement = metrics.class_agreement(predicted, known)
    assert agreement.known.tolist() == [3, 2, 1, 0, 0]
    assert agreement.predicted.tolist() == [3, 2, 0, 1, 0]
    nan = np.nan
    np.testing.assert_allclose(agreement.precision, [200 / 3, 100, nan, 0, nan])
    np.testing.assert_allclose(agreement.recall, [200 / 3, 100, 0, nan, nan])
    assert agreement.macro_precision == pytest.approx((200 / 3 + 100) / 2)
    assert agreement.macro_recall == pytest.approx((200 / 3 + 100 + 0) / 3)
    assert agreement.micro_precision == pytest.approx(100 * 4 / 6)
    assert agreement.micro_recall == pytest.approx(100 * 4 / 6)
    lines = metrics.class_table(agreement, ['cat', 'dog', 'traffic light', 'cow', 'bus']).split(
        '\n'
    )
    assert [len(line) for line in lines[:6]] == [len(lines[0])] * 6
    assert lines[0].split() == ['class', 'known', 'predicted', 'precision', 'recall']
    assert lines[1].split() == ['cat', '3', '3', '66.67', '66.67']
    assert lines[3].split() == ['traffic', 'light', '1', '0', '-', '0.00']
    assert lines[4].split() == ['cow', '0', '1', '0.00', '-']
    assert lines[5].split() == ['bus', '0', '0', '-', '-']
    assert lines[6].split() == ['mean', 'of', 'classes', '(macro)', '83.33', '55.56']
    assert lines[7].split() == ['all', 'decisions', '(micro)', '6', '6', '66.67', '66.67']


def test_agreement_of_classes_that_are_never_predicted():
    known = np.array([[True, False]])
    agreement = metrics.class_agreement(np.zeros_like(known), known)
    assert np.isnan([agreement.macro_precision, agreement.micro_precision]).all()
    assert agreement.macro_recall == agreement.micro_recall == 0
