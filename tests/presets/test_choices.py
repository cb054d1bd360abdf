"""tool/presets/choices.py: what scores choose, by ground truth and by image labels."""

import pytest

from tool.presets.choices import Scored, best_masks, best_threshold, describe_choices
from tool.presets.stages import Stage


def scored(name, scores, masks='', decides=True, row=''):
    return Scored(Stage(name, script='x', masks=masks, decides=decides, row=row or name), scores)


CURVE = {'mIoU': 60.0, 't': 0.3, 'curve_t': [0.2, 0.3, 0.4], 'curve_mIoU': [50.0, 60.0, 58.5]}
HISTOGRAM = {'histogram': [5, 1], 't': 0.41, 'curve_t': [0.3, 0.41]}


@pytest.fixture
def both():
    """Seeds and walk, each scored without ground truth, which decides, and against it."""
    return [
        scored('threshold', HISTOGRAM, row='seeds'),
        scored('score_seeds', CURVE, '/work/seed', decides=False, row='seeds'),
        scored('agree_seeds', {'agreement': 80.0}, '/work/seed', row='seeds'),
        scored('agree_walk', {'agreement': 85.0}, '/work/walk', row='walk'),
        scored('score_walk', {'mIoU': 59.0}, '/work/walk', decides=False, row='walk'),
        scored('score_deeplab', {'mIoU': 99.0}, row='DeepLab'),
    ]


def test_best_threshold_is_that_of_the_last_curve(both):
    assert best_threshold(both[:1]) == 0.41
    assert best_threshold(both[:2]) == 0.3
    assert best_threshold(both[2:]) is None


def test_best_masks(both):
    by_agreement = [item for item in both if item.measure == 'agreement']
    assert best_masks(by_agreement).stage.masks == '/work/walk'
    by_truth = [item for item in both if item.measure == 'mIoU']
    assert best_masks(by_truth).stage.masks == '/work/seed'
    assert best_masks(both[:1]) is None
    equal = [scored('a', {'mIoU': 5}, '/a'), scored('b', {'mIoU': 5}, '/b')]
    assert best_masks(equal).stage.masks == '/b'


def test_sentences_of_choices_by_labels_name_the_loss(both):
    threshold, masks = describe_choices(both)
    assert threshold == (
        'background score 0.41: from the histogram of the CAMs, without ground truth (--choose '
        'labels); ground truth would choose 0.30, 1.5 mIoU better'
    )
    assert masks == (
        'masks walk (walk): highest agreement with their CRF, without ground truth (--choose '
        'labels); ground truth would choose seed, 1.0 mIoU better'
    )


def test_sentences_without_ground_truth(both):
    threshold, masks = describe_choices([both[0], both[2], both[3]])
    assert threshold == (
        'background score 0.41: from the histogram of the CAMs, without ground truth (--choose '
        'labels)'
    )
    assert masks.startswith('masks walk (walk): highest agreement') and 'truth would' not in masks


def test_sentences_of_choices_by_ground_truth():
    by_masks = [
        scored('score_seeds', CURVE, '/work/seed', row='seeds'),
        scored('score_walk', {'mIoU': 61.0}, '/work/walk', row='walk'),
    ]
    assert describe_choices(by_masks) == [
        'background score 0.30: highest mIoU against ground truth (--choose masks)',
        'masks walk (walk): highest mIoU against ground truth (--choose masks)',
    ]
    assert describe_choices([scored('score_deeplab', {'mIoU': 5.0})]) == []
