"""tool/presets/coco.py: the schedule is EPS's, and what the preset changes of the preset eps."""

import dataclasses
import sys

import pytest

import contrast_train
from network.baselines import BASELINES
from tool.presets import coco, eps
from tool.presets.stages import FromScores, RunSettings
from tool.train.engine import steps_of
from voc12.data import Crops

PICTURES = 82_081  # of train2014 with an annotation
EPOCHS = 50
RUN = RunSettings('/work', voc='/data/coco', lists='/data/coco/lists')


def train_args(monkeypatch: pytest.MonkeyPatch):
    """The flags of the training as contrast_train.py parses them."""
    words = coco.preset(RunSettings('/work')).stages['train'].command({})
    monkeypatch.setattr(sys, 'argv', words)
    return contrast_train.parse_args()


def test_the_schedule_is_fifty_epochs_of_the_annotated_pictures(monkeypatch):
    args = train_args(monkeypatch)
    assert steps_of(PICTURES, args.batch_size, EPOCHS) == 256_500
    schedule, steps = contrast_train.count_steps(args, BASELINES[args.baseline], PICTURES)
    assert (schedule, steps) == (256_500, 256_500)


def test_the_sizes_are_those_of_eps_for_coco(monkeypatch):
    args = train_args(monkeypatch)
    crops = Crops(args.crop_size, args.seed, tuple(args.long_side))
    assert crops.size == 321
    assert crops.long_side_limits() == (256, 448)
    assert (args.batch_size, args.lr, args.tau) == (16, 0.01, 0.4)


def test_the_folders_are_those_of_from_coco():
    flags = coco.preset(RunSettings('/work', voc='/data/my coco')).stages['train'].flags
    assert flags['train_list'] == '/data/my coco/lists/train_aug.txt'
    assert flags['cls_labels'] == '/data/my coco/lists/cls_labels.npy'


def test_all_else_is_as_in_the_preset_eps():
    of_coco = {stage.name: stage for stage in coco.preset(RUN).stages}
    run = dataclasses.replace(RUN, makes_lists=False)
    of_eps = {stage.name: stage for stage in eps.preset(run).stages}
    assert [name for name, stage in of_coco.items() if not stage.enabled] == [
        'data',
        'agree_seeds',
        'agree_crf',
        'agree_masks',
    ]
    assert set(of_eps) - set(of_coco) == {'threshold'}
    changed = {name for name, stage in of_coco.items() if stage != of_eps[name]}
    assert changed == {'train', 'score_seeds', 'agree_seeds', 'seed_masks'}


def test_no_threshold_is_chosen_on_ground_truth():
    stages = coco.preset(RUN).stages
    for stage in stages:
        assert FromScores.BEST_THRESHOLD not in stage.from_scores()
    assert stages['seed_masks'].flags['t'] == stages['score_seeds'].flags['t'] == 0.2
