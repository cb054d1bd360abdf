"""tool/train/set_up.py: a run from start to weights, continued, and what its log says."""

import pytest
import torch
from torch import nn

from tool.files.checkpoints import class_set_of, load_checkpoint
from tool.method.class_set import ClassSet
from tool.run.errors import UserError
from tool.train import set_up
from tool.train.engine import TrainingRun, TrainOptions
from tool.train.random_numbers import sample_rng


class Noise(torch.utils.data.Dataset):
    """Eight noisy vectors, different in every epoch."""

    def __len__(self):
        return 8

    def __getitem__(self, key):
        return {'x': torch.from_numpy(sample_rng(7, *key).standard_normal(6, dtype='float32'))}


def trained(session, stop=None, settings=None, on_log=None, classes=None, **options):
    """A run of `set_up.train`, broken off after `stop` steps; returns its final weights."""
    options = TrainOptions(str(session), batch_size=4, max_steps=6, seed=3, **options)
    device = set_up.start('cpu', options.seed)
    net, forward = set_up.place(nn.Linear(6, 1), device, options)

    def after_step(done):
        if done == stop:
            raise KeyboardInterrupt

    set_up.train(
        TrainingRun(
            net,
            torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
            lambda batch, step: {'loss': (forward(batch['x']) ** 2).mean()},
            Noise(),
            lr_factor=lambda step: 1 - step / 6,
            device=device,
            options=options,
            settings=settings or {},
            facts={'images': 8},
            notes=['a note'],
            on_log=on_log,
            after_step=after_step,
            classes=classes,
        )
    )
    return torch.load(f'{session}.pth', weights_only=True)


def test_a_run_broken_off_continues_to_the_same_weights(tmp_path):
    whole = trained(tmp_path / 'whole', save_every=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'whole.jsonl',
        'whole.log',
        'whole.pth',
    ]
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / 'run', stop=5, save_every=2)
    assert not (tmp_path / 'run.pth').exists()
    continued = trained(tmp_path / 'run', save_every=2)
    assert all(torch.equal(continued[key], value) for key, value in whole.items())
    assert 'steps: 4 … 6' in (tmp_path / 'run.log').read_text()


def test_a_state_of_other_settings_is_refused_and_can_be_started_over(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / 'run', stop=5, save_every=2, settings={'lr': 1})
    with pytest.raises(UserError, match='lr = 1, now lr = 2'):
        trained(tmp_path / 'run', save_every=2, settings={'lr': 2})
    whole = trained(tmp_path / 'whole')
    again = trained(tmp_path / 'run', save_every=2, settings={'lr': 2}, start_over=True)
    assert all(torch.equal(again[key], value) for key, value in whole.items())


def test_the_log_begins_with_the_facts(tmp_path):
    logs = []
    trained(tmp_path / 'run', accumulate=2, on_log=logs.append)
    lines = (tmp_path / 'run.log').read_text().splitlines()
    facts = ['seed: 3', 'device: cpu', 'amp: off', 'batch: 4 (1 × 4, 2 parts)', 'steps: 6']
    expected = ['images: 8', *facts, 'a note']
    assert lines[3] == expected[0]
    assert [line for line in lines if line in expected] == expected
    assert lines[-1] == f'wrote {tmp_path}/run.pth'
    assert len(logs) == 1 and logs[0].board is None


def test_checkpoints_and_states_are_of_the_classes_of_the_run(tmp_path):
    pets, tools = ClassSet.of(['cat', 'dog']), ClassSet.of(['saw', 'axe'])
    trained(tmp_path / 'whole', classes=pets)
    path = str(tmp_path / 'whole.pth')
    assert class_set_of(load_checkpoint(path), path) == pets
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / 'run', stop=5, save_every=2, classes=pets)
    with pytest.raises(UserError, match='classes = cat, dog, now classes = saw, axe'):
        trained(tmp_path / 'run', save_every=2, classes=tools)
    trained(tmp_path / 'run', save_every=2, classes=pets)
