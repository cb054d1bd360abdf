"""The rows of the tables: what they run exists, and the figures of the paper are the known ones."""

import re
import sys

import pytest

import contrast_train
from mini import ROOT
from tool.presets.load import load_preset, parse_override
from tool.presets.reproduce import SCALES
from tool.presets.stages import RunSettings
from tool.reproduce_tables.rows import (
    ABLATION,
    EPS_ALONE,
    EPS_CONTRAST,
    SEAM_ALONE,
    SEAM_CONTRAST,
    TABLES,
)
from voc12.classes import CLASSES

ROWS = [
    pytest.param(row, id=f'{table}: {row.title}') for table, rows in TABLES.items() for row in rows
]


def stages_of(row, scale='paper'):
    """The stages of a row at a scale."""
    words = [f'preset.method={row.method}', f'preset.scale={scale}', *row.settings]
    overrides = [parse_override(word) for word in words]
    return load_preset(row.preset, overrides, RunSettings('/work', voc='/voc'), CLASSES).stages


def train_flags(row, monkeypatch):
    """The flags of a row's training, as contrast_train.py parses them."""
    monkeypatch.setattr(sys, 'argv', stages_of(row)['train'].command({}))
    return contrast_train.parse_args()


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('row', ROWS)
def test_a_row_has_the_stages_of_its_figures(row, scale):
    stages = stages_of(row, scale)
    names = stages.names()
    reached = names[: names.index(row.last) + 1]
    ladder = {stages[name].row for name in reached}
    assert {figure.ladder for figure in row.figures} <= ladder


@pytest.mark.parametrize('row', ROWS)
def test_a_row_has_flags_that_its_training_knows(row, monkeypatch):
    train_flags(row, monkeypatch)


def test_rows_of_one_folder_are_one_run():
    settings_of = {}
    for rows in TABLES.values():
        for row in rows:
            run = (row.preset, row.method, row.settings)
            assert settings_of.setdefault(row.folder, run) == run
    assert len(set(settings_of.values())) == len(settings_of), 'two folders have the same run'


def test_the_figures_of_the_paper_are_those_of_method_md():
    text = (ROOT / 'docs' / 'method.md').read_text(encoding='utf-8')
    section = text.partition('## §9 ')[2].partition('## §10 ')[0]
    known = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if cells[0] in ('SEAM', 'EPS'):
            known[cells[0], cells[1].partition(' (')[0]] = tuple(cells[2:4])
    alone = dict(re.findall(r'\((\w+) alone: ([\d.]+) on train\)', section))

    def paper(row):
        return {(figure.title, figure.ladder): figure.paper for figure in row.figures}

    seam = paper(SEAM_CONTRAST)
    assert known['SEAM', 'seeds'] == (
        str(seam['seeds', 'seeds, best threshold']),
        str(seam['seeds', 'seeds of val']),
    )
    assert known['SEAM', 'AffinityNet, random walk'][0] == str(
        seam['random walk', 'seeds + random walk']
    )
    assert known['SEAM', 'DeepLab v1, CRF'][1] == str(seam['DeepLab v1 + CRF', 'DeepLab + CRF'])
    eps = paper(EPS_CONTRAST)
    assert known['EPS', 'seeds'][0] == str(eps['seeds', 'seeds, best threshold'])
    assert known['EPS', 'DeepLab v1, CRF'][1] == str(eps['DeepLab v1 + CRF', 'DeepLab v1 + CRF'])
    assert known['EPS', 'DeepLab v2, CRF'][1] == str(eps['DeepLab v2 + CRF', 'DeepLab + CRF'])
    assert alone['SEAM'] == str(SEAM_ALONE.figures[0].paper)
    assert alone['EPS'] == str(EPS_ALONE.figures[0].paper)


def test_baseline_has_the_rows_without_the_contrast(monkeypatch):
    methods = []
    for row in TABLES['baseline']:
        assert train_flags(row, monkeypatch).no_contrast
        methods.append(row.method)
    assert methods == ['seam', 'eps']
    assert not train_flags(SEAM_CONTRAST, monkeypatch).no_contrast
    assert not train_flags(EPS_CONTRAST, monkeypatch).no_contrast


def test_the_ablation_has_every_set_of_terms(monkeypatch):
    sets = set()
    for row in ABLATION:
        args = train_flags(row, monkeypatch)
        if args.no_contrast:
            sets.add(())
            continue
        terms = (args.no_cross_prototype, args.no_cross_cam, args.no_intra_view)
        sets.add(tuple(not off for off in terms))
    assert len(sets) == 8, 'none, three alone, three pairs, all'


@pytest.mark.parametrize(
    'flag, values',
    [
        ('temperature', {0.05, None, 0.2, 0.5}),
        ('prototype_share', {1 / 16, None, 1 / 4}),
        ('bg_threshold', {0.1, None, 0.3}),
        ('batch_size', {4, 8, 16}),
        ('no_semi_hard', {False, True}),
        ('no_hard_pixels', {False, True}),
        ('prototypes', {'published', 'label_aware'}),
    ],
)
def test_the_ablation_has_every_value(flag, values, monkeypatch):
    found = {getattr(train_flags(row, monkeypatch), flag) for row in ABLATION}
    assert found == values


def test_a_row_of_the_ablation_makes_seeds_of_the_scored_pictures_only():
    rows = {row.folder: row for row in ABLATION}
    stages = stages_of(rows['ablation_no_semi_hard'])
    assert stages.names() == ['data', 'train', 'infer', 'score_seeds']
    assert stages['infer'].flags['infer_list'] == stages['score_seeds'].flags['list']
