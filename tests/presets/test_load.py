"""tool/presets/load.py: finding presets, --set, and errors in a preset's own file."""

import pytest

from tool.presets.load import load_preset, parse_override
from tool.presets.stages import BEST_THRESHOLD, RunSettings
from tool.run.errors import UserError
from voc12.classes import CLASSES

FILE = """
from tool.presets.stages import Preset, Stage, Stages


def preset(run, steps=5, fast=False, names=('a',), text=''):
    train = Stage('train', script='train.py', flags={'steps': steps, 'fast': fast, 'text': text})
    net = Stage('net', script='net.py', flags={'names': list(names)}, config={'LR': 1})
    return Preset('a toy', Stages([train, net]), core=run.core or ['cat'])
"""


@pytest.fixture
def load(tmp_path):
    """load(text, *overrides, **settings): the preset of a file with that text."""

    def call(text, *overrides, **settings):
        path = tmp_path / 'my preset.py'
        path.write_text(text)
        run = RunSettings('/work', **settings)
        return load_preset(str(path), [parse_override(word) for word in overrides], run, CLASSES)

    return call


def commands(preset):
    return {stage.name: stage.command({}) for stage in preset.stages}


def test_a_file_of_the_users_own(load):
    preset = load(FILE)
    assert (preset.name, preset.about, preset.core) == ('my preset', 'a toy', ['cat'])
    assert commands(preset)['train'] == ['train.py', '--steps', '5', '--text', '']


def test_set_changes_flags(load):
    preset = load(FILE, 'train.steps=no', 'train.fast=yes', 'train.text=', "train.more=a 'b c'")
    assert commands(preset)['train'] == ['train.py', '--fast', '--more', 'a', 'b c']
    preset = load(FILE, "train.text=''", 'train.steps=9')
    assert commands(preset)['train'] == ['train.py', '--steps', '9', '--text', '']


def test_set_changes_config_and_fields(load):
    preset = load(FILE, 'net.LR=yes no', 'net.script=b.py', 'net.processes=4', "net.makes=a 'b c'")
    assert commands(preset)['net'] == ['b.py', '--names', 'a', '--set', 'LR=yes no']
    stage = preset.stages['net']
    assert (stage.processes, stage.makes) == (4, ['a', 'b c'])


def test_set_gives_what_scores_decide(load):
    preset = load(FILE, 'train.text={best_t}')
    assert preset.stages['train'].from_scores() == {BEST_THRESHOLD}


def test_set_gives_options_of_the_preset(load):
    options = ('preset.steps=7', 'preset.fast=yes', 'preset.names=x y', 'preset.core=dog cow')
    preset = load(FILE, *options)
    assert commands(preset)['train'] == ['train.py', '--steps', '7', '--fast', '--text', '']
    assert commands(preset)['net'][:4] == ['net.py', '--names', 'x', 'y']
    assert preset.core == ['dog', 'cow']


def test_set_changes_a_preset_after_what_it_builds_on():
    run = RunSettings('/work')
    preset = load_preset('quickstart', [parse_override('train.amp=bf16')], run, CLASSES)
    for name in ('train', 'warmup'):  # the warm-up is like the training
        assert preset.stages[name].flags['amp'] == 'bf16'


HEAD = 'from tool.presets.stages import Preset, Stage, Stages\n'


@pytest.mark.parametrize(
    'text, message',
    [
        ('x = 1\ny = (\n', r'my preset.py, line 2: .*never closed'),
        ('import nothing_like_this', 'my preset.py, line 1: ModuleNotFoundError: No module named'),
        ('def preset(run):\n    return 1 / 0\n', 'my preset.py, line 2: ZeroDivisionError: '),
        (
            'from tool.presets import seam\n\n\n'
            'def preset(run):\n    stages = seam.preset(run).stages\n'
            "    stages.set_flags('trian', lr=1)\n",
            'my preset.py, line 6: there is no stage trian; there are data, train',
        ),
        (
            HEAD + "def preset(run):\n    return Stage('a', 'a.py', flags={'x': {}})\n",
            'my preset.py, line 3: stage a: x = {} is not a value',
        ),
        ('def preset(run, needed):\n    pass\n', "my preset.py: TypeError: .*'needed'"),
        ('x = 1', r'my preset.py: defines no function preset\(run\)'),
        ('def preset(run):\n    return None\n', 'must return a Preset, not None'),
        (HEAD + "def preset(run):\n    return Preset('', Stages([]))\n", 'has no stage'),
        (HEAD + "def preset(run):\n    return Preset('', Stages([]), ['sofas'])\n", 'is no class'),
        (
            HEAD + "def preset(run):\n    return Preset('', Stages([Stage('a')]))\n",
            'stage a: has no script',
        ),
    ],
)
def test_an_error_of_the_file_is_one_line(load, text, message):
    with pytest.raises(UserError, match=message):
        load(text)


@pytest.mark.parametrize('text', ['{best_t:1000000000}', '%1000000000d', '{0.__class__}'])
def test_a_format_in_a_value_is_only_a_text(load, text):
    """Formatting such a text would fill the memory with spaces."""
    preset = load(FILE, f'train.text={text}')
    assert preset.stages['train'].flags['text'] == text


@pytest.mark.parametrize(
    'word, message',
    [
        ('trian.lr=1', '--set trian.lr=1: there is no stage trian; there are net, preset, train'),
        ('train.lr', '--set train.lr: STAGE.FLAG=VALUE is expected'),
        ('train.text="1', '--set train.text="1: No closing quotation'),
        ('train.processes=x', 'processes = x: must be a whole number of at least 1'),
        ('train.processes=' + '9' * 5000, 'must be a whole number of at least 1'),
        ('preset.steps=' + '9' * 5000, 'is not like the default 5'),
        ('preset.step=1', 'no option step; there are core, experiment, fast, gt, .* steps, text'),
        ('preset.steps=many', "--set preset.steps=many: 'many' is not like the default 5"),
        ('preset.fast=perhaps', "'perhaps' is not like the default False"),
        ('preset.core=sofas', 'sofas is no class'),
    ],
)
def test_a_faulty_set_names_what_exists(load, word, message):
    with pytest.raises(UserError, match=message):
        load(FILE, word)


@pytest.mark.parametrize('name', ['nothing', 'nothing.py', 'quickstart.ini'])
def test_an_unknown_preset_names_those_that_exist(name):
    with pytest.raises(UserError, match='no such preset; there are smoke, quickstart.*preset'):
        load_preset(name, [], RunSettings('/work'), CLASSES)
