"""The presets of this repository: every script knows the flags it is given."""

import importlib
import sys
from pathlib import Path

import pytest

from tool.presets.load import NAMES, load_preset
from tool.presets.stages import FromScores, RunSettings
from voc12.classes import CLASSES


def stages_of(name):
    preset = load_preset(name, [], RunSettings('/work', seed=3, device='cpu'), CLASSES)
    return [pytest.param(stage, id=f'{name}-{stage.name}') for stage in preset.stages]


@pytest.mark.parametrize('stage', [case for name in NAMES for case in stages_of(name)])
def test_scripts_know_the_flags_of_the_presets(stage, monkeypatch):
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
    assert set(NAMES) == {'smoke', 'quickstart', 'laptop', 'seam', 'eps'}


@pytest.mark.parametrize('name', NAMES)
def test_what_is_made_lies_in_the_work_folder(name):
    preset = load_preset(name, [], RunSettings('/work'), CLASSES)
    for stage in preset.stages:
        assert stage.makes
        assert not any(path.startswith(('/', '.')) for path in stage.makes)
