"""tool/method/crf.py: a stand-in for absent labels gives what all labels give, for any picture."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tool.method.crf import (
    AFFINITY_CRF,
    DEEPLAB_CRF,
    SEED_CRF,
    crf_from_labels,
    dense_crf,
    prob_unary,
    refine_mask,
    stand_in_unary,
)

SIDES = st.integers(1, 12)
SEEDS = st.integers(0, 2**32 - 1)
KINDS = st.sampled_from(['noise', 'areas', 'one colour'])
PRESETS = st.sampled_from([SEED_CRF, AFFINITY_CRF, DEEPLAB_CRF])
# What ten steps make of the rounding of float32 in pictures of this size: at most 1e-5 was seen.
TOLERANCE = 1e-4


def make_image(kind, height, width, rng):
    """A picture uint8 [H, W, 3]."""
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    if kind == 'areas':
        image = image // 64 * 64
    if kind == 'one colour':
        image[:] = image[0, 0]
    return image


@st.composite
def class_ids(draw):
    """(number of labels, those that may occur, ascending, the background among them)."""
    num_labels = draw(st.integers(2, 25))
    foreground = draw(st.sets(st.integers(1, num_labels - 1), max_size=5))
    return num_labels, sorted({0, *foreground})


@settings(max_examples=settings().max_examples // 2)
@given(
    height=SIDES,
    width=SIDES,
    kind=KINDS,
    seed=SEEDS,
    ids=class_ids(),
    preset=PRESETS,
    iterations=st.integers(0, 10),
    gt_prob=st.sampled_from([0.3, 0.5, 0.7, 0.95]),
)
def test_the_crf_of_a_mask_is_that_of_all_labels(
    height, width, kind, seed, ids, preset, iterations, gt_prob
):
    num_labels, present = ids
    rng = np.random.default_rng(seed)
    image = make_image(kind, height, width, rng)
    mask = rng.choice(present, (height, width)).astype(np.uint8)
    wrong = -np.log((1 - gt_prob) / (num_labels - 1))
    unary = np.full((num_labels, height, width), wrong, np.float32)
    np.put_along_axis(unary, mask[None].astype(np.int64), -np.log(gt_prob), 0)
    (expected,) = dense_crf(image, [unary], replace(preset, iterations=iterations))
    (probs,) = crf_from_labels(
        image, [mask], present, preset, iterations, gt_prob, num_labels=num_labels
    )
    np.testing.assert_allclose(probs, expected[present], atol=TOLERANCE)
    # no label of those that the stand-in stands for is more probable than the others
    absent = np.delete(expected, present, axis=0)
    if len(absent):
        assert np.ptp(absent, axis=0).max() < TOLERANCE


@given(height=SIDES, width=SIDES, kind=KINDS, seed=SEEDS, ids=class_ids())
def test_a_refined_mask_has_the_classes_that_may_occur(height, width, kind, seed, ids):
    num_labels, present = ids
    rng = np.random.default_rng(seed)
    image = make_image(kind, height, width, rng)
    mask = rng.choice(present, (height, width)).astype(np.uint8)
    refined = refine_mask(image, mask, present[1:], num_labels=num_labels)
    assert refined.shape == mask.shape and refined.dtype == np.uint8
    assert set(np.unique(refined)) <= set(present)


@settings(max_examples=settings().max_examples // 2)
@given(
    height=SIDES,
    width=SIDES,
    kind=KINDS,
    seed=SEEDS,
    ids=class_ids(),
    preset=PRESETS,
    share=st.sampled_from([0.1, 1e-2, 1e-4, 1e-5, 1e-6, 1e-9]),
)
def test_the_crf_of_probabilities_is_that_of_all_labels(
    height, width, kind, seed, ids, preset, share
):
    """The labels that cannot win share a part of the probability alike, also where that is
    tiny."""
    num_labels, present = ids
    rng = np.random.default_rng(seed)
    image = make_image(kind, height, width, rng)
    kept = np.isin(np.arange(num_labels), present)
    scores = np.exp(rng.normal(0, 3, (num_labels, height, width)))
    scores[~kept] = 0
    others = max(1, num_labels - len(present))
    probs = scores / scores.sum(0) * (1 - share)
    probs[~kept] = share / others
    probs = probs.astype(np.float32)
    (expected,) = dense_crf(image, [prob_unary(probs)], preset)
    absent = num_labels - len(present)
    unary = stand_in_unary(probs, kept)
    (found,) = dense_crf(image, [unary], preset, absent)
    np.testing.assert_allclose(found[: len(present)], expected[present], atol=TOLERANCE)
    if absent:
        of_all = np.exp(-prob_unary(probs[~kept])).sum(0)
        np.testing.assert_allclose(np.exp(-unary[-1]), of_all, rtol=1e-5)
