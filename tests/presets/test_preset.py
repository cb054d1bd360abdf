"""Presets: sections to commands, and the flags of every preset of the repository."""

import importlib
import sys
from pathlib import Path

import pytest

from mini import ROOT
from tool.presets.preset import LATE, read_preset
from tool.run.errors import UserError
from voc12.classes import CLASSES

PRESETS = sorted(path.stem for path in (ROOT / 'tool' / 'presets').glob('*.ini'))
BASE = """
[preset]
core = cat person
lists = {voc}/lists
scales = 1 2                    # a comment
[train]
script = contrast_train.py
no_seam = yes
no_contrast = no
weights = {lists}/a.pth
tblog_dir = ''
device = {device}
makes = {work}/train.*
[net]
script = segmentation/train.py
device = {device}
DATA_ROOT = {voc}
TEST_MULTISCALE = 0.5,1
[score]
script = tool.seed_masks
classes = {core}
column = 'random walk={work}/walk' seed={work}/seed
row = seeds
"""


@pytest.fixture
def read(tmp_path):
    """read(text, *overrides, **given): the preset of an INI text."""

    def call(text, *overrides, **given):
        path = tmp_path / 'a b.ini'
        path.write_text(text)
        given = {'work': '/my work', 'voc': '/voc', 'device': '', 'seed': '0', **given}
        return read_preset(str(path), list(overrides), CLASSES, **given)

    return call


def commands(preset):
    return {stage.name: stage.command(preset.values) for stage in preset.stages}


def test_options_become_flags(read):
    train, net, score = commands(read(BASE)).values()
    assert train == [
        'contrast_train.py',
        '--no_seam',
        '--weights',
        '/voc/lists/a.pth',
        '--tblog_dir',
        '',
    ]
    assert net == ['segmentation/train.py', '--set', 'DATA_ROOT=/voc', 'TEST_MULTISCALE=0.5,1']
    assert score == [
        '-m',
        'tool.seed_masks',
        '--classes',
        'cat',
        'person',
        '--column',
        'random walk=/my work/walk',
        'seed=/my work/seed',
    ]
    train, net, _ = commands(read(BASE, device='cuda')).values()
    assert train[-2:] == net[1:3] == ['--device', 'cuda']


def test_like_shares_flags_and_keys_but_not_what_is_its_own(read):
    more = (
        '[again]\nlike = train\nweights = b.pth\n'
        '[test]\nlike = net\nscript = segmentation/test.py\nout = x\n'
        '[two]\nlike=score'
    )
    preset = read(BASE + more, device='cpu')
    assert commands(preset)['again'] == [
        'contrast_train.py',
        '--no_seam',
        '--weights',
        'b.pth',
        '--tblog_dir',
        '',
        '--device',
        'cpu',
    ]
    assert commands(preset)['test'] == [
        'segmentation/test.py',
        '--out',
        'x',
        '--set',
        'DATA_ROOT=/voc',
        'TEST_MULTISCALE=0.5,1',
    ]
    assert (
        preset.stages[3].makes == []
        and preset.stages[2].row == 'seeds'
        and preset.stages[5].row == ''
    )


def test_base_order_and_overrides(read, tmp_path):
    base = tmp_path / 'base.ini'
    base.write_text(BASE)
    more = (
        f'[preset]\nbase = {base}\nstages = first train\n'
        '[train]\nno_seam = no\n[first]\nscript = eval.py\n'
    )
    preset = read(more, 'train.weights=c.pth', 'train.no_contrast=yes')
    assert [stage.name for stage in preset.stages] == ['first', 'train'] and preset.core == [
        'cat',
        'person',
    ]
    assert commands(preset)['train'] == [
        'contrast_train.py',
        '--no_contrast',
        '--weights',
        'c.pth',
        '--tblog_dir',
        '',
    ]


@pytest.mark.parametrize(
    'text, overrides, message',
    [
        ('[a]\nx = 1', (), r'\[a\]: has no script'),
        ('[a]\nscript = a.py\nx = {nothing}', (), r'\[a\] \{nothing\}: unknown placeholder .*work'),
        ('[a]\nscript = a.py\nx = "1', (), r'\[a\] "1: No closing quotation'),
        ('[a]\nlike = b', (), r'\[a\] like = b: there is no such section'),
        ('[a]\nlike = b\n[b]\nlike = a', (), 'no such section, or it is like this one'),
        ('[a]\nscript = a.py\n[a]\nscript = a.py', (), 'a b.ini: not a preset .*already exists'),
        ('[preset]\nstages = a c\n[a]\nscript = a.py', (), 'there is no section c; there are a'),
        ('[preset]\ncore = cat sofas', (), 'sofas is no class'),
        ('[preset]\nabout = x', (), 'has no stage'),
        (
            '[a]\nscript = a.py\nprocesses = 0',
            (),
            r'\[a\] processes = 0: must be a whole number of at least 1',
        ),
        (
            BASE,
            ('trian.lr=1',),
            '--set trian.lr=1: there is no stage trian; there are net, preset, score, train',
        ),
        (
            '[preset]\nstages = a\n[a]\nscript = a.py\n[b]\nscript = b.py',
            ('b.x=1',),
            'no stage b; there are a, preset',
        ),
        (BASE, ('train.lr',), '--set train.lr: STAGE.FLAG=VALUE is expected'),
    ],
)
def test_faulty_presets(read, text, overrides, message):
    with pytest.raises(UserError, match=message):
        read(text, *overrides)


def test_generated_pictures_take_no_root_of_the_user():
    with pytest.raises(UserError, match='generates its own pictures'):
        read_preset('smoke', [], CLASSES, work='w', voc='/real/VOC2012', seed='0', device='')


def stages_of(name):
    preset = read_preset(name, [], CLASSES, work='/work', voc=None, seed='3', device='cpu')
    return [
        pytest.param(
            stage, {**preset.values, **dict.fromkeys(LATE, '0.25')}, id=f'{name}-{stage.name}'
        )
        for stage in preset.stages
    ]


@pytest.mark.parametrize('stage, values', [case for name in PRESETS for case in stages_of(name)])
def test_scripts_know_the_flags_of_the_presets(stage, values, monkeypatch):
    words = stage.command(values)
    monkeypatch.setattr(sys, 'argv', words if words[0] != '-m' else words[1:])
    if not stage.script.startswith('segmentation'):
        importlib.import_module(stage.script.removesuffix('.py')).parse_args()
        return
    folder, script = Path(stage.script).parts[-2:]
    config = importlib.import_module(f'segmentation.experiment.{folder}.config').config_dict
    args = importlib.import_module(
        {'train.py': 'utils.training', 'test.py': 'utils.testing'}[script]
    ).parse_args(config)
    assert args.config['DATA_ROOT'] == values['voc']


def test_there_are_presets():
    assert set(PRESETS) == {'smoke', 'quickstart', 'laptop', 'seam', 'eps'}
