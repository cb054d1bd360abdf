"""The rows of the paper's tables: what each of them runs, and which figures it reports.

This is the one place that knows them. `TABLES`, at the end, names the rows of every table. The
paper's figures are those of docs/method.md §9; a figure that is not known there is None.

Rows that share a `folder` are one and the same run, which is computed once: SEAM and SEAM +
contrast are rows of the table seam, the former of baseline, and both of ablation.
"""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One figure that a row reports.

    Attributes:
        title: what is scored, for the reader of the table.
        ladder: title of the row in the pipeline's ladder that has it.
        paper: the paper's figure, mIoU in percent; None where it is not known.
    """

    title: str
    ladder: str
    paper: float | None = None


@dataclass(frozen=True)
class Row:
    """One row of a table: a run of the preset for every seed.

    Attributes:
        title: its name in the table.
        folder: name of the folder of its runs; rows of one folder have the same runs.
        method: the baseline, seam or eps.
        settings: words for --set of the pipeline, in which it differs from the baseline with the
            published contrast.
        figures: what it reports.
        last: the last stage that the figures need.
        preset: name of the preset.
    """

    title: str
    folder: str
    method: str
    settings: tuple[str, ...]
    figures: tuple[Figure, ...]
    last: str
    preset: str = 'reproduce'


# ---------------------------------------------------------------- SEAM and EPS

SEEDS = 'seeds, best threshold'
SEEDS_OF_VAL = 'seeds of val'
NO_CONTRAST = ('train.no_contrast=yes',)


def seam_figures(
    seeds: float | None = None,
    seeds_of_val: float | None = None,
    walk: float | None = None,
    deeplab_crf: float | None = None,
) -> tuple[Figure, ...]:
    """The figures of a whole SEAM run, with those that the paper has of it."""
    return (
        Figure('seeds', SEEDS, seeds),
        Figure('seeds', SEEDS_OF_VAL, seeds_of_val),
        Figure('random walk', 'seeds + random walk', walk),
        Figure('random walk + CRF', 'seeds + random walk + CRF'),
        Figure('DeepLab v1', 'DeepLab, without CRF'),
        Figure('DeepLab v1 + CRF', 'DeepLab + CRF', deeplab_crf),
    )


def eps_figures(
    seeds: float | None = None,
    deeplab_v1_crf: float | None = None,
    deeplab_v2_crf: float | None = None,
) -> tuple[Figure, ...]:
    """The figures of a whole EPS run, with those that the paper has of it."""
    return (
        Figure('seeds', SEEDS, seeds),
        Figure('seeds', SEEDS_OF_VAL),
        Figure('pseudo masks', 'pseudo masks (CRF of scores)'),
        Figure('DeepLab v1', 'DeepLab v1, without CRF'),
        Figure('DeepLab v1 + CRF', 'DeepLab v1 + CRF', deeplab_v1_crf),
        Figure('DeepLab v2', 'DeepLab, without CRF'),
        Figure('DeepLab v2 + CRF', 'DeepLab + CRF', deeplab_v2_crf),
    )


SEAM_ALONE = Row(
    'SEAM',
    folder='seam_alone',
    method='seam',
    settings=NO_CONTRAST,
    figures=seam_figures(seeds=55.4),
    last='score_deeplab_crf',
)
SEAM_CONTRAST = Row(
    'SEAM + contrast',
    folder='seam_contrast',
    method='seam',
    settings=(),
    figures=seam_figures(seeds=61.5, seeds_of_val=58.4, walk=69.2, deeplab_crf=67.7),
    last='score_deeplab_crf',
)
EPS_ALONE = Row(
    'EPS',
    folder='eps_alone',
    method='eps',
    settings=NO_CONTRAST,
    figures=eps_figures(seeds=69.2),
    last='score_deeplab_v1_crf',
)
EPS_CONTRAST = Row(
    'EPS + contrast',
    folder='eps_contrast',
    method='eps',
    settings=(),
    figures=eps_figures(seeds=70.5, deeplab_v1_crf=72.3, deeplab_v2_crf=72.6),
    last='score_deeplab_v1_crf',
)


# ---------------------------------------------------------------- ablation, on SEAM's seeds

LAST_OF_SEEDS = 'score_seeds'


def with_seeds_only(row: Row, title: str) -> Row:
    """A whole run as a row of the ablation, which reports its seeds of train."""
    return dataclasses.replace(row, title=title, figures=row.figures[:1], last=LAST_OF_SEEDS)


def ablation_row(title: str, folder: str, *settings: str) -> Row:
    """A row whose run ends with the seeds of the pictures that are scored.

    Args:
        title, folder: of the row.
        settings: its flags of the stage train, FLAG=VALUE.
    """
    changes = [f'train.{setting}' for setting in settings]
    return Row(
        title,
        folder=f'ablation_{folder}',
        method='seam',
        settings=('preset.only_seeds=yes', *changes),
        figures=(Figure('seeds', SEEDS),),
        last=LAST_OF_SEEDS,
    )


OFF = {
    'cross-prototype': 'no_cross_prototype=yes',
    'cross-CAM': 'no_cross_cam=yes',
    'intra-view': 'no_intra_view=yes',
}


def term_rows() -> list[Row]:
    """Each of the three terms alone, then each pair of them."""
    alone = []
    pairs = []
    for term, off in OFF.items():
        others = [other for other in OFF if other != term]
        others_off = [OFF[other] for other in others]
        alone.append(ablation_row(f'{term} alone', f'only_{_name(term)}', *others_off))
        pairs.append(ablation_row(' and '.join(others), f'no_{_name(term)}', off))
    return [*alone, *pairs]


def _name(term: str) -> str:
    """A term's name as a part of a folder's name."""
    return term.replace('-', '_').lower()


ABLATION = (
    with_seeds_only(SEAM_ALONE, 'no contrast (SEAM)'),
    *term_rows(),
    with_seeds_only(SEAM_CONTRAST, 'all three terms (SEAM + contrast)'),
    ablation_row('semi-hard mining off', 'no_semi_hard', 'no_semi_hard=yes'),
    ablation_row('hard pixel sampling off', 'no_hard_pixels', 'no_hard_pixels=yes'),
    ablation_row('temperature 0.05', 'temperature_0.05', 'temperature=0.05'),
    with_seeds_only(SEAM_CONTRAST, 'temperature 0.1 (the default)'),
    ablation_row('temperature 0.2', 'temperature_0.2', 'temperature=0.2'),
    ablation_row('temperature 0.5', 'temperature_0.5', 'temperature=0.5'),
    ablation_row('pixels of a prototype 1/16', 'prototype_1_16', 'prototype_share=0.0625'),
    with_seeds_only(SEAM_CONTRAST, 'pixels of a prototype 1/8 (the default)'),
    ablation_row('pixels of a prototype 1/4', 'prototype_1_4', 'prototype_share=0.25'),
    ablation_row('background threshold 0.10', 'background_0.10', 'bg_threshold=0.10'),
    with_seeds_only(SEAM_CONTRAST, 'background threshold 0.20 (the default)'),
    ablation_row('background threshold 0.30', 'background_0.30', 'bg_threshold=0.30'),
    ablation_row('batch 4', 'batch_4', 'batch_size=4'),
    with_seeds_only(SEAM_CONTRAST, 'batch 8 (the default)'),
    ablation_row('batch 16', 'batch_16', 'batch_size=16'),
    ablation_row(
        'label-aware prototypes (ours, not in the paper)',
        'label_aware',
        'prototypes=label_aware',
    ),
)

TABLES: dict[str, tuple[Row, ...]] = {
    'seam': (SEAM_ALONE, SEAM_CONTRAST),
    'eps': (EPS_ALONE, EPS_CONTRAST),
    'ablation': ABLATION,
    # what the contrast is added to
    'baseline': (SEAM_ALONE, EPS_ALONE),
}
