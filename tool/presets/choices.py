"""The choices that scores make: the background score of the seeds, and the masks for DeepLab.

A scoring stage measures the mIoU against ground truth (eval.py); or, without ground truth, the
histogram of the scores of CAMs (tool.cam_threshold) or the agreement of masks with their own
refinement (tool.agreement).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tool.presets.stages import Stage

# What scoring stages measure: the keys of their results, and the words for it.
MIOU = 'mIoU'
HISTOGRAM = 'histogram'
AGREEMENT = 'agreement'
WORDS = {
    MIOU: 'highest mIoU against ground truth (--choose masks)',
    HISTOGRAM: 'from the histogram of the CAMs, without ground truth (--choose labels)',
    AGREEMENT: 'highest agreement with their CRF, without ground truth (--choose labels)',
}


@dataclass(frozen=True)
class Scored:
    """A scoring stage that is complete, with the result that it has written."""

    stage: Stage
    scores: dict

    @property
    def measure(self) -> str:
        """The measure of its result: one of MIOU, HISTOGRAM and AGREEMENT."""
        return measure_of(self.scores)


def measure_of(scores: dict) -> str:
    """The measure of a scoring stage's result: one of MIOU, HISTOGRAM and AGREEMENT."""
    for measure in (HISTOGRAM, AGREEMENT):
        if measure in scores:
            return measure
    return MIOU


def best_threshold(scored: Sequence[Scored]) -> float | None:
    """The background score that the last curve found best; None without a curve."""
    best = None
    for item in scored:
        if 'curve_t' in item.scores:
            best = item.scores['t']
    return best


def best_masks(scored: Sequence[Scored]) -> Scored | None:
    """The stage whose masks have the highest score, of equal ones the last; None without masks."""
    best = None
    for item in scored:
        if not item.stage.masks:
            continue
        value = item.scores[item.measure]
        if best is None or value >= best.scores[best.measure]:
            best = item
    return best


def describe_choices(scored: Sequence[Scored]) -> list[str]:
    """Sentences on what was chosen and how, and on what ground truth would have chosen."""
    deciding = [item for item in scored if item.stage.decides]
    by_truth = [item for item in scored if item.measure == MIOU]
    return [*_describe_threshold(deciding, by_truth), *_describe_masks(deciding, by_truth)]


def _describe_threshold(deciding: list[Scored], by_truth: list[Scored]) -> list[str]:
    """The sentence on the background score; none where no curve decided it."""
    chosen = best_threshold(deciding)
    if chosen is None:
        return []
    curves = [item for item in deciding if 'curve_t' in item.scores]
    measure = curves[-1].measure
    sentence = f'background score {chosen:.2f}: {WORDS[measure]}'
    best = best_threshold(by_truth)
    if measure == MIOU or best is None:
        return [sentence]
    curve = [item for item in by_truth if 'curve_t' in item.scores][-1].scores
    loss = max(curve['curve_mIoU']) - _value_at(curve, chosen)
    return [f'{sentence}; ground truth would choose {best:.2f}, {loss:.1f} mIoU better']


def _value_at(curve: dict, threshold: float) -> float:
    """The mIoU of a curve at the threshold that lies nearest to the given one."""
    distances = [abs(value - threshold) for value in curve['curve_t']]
    return curve['curve_mIoU'][distances.index(min(distances))]


def _describe_masks(deciding: list[Scored], by_truth: list[Scored]) -> list[str]:
    """The sentence on the masks; none where there was one kind or no choice at all."""
    candidates = [item for item in deciding if item.stage.masks]
    best = best_masks(deciding)
    if best is None or len(candidates) < 2:
        return []
    sentence = f'masks {_folder(best)} ({best.stage.row}): {WORDS[best.measure]}'
    best_by_truth = best_masks(by_truth)
    if best.measure == MIOU or best_by_truth is None:
        return [sentence]
    score_of = {item.stage.masks: item.scores[MIOU] for item in by_truth}
    loss = best_by_truth.scores[MIOU] - score_of.get(best.stage.masks, float('nan'))
    return [
        f'{sentence}; ground truth would choose {_folder(best_by_truth)}, {loss:.1f} mIoU better'
    ]


def _folder(item: Scored) -> str:
    """The name of the folder of a stage's masks."""
    return os.path.basename(item.stage.masks)
