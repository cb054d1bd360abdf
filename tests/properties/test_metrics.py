"""tool/method/metrics.py and eval.py: the threshold curve is sixty evaluations, for any CAMs."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

import eval as evaluation
from tool.files.npy import write_npy
from tool.files.pictures import write_mask
from tool.method import metrics, plain
from tool.method.class_set import IGNORE, ClassSet

# Scores at which a comparison could go wrong: the thresholds, and the numbers beside them.
AT_THRESHOLDS = metrics.THRESHOLDS.astype(np.float32)
ABOVE = np.nextafter(AT_THRESHOLDS, np.float32(2))
BELOW = np.nextafter(AT_THRESHOLDS, np.float32(-1))
SPECIAL = np.concatenate([AT_THRESHOLDS, ABOVE, BELOW, np.float32([-0.0, -1, 0.6, 1, 1.5])])
SCORES = st.sampled_from(SPECIAL.tolist()) | st.floats(-1, 2, width=32)


@st.composite
def pictures(draw, num_classes):
    """(CAMs of any foreground classes, ground truth) of one small picture."""
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    keys = draw(st.lists(st.integers(0, num_classes - 2), max_size=4, unique=True))
    cam = {key: draw(st_numpy.arrays(np.float32, shape, elements=SCORES)) for key in keys}
    ids = st.sampled_from([*range(num_classes), IGNORE])
    return cam, draw(st_numpy.arrays(np.uint8, shape, elements=ids))


@st.composite
def data_sets(draw):
    """(number of classes with the background, a few pictures)."""
    num_classes = draw(st.integers(2, 22))
    return num_classes, draw(st.lists(pictures(num_classes), min_size=1, max_size=3))


@given(data=data_sets())
def test_the_curve_is_what_sixty_evaluations_give(data):
    num_classes, some_pictures = data
    histogram = sum(
        metrics.curve_histogram(cam, truth, num_classes) for cam, truth in some_pictures
    )
    curve = metrics.curve_confusions(histogram)
    assert len(curve) == len(metrics.THRESHOLDS) == 60
    for threshold, found in zip(metrics.THRESHOLDS, curve):
        expected = np.zeros((num_classes, num_classes + 1), np.int64)
        for cam, truth in some_pictures:
            prediction = metrics.cam_prediction(cam, truth.shape, threshold)
            expected += metrics.confusion(prediction, truth, num_classes)
        np.testing.assert_array_equal(found, expected)


@given(data=data_sets(), index=st.integers(0, 59))
def test_a_point_of_the_curve_is_the_plain_miou(data, index):
    num_classes, some_pictures = data
    histogram = sum(
        metrics.curve_histogram(cam, truth, num_classes) for cam, truth in some_pictures
    )
    curve = metrics.iou(metrics.curve_confusions(histogram)).mean(1)
    expected = plain.miou(some_pictures, np.float32(metrics.THRESHOLDS[index]), num_classes)
    assert curve[index] == pytest.approx(expected, abs=1e-9)


@given(data=data_sets(), threshold=st.sampled_from(metrics.THRESHOLDS.tolist()))
def test_eval_scores_files_at_one_threshold_and_at_all_alike(tmp_path, data, threshold):
    num_classes, some_pictures = data
    classes = ClassSet.of([f'class {index}' for index in range(1, num_classes)])
    names = [f'{index}' for index in range(len(some_pictures))]
    for name, (cam, truth) in zip(names, some_pictures):
        # files of several scores below 0 are refused
        scores = {key: np.maximum(values, 0) for key, values in cam.items()}
        write_npy(str(tmp_path / 'cam' / f'{name}.npy'), scores)
        write_mask(str(tmp_path / 'truth' / f'{name}.png'), truth)

    def counts(background_score, curve):
        inputs = evaluation.Inputs(
            str(tmp_path / 'cam'), str(tmp_path / 'truth'), 'npy', background_score, curve, classes
        )
        return evaluation.count_all(inputs, names, jobs=0)

    index = metrics.THRESHOLDS.tolist().index(threshold)
    of_the_curve = metrics.curve_confusions(counts(None, True))[index]
    np.testing.assert_array_equal(of_the_curve, counts(threshold, False))


@given(
    data=st.integers(2, 22).flatmap(
        lambda num_classes: st.tuples(
            st.just(num_classes),
            st_numpy.arrays(
                np.uint8,
                st.tuples(st.just(2), st.integers(1, 40)),
                elements=st.sampled_from([*range(num_classes), IGNORE]),
            ),
        )
    )
)
@example(data=(2, np.full((2, 1), IGNORE, np.uint8)))
def test_the_confusion_matrix_holds_every_pixel_once(data):
    num_classes, (prediction, truth) = data
    matrix = metrics.confusion(prediction, truth, num_classes)
    assert matrix.sum() == (truth != IGNORE).sum()
    hits, predicted, true = plain.confusion_counts(prediction, truth, num_classes)
    np.testing.assert_array_equal(np.diagonal(matrix), hits)
    np.testing.assert_array_equal(matrix[:, :-1].sum(0), predicted)
    np.testing.assert_array_equal(matrix.sum(1), true)
