"""The presets of this repository: every script knows the flags it is given."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest

from mini import make_voc
from tool.files.atomic import write_text
from tool.presets.load import NAMES, load_preset
from tool.presets.stages import BY_MASKS, CHOICES, FromScores, RunSettings
from voc12.classes import CLASSES


@pytest.fixture
def load(tmp_path):
    """load(name, **settings): a preset; the one that needs a data folder gets a small one."""

    def call(name, **settings):
        if name == 'own':
            names = make_voc(tmp_path / 'data')
            write_text(str(tmp_path / 'data' / 'lists' / 'train_aug.txt'), '\n'.join(names))
            shutil.copy(tmp_path / 'data' / 'cls_labels.npy', tmp_path / 'data' / 'lists')
            settings['voc'] = str(tmp_path / 'data')
        return load_preset(name, [], RunSettings('/work', **settings), CLASSES)

    return call


@pytest.mark.parametrize('choose', CHOICES)
@pytest.mark.parametrize('name', NAMES)
def test_scripts_know_the_flags_of_the_presets(name, choose, load, monkeypatch):
    if name == 'own' and choose == BY_MASKS:
        pytest.skip('its small folder has no list of pictures to score')
    preset = load(name, seed=3, device='cpu', choose=choose)
    for stage in preset.stages:
        check_flags(stage, monkeypatch)


def check_flags(stage, monkeypatch):
    """Let the script of a stage read the flags of the stage."""
    words = stage.command(dict.fromkeys(FromScores, '0.25'))
    monkeypatch.setattr(sys, 'argv', words if words[0] != '-m' else words[1:])
    if not stage.script.startswith('segmentation'):
        importlib.import_module(stage.script.removesuffix('.py')).parse_args()
        return
    folder, script = Path(stage.script).parts[-2:]
    config = importlib.import_module(f'segmentation.experiment.{folder}.config').config_dict
    module = {'train.py': 'utils.training', 'test.py': 'utils.testing'}[script]
    args = importlib.import_module(module).parse_args(config)
    assert args.config['DATA_ROOT'] == stage.config['DATA_ROOT']


def test_there_are_presets():
    small = {'smoke', 'quickstart', 'laptop', 'laptop_eps', 'own'}
    assert set(NAMES) == small | {'seam', 'eps', 'coco', 'reproduce'}


@pytest.mark.parametrize('name', NAMES)
def test_what_is_made_lies_in_the_work_folder(name, load):
    for stage in load(name).stages:
        assert stage.makes
        assert not any(path.startswith(('/', '.')) for path in stage.makes)


def test_the_quickstart_leads_on_to_own_pictures_and_the_paper(load):
    text = '\n'.join(load('quickstart').next_steps)
    for command in ('voc12.from_folder --images', '--preset own', 'tool.reproduce seam'):
        assert command in text
