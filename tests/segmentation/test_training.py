"""Training: the loss, checkpoints, resuming, TensorBoard, bad input, torchrun, and that it
learns."""

from argparse import Namespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from net import generate_net
from segmentation_toy import config_of, make_devkit, run_script
from tool.files.pictures import read_mask
from tool.method.metrics import confusion, iou
from tool.run.errors import UserError
from tool.train import set_up
from utils import training
from utils.config import prediction_config
from voc12.classes import VOC

TINY = dict(
    MODEL_BACKBONE='resnet38',
    MODEL_BACKBONE_WIDTH=1 / 16,
    MODEL_NAME='deeplabv3plus',
    MODEL_ASPP_OUTDIM=32,
    DATA_RANDOMCROP=32,
    DATA_WORKERS=0,
    TRAIN_BATCHES=4,
    TRAIN_TBLOG=False,
    TEST_MULTISCALE=[1],
    TEST_CRF='none',
)


@pytest.fixture(scope='module')
def devkit(tmp_path_factory):
    return make_devkit(tmp_path_factory.mktemp('voc') / 'VOC2012', train=6, val=3)


def run(devkit, folder, no_resume=False, dry_run=False, **changes):
    """Run train.py's main in this process; returns the final weights."""
    config = config_of(
        'EPS_deeplabv2_resnet101',
        **{
            **TINY,
            'DATA_ROOT': str(devkit),
            'DATA_PSEUDO_GT': str(devkit / 'SegmentationClass'),
            'DATA_TRAIN_LIST': 'train',
            'MODEL_SAVE_DIR': str(folder),
            'EXP_NAME': 'e',
            **changes,
        },
    )
    training.main(Namespace(config=config, device='cpu', no_resume=no_resume, dry_run=dry_run))
    return torch.load(folder / 'e.pth', weights_only=True)


def test_the_loss_is_the_mean_over_labelled_pixels():
    logits, mask = torch.randn(2, 21, 5, 7, requires_grad=True), torch.randint(0, 21, (2, 5, 7))
    mask[0, :3] = 255
    torch.testing.assert_close(
        training.segmentation_loss(logits, mask), F.cross_entropy(logits, mask, ignore_index=255)
    )
    nothing = training.segmentation_loss(logits, torch.full_like(mask, 255))
    nothing.backward()
    assert nothing == 0 and logits.grad.abs().max() == 0


def test_an_interrupted_run_continues_to_the_same_weights(devkit, tmp_path, monkeypatch):
    straight = run(devkit, tmp_path / 'a', TRAIN_ITERATION=7, TRAIN_SAVE_ITERS=2)
    assert sorted(path.name for path in (tmp_path / 'a').iterdir()) == [
        '.e.lock',
        'e.jsonl',
        'e.log',
        'e.pth',
        'e_itr2.pth',
        'e_itr4.pth',
        'e_itr6.pth',
    ]

    save = set_up.save_checkpoint

    def killed(path, *content):
        save(path, *content)
        if path.endswith('_itr4.pth'):
            raise KeyboardInterrupt

    monkeypatch.setattr(set_up, 'save_checkpoint', killed)
    with pytest.raises(KeyboardInterrupt):
        run(devkit, tmp_path / 'b', TRAIN_ITERATION=7, TRAIN_SAVE_ITERS=2)
    assert not (tmp_path / 'b' / 'e.pth').exists()
    monkeypatch.setattr(set_up, 'save_checkpoint', save)
    with pytest.raises(UserError, match='DATA_RANDOMFLIP = 0.5, now DATA_RANDOMFLIP = 0'):
        run(devkit, tmp_path / 'b', TRAIN_ITERATION=7, TRAIN_SAVE_ITERS=2, DATA_RANDOMFLIP=0)
    resumed = run(devkit, tmp_path / 'b', TRAIN_ITERATION=7, TRAIN_SAVE_ITERS=2, DATA_WORKERS=2)
    # it was killed between the checkpoint and the state after step 4
    assert 'steps: 2 … 7' in (tmp_path / 'b' / 'e.log').read_text()
    assert all(torch.equal(resumed[key], value) for key, value in straight.items())
    assert len((tmp_path / 'b' / 'e.jsonl').read_text().splitlines()) == 7


def test_the_checkpoint_carries_the_config_that_it_predicts_with(devkit, tmp_path):
    state = run(devkit, tmp_path, TRAIN_ITERATION=2, TRAIN_SAVE_ITERS=1)
    part = torch.load(tmp_path / 'e_itr1.pth', weights_only=True)
    assert state.config == part.config
    assert state.config['MODEL_NAME'] == 'deeplabv3plus' and state.config['MODEL_ASPP_OUTDIM'] == 32
    assert not [key for key in state.config if key.endswith(('ROOT', 'DIR', 'GT'))]  # no paths
    net = generate_net(prediction_config('e.pth', state.config, ['MODEL_BACKBONE_WIDTH=0.0625']))
    net.load_state_dict(state, strict=True)


def test_batch_norm_affine_is_not_trained_and_the_rest_is(devkit, tmp_path):
    before = run(devkit, tmp_path / 'a', TRAIN_ITERATION=1, TRAIN_LR=0.0)
    after = run(devkit, tmp_path / 'b', TRAIN_ITERATION=3)
    assert torch.equal(after['aspp.conv_cat.1.weight'], torch.ones(32))  # Q6
    assert torch.equal(after['backbone.bn7.weight'], torch.ones(256))
    assert not torch.equal(
        after['backbone.conv1a.weight'], before['backbone.conv1a.weight']
    )  # from scratch: not frozen
    assert not torch.equal(after['cls_conv.bias'], before['cls_conv.bias'])


def test_tensorboard_holds_input_label_and_prediction(devkit, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(devkit, tmp_path, TRAIN_ITERATION=2, TRAIN_TBLOG=True)
    events = EventAccumulator(str(tmp_path / 'e_tblog'), {'images': 0, 'scalars': 0}).Reload()
    assert {tag.split('/')[0] for tag in events.Tags()['images']} == {
        'input',
        'label',
        'prediction',
    }
    assert 'loss' in events.Tags()['scalars']


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'DATA_PSEUDO_GT': ''}, 'DATA_PSEUDO_GT is not set'),
        ({'TRAIN_BATCHES': 7}, 'TRAIN_BATCHES = 7: more than the 6 images'),
        ({'TRAIN_BATCHES': 1}, 'TRAIN_BATCHES = 1: BatchNorm needs'),
        ({'DATA_TRAIN_LIST': 'val2'}, 'val2: no such list'),
        ({'DATA_ROOT': '/nowhere'}, '/nowhere: no such folder; set DATA_ROOT'),
    ],
)
def test_bad_settings_are_found_before_anything_is_written(devkit, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run(devkit, tmp_path / 'out', **changes)
    assert not (tmp_path / 'out').exists()


def test_the_command_line_reports_one_line():
    result = run_script('train.py', '--set', 'TRAIN_ITERATIONS=5')
    assert result.returncode == 2 and result.stdout == ''
    assert result.stderr.startswith('train.py: error: TRAIN_ITERATIONS: no such config key')
    assert result.stderr.count('\n') == 1


def settings(devkit, folder, **changes):
    config = {
        **TINY,
        'DATA_ROOT': devkit,
        'DATA_PSEUDO_GT': devkit / 'SegmentationClass',
        'DATA_TRAIN_LIST': 'train',
        'MODEL_SAVE_DIR': folder / 'model',
        'TEST_SAVE_DIR': folder / 'result',
        'EXP_NAME': 'e',
        **changes,
    }
    return ['--set', *(f'{key}={value}' for key, value in config.items())]


@pytest.mark.slow
def test_two_processes_train_and_test(devkit, tmp_path):
    torchrun = ('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2')
    flags = settings(devkit, tmp_path, TRAIN_ITERATION=3) + ['--device', 'cpu']
    result = run_script('train.py', *flags, launcher=torchrun)
    assert result.returncode == 0, result.stderr
    assert 'batch: 4 (2 × 2)' in result.stdout and result.stdout.count('wrote') == 1
    assert len((tmp_path / 'model' / 'e.jsonl').read_text().splitlines()) == 3

    flags += ['--jobs', '0', '--out_dir']
    assert run_script('test.py', *flags, tmp_path / 'two', launcher=torchrun).returncode == 0
    assert run_script('test.py', *flags, tmp_path / 'one').returncode == 0
    files = sorted((tmp_path / 'one').glob('*.png'))
    assert len(files) == 3
    assert all(path.read_bytes() == (tmp_path / 'two' / path.name).read_bytes() for path in files)


@pytest.mark.slow
def test_it_learns_a_toy_set_from_scratch(tmp_path):
    devkit = make_devkit(tmp_path / 'VOC2012', train=60, val=20)
    flags = settings(
        devkit,
        tmp_path,
        TRAIN_ITERATION=150,
        TRAIN_BATCHES=8,
        TRAIN_LR=0.02,
        TRAIN_BN_MOM=0.1,
        DATA_RANDOMCROP=64,
        MODEL_ASPP_OUTDIM=64,
    )
    result = run_script('train.py', *flags)
    assert result.returncode == 0, result.stderr
    result = run_script('test.py', *flags)
    assert result.returncode == 0, result.stderr
    matrix = sum(
        confusion(
            read_mask(path, VOC), read_mask(devkit / 'SegmentationClass' / path.name, VOC), 21
        )
        for path in (tmp_path / 'result' / 'e' / 'val_crf_none').glob('*.png')
    )
    assert matrix.sum() == 20 * 64 * 72
    assert iou(matrix)[:2].mean() > 80
    assert (
        f'{np.round(iou(matrix)[1], 2):.2f}' in result.stdout
    )  # the printed table is of the same predictions
