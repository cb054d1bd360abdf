"""Scores of saliency maps against ground truth."""

import numpy as np
import pytest

from tool.method.saliency_scores import SaliencyScore, mean_scores, saliency_score


def test_score_of_a_picture():
    saliency = np.array([[0, 51, 127], [128, 255, 255]], np.uint8)
    truth = np.array([[0, 0, 3], [3, 15, 255]], np.uint8)
    score = saliency_score(saliency, truth)
    assert (score.intersection, score.union) == (2, 3)
    assert score.error == pytest.approx((0 + 0.2 + 128 / 255 + 127 / 255 + 0) / 5)


def test_a_picture_of_pixels_to_ignore_counts_for_nothing():
    score = saliency_score(np.full((2, 2), 200, np.uint8), np.full((2, 2), 255, np.uint8))
    assert score == SaliencyScore(0, 0, 0.0)


def test_pixels_are_counted_over_all_pictures_and_errors_are_averaged():
    scores = [SaliencyScore(10, 20, 0.1), SaliencyScore(300, 400, 0.4)]
    iou, error = mean_scores(scores)
    assert iou == pytest.approx(310 / 420) and error == pytest.approx(0.25)
    assert mean_scores([SaliencyScore(0, 0, 0.0)]) == (0.0, 0.0)
