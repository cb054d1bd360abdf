"""The preset reproduce: the published contrast at every scale, and the stages of every figure."""

import sys

import numpy as np
import pytest
import torch

import contrast_train
from network.baselines import BASELINES
from tool.presets import eps, reproduce, seam
from tool.presets.reproduce import METHODS, SCALES
from tool.presets.stages import RunSettings
from tool.run.errors import UserError

RUN = RunSettings('/work', voc='/voc', lists='/voc/lists')


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('method', METHODS)
def test_the_contrast_is_the_published_one(method, scale, monkeypatch):
    stages = reproduce.preset(RUN, method, scale, warmup='w.pth').stages
    monkeypatch.setattr(sys, 'argv', stages['train'].command({}))
    args = contrast_train.parse_args()
    options = contrast_train.contrast_options(
        args, np.ones((2, 20), np.float32), BASELINES[args.baseline], torch.device('cpu')
    )
    assert options == BASELINES[method].contrast_options()
    assert type(options) is type(BASELINES[method].contrast_options())


@pytest.mark.parametrize('method, original', [('seam', seam), ('eps', eps)])
def test_at_the_scale_paper_it_is_the_preset_of_the_method_with_more_stages(method, original):
    expected = {stage.name: stage for stage in original.preset(RUN).stages}
    stages = {stage.name: stage for stage in reproduce.preset(RUN, method).stages}
    assert {name: stages[name] for name in expected} == expected
    more = ['infer_val', 'score_seeds_val']
    if method == 'eps':
        more += ['deeplab_v1_train', 'deeplab_v1_test', 'score_deeplab_v1', 'score_deeplab_v1_crf']
    assert [name for name in stages if name not in expected] == more


def test_seeds_of_val_are_scored_at_the_score_that_train_chooses():
    stage = {stage.name: stage for stage in reproduce.preset(RUN).stages.resolved()}[
        'score_seeds_val'
    ]
    assert stage.flags['list'].endswith('val.txt')
    assert stage.command({next(iter(stage.from_scores())): '0.23'})[-1] == '0.23'
    assert not stage.decides and '--curve' not in stage.command(
        dict.fromkeys(stage.from_scores(), '1')
    )


def test_deeplab_v1_and_v2_learn_from_the_same_masks_in_folders_of_their_own():
    stages = {stage.name: stage for stage in reproduce.preset(RUN, 'eps').stages.resolved()}
    v1 = stages['deeplab_v1_train']
    v2 = stages['deeplab_train']
    assert 'deeplabv1' in v1.script and 'deeplabv2' in v2.script
    assert v1.config['DATA_PSEUDO_GT'] == v2.config['DATA_PSEUDO_GT']
    changed = {key for key in v1.config if v1.config[key] != v2.config[key]}
    assert changed == {'MODEL_SAVE_DIR'}
    test = stages['deeplab_v1_test']
    assert test.config['MODEL_SAVE_DIR'] == v1.config['MODEL_SAVE_DIR']
    assert test.config['TEST_CRF'] == 'deeplab'


@pytest.mark.parametrize('scale', ['laptop', 'tiny'])
def test_a_given_warm_up_takes_the_place_of_the_stage(scale):
    without = reproduce.preset(RUN, scale=scale).stages
    assert without['train'].flags['weights'] == '/work/warmup.pth'
    given = reproduce.preset(RUN, scale=scale, warmup='/w/warmup.pth').stages
    assert 'warmup' not in given.names()
    assert given['train'].flags['weights'] == '/w/warmup.pth'
    names = set(given['train'].flags)
    assert names == set(without['train'].flags)


def test_refusals():
    with pytest.raises(UserError, match='preset.method=cam: give one of seam, eps'):
        reproduce.preset(RUN, 'cam')
    with pytest.raises(UserError, match='preset.scale=big: give one of paper, laptop, tiny'):
        reproduce.preset(RUN, scale='big')
