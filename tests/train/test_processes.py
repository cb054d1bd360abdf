"""Training over two real processes gives what one process gives."""

import json
import os
import socket

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import nn

from net import generate_net
from recipe import fill
from segmentation_toy import config_of
from tool.run.errors import UserError
from tool.train import processes
from tool.train.engine import TrainingRun, TrainOptions, fit
from tool.train.layer_types import BATCH_NORMS
from tool.train.log import RunLog
from utils.training import mean_labelled, segmentation_loss


class _Random(torch.utils.data.Dataset):
    """Random pictures and masks with a different share of ignored pixels each."""

    def __len__(self):
        return 10

    def __getitem__(self, key):
        generator = torch.Generator().manual_seed(key[0] * 10 + key[1])
        mask = torch.randint(0, 5, (8, 8), generator=generator)
        mask[: key[1] % 8] = 255
        return {'image': torch.randn(3, 8, 8, generator=generator), 'mask': mask}


def _train(prefix: str) -> None:
    device = processes.start('cpu')
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3, padding=2))
    log = RunLog(prefix) if processes.is_main() else None
    run = TrainingRun(
        net,
        torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9),
        lambda batch, step: {
            'loss': segmentation_loss(net(batch['image']), batch['mask'], batch['labelled'])
        },
        _Random(),
        lr_factor=lambda step: 1,
        device=device,
        options=TrainOptions(prefix, batch_size=4, max_steps=6, seed=3),
        batch_facts=mean_labelled,
    )
    fit(run, log=log)
    if processes.is_main():
        torch.save(net.state_dict(), prefix + '.pth')
    processes.barrier()
    processes.stop()


def _process(rank: int, prefix: str, port: int) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE='2',
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    _train(prefix)


def test_two_processes_equal_one(tmp_path):
    _train(str(tmp_path / 'one'))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_process, (str(tmp_path / 'two'), port), nprocs=2)
    one, two = (torch.load(tmp_path / f'{name}.pth', weights_only=True) for name in ('one', 'two'))
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-5, atol=1e-6)
    records = [
        [json.loads(line) for line in open(tmp_path / f'{name}.jsonl')] for name in ('one', 'two')
    ]
    assert [record['step'] for record in records[1]] == list(range(6))
    for single, double in zip(*records):
        assert abs(single['loss'] - double['loss']) < 1e-5 * single['loss']
    assert records[0][5]['loss'] < records[0][0]['loss']


def test_one_process_needs_no_group():
    assert (processes.rank(), processes.world(), processes.is_main()) == (0, 1, True)
    values, net = torch.ones(2), nn.Conv2d(1, 1, 1)
    processes.barrier()
    assert processes.total(values) is values and processes.wrap(net, torch.device('cpu')) is net
    assert processes.sync_norms(net, torch.device('cpu')) is net


@pytest.mark.parametrize(
    'variables, part',
    [
        ({'WORLD_SIZE': 'x', 'RANK': '0'}, 'RANK=0 WORLD_SIZE=x: RANK must be a number'),
        ({'WORLD_SIZE': '-2', 'RANK': '0'}, 'RANK=0 WORLD_SIZE=-2: RANK must be a number'),
        ({'WORLD_SIZE': '2'}, 'WORLD_SIZE=2 is set and RANK is not'),
        (
            {'WORLD_SIZE': '2', 'RANK': '0'},
            'RANK=0 WORLD_SIZE=2 are set and MASTER_ADDR is not: start the command with torchrun, '
            'or unset',
        ),
        (
            {
                'WORLD_SIZE': '2',
                'RANK': '0',
                'MASTER_ADDR': '127.0.0.1',
                'MASTER_PORT': '0',
                'PPC_TIMEOUT': '1',
            },
            'RANK=0 WORLD_SIZE=2: cannot reach the other processes at 127.0.0.1:0',
        ),
        (
            {'WORLD_SIZE': '2', 'RANK': '0', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': 'x'},
            'cannot reach the other processes at 127.0.0.1:x',
        ),
    ],
)
def test_variables_of_torchrun_without_torchrun_are_one_line(monkeypatch, variables, part):
    for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT', 'LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        processes.start('cpu')
    assert part in str(caught.value)


def test_norms_are_synchronised_on_gpus_and_frozen_ones_stay_frozen(monkeypatch):
    net = fill(generate_net(config_of('SEAM_deeplabv1_resnet38', MODEL_BACKBONE_WIDTH=1 / 16)))
    net.backbone.fine_tune = True
    x = torch.rand(1, 3, 17, 17)
    before = net.eval()(x)
    monkeypatch.setattr(processes, 'world', lambda: 2)
    assert processes.sync_norms(net, torch.device('cpu')) is net
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in net.modules())
    synced = processes.sync_norms(net, torch.device('cuda', 0))
    norms = [module for module in synced.modules() if isinstance(module, BATCH_NORMS)]
    assert len(norms) == 37 + 2 and all(isinstance(module, nn.SyncBatchNorm) for module in norms)
    torch.testing.assert_close(synced(x), before)
    synced.train()
    assert {
        module.training
        for module in synced.backbone.modules()
        if isinstance(module, nn.SyncBatchNorm)
    } == {False}
    assert synced.bn_fov.training and synced.bn_fov.momentum == 3e-4
