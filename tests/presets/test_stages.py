"""tool/presets/stages.py: values to words, and how one preset changes the stages of another."""

import pytest

from tool.presets.stages import BEST_MASKS, BEST_THRESHOLD, RunSettings, Stage, Stages
from tool.run.errors import UserError


def commands(stages):
    return {stage.name: stage.command({}) for stage in stages.resolved()}


def test_numbers_of_workers_decide_nothing():
    plain = Stage('test', 'test.py', flags={'t': 3}, config={'TRAIN_LR': 0.1})
    for flags, config in (
        ({'jobs': 3}, {}),
        ({'num_workers': 0}, {'DATA_WORKERS': 2}),
        ({'jobs': None}, {}),
    ):
        with_workers = Stage(
            'test', 'test.py', {**flags, **plain.flags}, {**plain.config, **config}
        )
        assert with_workers.deciding_words({}) == plain.command({})
    only_workers = Stage('test', 'test.py', config={'DATA_WORKERS': 2})
    assert only_workers.deciding_words({}) == ['test.py']
    named = Stage('test', 'test.py', flags={'session_name': '--jobs', 'lr': 1})
    assert named.deciding_words({}) == named.command({})


@pytest.fixture
def stages():
    """A training stage, one that is like it, and a scoring stage."""
    return Stages(
        [
            Stage('train', script='train.py', flags=dict(lr=0.1, steps=5), makes=['train.*']),
            Stage('warmup', like='train', flags=dict(steps=3)),
            Stage('score', script='tool.score', flags=dict(list='val.txt'), row='seeds'),
        ]
    )


def test_values_become_words():
    flags = dict(
        no_seam=True,
        no_contrast=False,
        width=None,
        lr='3e-3',
        steps=100,
        share=0.05,
        scales=[0.75, 1],
        tblog_dir='',
    )
    words = Stage('train', script='contrast_train.py', flags=flags).command({})
    assert words[:6] == ['contrast_train.py', '--no_seam', '--lr', '3e-3', '--steps', '100']
    assert words[6:] == ['--share', '0.05', '--scales', '0.75', '1', '--tblog_dir', '']


def test_config_becomes_one_set_flag():
    config = dict(DATA_ROOT='/voc', SCALES=[0.5, 1], AMP=True, TBLOG=False, LIST=None, MASKS='')
    words = Stage('net', script='train.py', flags=dict(device='cpu'), config=config).command({})
    assert words[:4] == ['train.py', '--device', 'cpu', '--set']
    assert words[4:] == ['DATA_ROOT=/voc', 'SCALES=0.5,1', 'AMP=True', 'TBLOG=False', 'MASKS=']


def test_a_module_is_started_with_m():
    assert Stage('seeds', script='tool.seed_masks').command({}) == ['-m', 'tool.seed_masks']


def test_scores_decide_values():
    stage = Stage('walk', script='a.py', flags=dict(t=BEST_THRESHOLD), config=dict(GT=BEST_MASKS))
    assert stage.from_scores() == {BEST_THRESHOLD, BEST_MASKS}
    words = stage.command({BEST_THRESHOLD: '0.31', BEST_MASKS: '/work/crf'})
    assert words == ['a.py', '--t', '0.31', '--set', 'GT=/work/crf']


def test_a_stage_shares_the_flags_of_the_one_it_is_like(stages):
    stages.set_flags('train', lr=0.2, amp='bf16')
    words = commands(stages)['warmup']
    assert words == ['train.py', '--lr', '0.2', '--steps', '3', '--amp', 'bf16']
    assert stages.resolved()[1].makes == ()


def test_only_the_config_is_shared_with_another_script():
    train = Stage('train', script='train.py', flags=dict(a=1), config=dict(LR=1, CRF='x'))
    test = Stage('test', script='test.py', like='train', flags=dict(b=2), config=dict(CRF='y'))
    words = commands(Stages([train, test]))['test']
    assert words == ['test.py', '--b', '2', '--set', 'LR=1', 'CRF=y']


def test_changes(stages):
    stages.set_flags('train', steps=None, momentum=0.9)
    stages.set_config('score', TEST_CRF='none')
    stages.set_fields('score', processes=2, row='')
    stages.insert_before('score', Stage('a', script='a.py'), Stage('b', script='b.py'))
    stages.insert_after('score', Stage('c', script='c.py'))
    assert stages.names() == ['train', 'warmup', 'a', 'b', 'score', 'c']
    assert commands(stages)['train'] == ['train.py', '--lr', '0.1', '--momentum', '0.9']
    assert commands(stages)['score'][-2:] == ['--set', 'TEST_CRF=none']
    assert stages['score'].processes == 2 and stages['score'].row == ''


def test_a_stage_keeps_the_flags_of_a_dropped_one(stages):
    before = commands(stages)
    stages.drop('train')
    del before['train']
    assert commands(stages) == before


def test_settings_keep_what_was_asked_for():
    run = RunSettings('/work', voc='/voc').defaults(voc='/other', lists='/lists')
    assert (run.voc, run.lists, run.gt) == ('/voc', '/lists', None)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda stages: stages.set_flags('trian', lr=1), 'no stage trian; there are train, warmup'),
        (lambda stages: stages.drop('walk'), 'no stage walk'),
        (lambda stages: stages.insert_after('train', stages['score']), 'two stages of the name'),
        (lambda stages: stages.set_fields('train', processes=0), 'whole number of at least 1'),
        (lambda stages: stages.set_fields('train', processes='2'), 'whole number of at least 1'),
        (lambda stages: stages.set_fields('train', makes='train.*'), 'must be a list'),
        (lambda stages: stages.set_flags('train', lr={'a': 1}), 'stage train: lr = .*not a value'),
        (lambda stages: stages.set_flags('train', lr=[None]), 'stage train: lr = .*not a value'),
        (lambda stages: stages.set_fields('train', like='warmup'), 'like = .*is like this one'),
        (lambda stages: stages.set_fields('warmup', like='b'), 'like = b: there is no such stage'),
        (lambda stages: stages.set_fields('score', script=''), 'stage score: has no script'),
    ],
)
def test_faulty_stages(stages, change, message):
    with pytest.raises(UserError, match=message):
        change(stages)
        stages.resolved()
