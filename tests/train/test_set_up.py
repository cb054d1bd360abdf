"""tool/train/set_up.py: a run from start to weights, continued, and what its log says; and the
runs that are refused, because they would replace or lose something."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from full_disk import files_of_at_most
from tool.files.checkpoints import class_set_of, load_checkpoint, save_checkpoint, training_of
from tool.method.class_set import ClassSet
from tool.run.errors import UserError
from tool.train import set_up
from tool.train.engine import TrainingRun, TrainOptions
from tool.train.inputs import labels_input, list_input
from tool.train.random_numbers import sample_rng
from tool.train.session_lock import only_run_of


class Noise(torch.utils.data.Dataset):
    """Eight noisy vectors, different in every epoch."""

    def __len__(self):
        return 8

    def __getitem__(self, key):
        return {'x': torch.from_numpy(sample_rng(7, *key).standard_normal(6, dtype='float32'))}


def trained(session, stop=None, settings=None, on_log=None, classes=None, run=None, **options):
    """A run of `set_up.train`, broken off after `stop` steps; returns its final weights, if any.

    `run` holds further fields of its TrainingRun.
    """
    options = TrainOptions(str(session), batch_size=4, max_steps=6, seed=3, **options)
    device = set_up.start('cpu', options.seed)
    net, forward = set_up.place(nn.Linear(6, 1), device, options)

    def lr_factor(step):
        if step == stop:
            raise KeyboardInterrupt
        return 1 - step / 6

    set_up.train(
        TrainingRun(
            net,
            torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
            lambda batch, step: {'loss': (forward(batch['x']) ** 2).mean()},
            Noise(),
            lr_factor=lr_factor,
            device=device,
            options=options,
            settings=settings or {},
            facts={'images': 8},
            on_log=on_log,
            classes=classes,
            **{'notes': ['a note'], **(run or {})},
        )
    )
    if options.dry_run:
        return None
    return torch.load(f'{session}.pth', weights_only=True)


def test_a_run_broken_off_continues_to_the_same_weights(tmp_path):
    whole = trained(tmp_path / 'whole', save_every=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        '.whole.lock',
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


def test_a_checkpoint_on_the_way_is_there_before_the_state_of_its_step(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(set_up.States, 'save', killed)
        trained(tmp_path / 'run', save_every=4, run={'checkpoint_every': 4})
    # without it, a run that continues from the state would never write it
    assert (tmp_path / 'run_itr4.pth').exists()


def test_a_state_of_other_settings_is_refused_and_can_be_started_over(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / 'run', stop=5, save_every=2, settings={'lr': 1})
    with pytest.raises(UserError, match='lr = 1, now lr = 2'):
        trained(tmp_path / 'run', save_every=2, settings={'lr': 2})
    whole = trained(tmp_path / 'whole')
    again = trained(tmp_path / 'run', save_every=2, settings={'lr': 2}, start_over=True)
    assert all(torch.equal(again[key], value) for key, value in whole.items())


def test_a_dry_run_makes_the_checks_and_nothing_else(tmp_path, capsys):
    trained(tmp_path / 'run', dry_run=True)
    assert list(tmp_path.iterdir()) == []
    out = capsys.readouterr().out
    assert f'{tmp_path}/run.pth: steps 0 … 6 of 8 pictures, batches of 4; about ' in out
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / 'run', stop=5, save_every=2, settings={'lr': 1})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match='lr = 1, now lr = 2'):
        trained(tmp_path / 'run', save_every=2, settings={'lr': 2}, dry_run=True)
    trained(tmp_path / 'run', save_every=2, settings={'lr': 1}, dry_run=True)
    assert 'steps 4 … 6 of 8 pictures, batches of 4' in capsys.readouterr().out
    trained(tmp_path / 'run', settings={'lr': 2}, dry_run=True, start_over=True)
    assert '2 training states would be removed' in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before


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


def data(names=('a', 'b'), label=1.0):
    return {'inputs': [list_input('l.txt', list(names)), labels_input('c.npy', np.array([label]))]}


@pytest.mark.parametrize(
    'now, changed',
    [
        (data(names=['a', 'c']), 'the list l.txt'),
        (data(names=['b', 'a'], label=0), 'the list l.txt'),
        (data(label=0), 'the labels in c.npy'),
    ],
)
def test_a_run_continues_only_on_the_data_that_it_learned_from(tmp_path, now, changed):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / 'run', stop=5, save_every=2, run=data())
    expected = f'run.state-4.pth: {changed} changed since this state was written; .* --no_resume'
    with pytest.raises(UserError, match=expected):
        trained(tmp_path / 'run', save_every=2, run=now)
    assert (tmp_path / 'run.state-4.pth').exists()
    trained(tmp_path / 'run', save_every=2, run=data())
    assert 'steps: 4 … 6' in (tmp_path / 'run.log').read_text()


def test_starting_over_takes_other_data(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / 'run', stop=5, save_every=2, run=data())
    trained(tmp_path / 'run', save_every=2, run=data(label=0), start_over=True)
    assert 'steps: 6' in (tmp_path / 'run.log').read_text()


def test_the_same_run_again_gives_the_same_file(tmp_path):
    trained(tmp_path / 'run', settings={'lr': 1})
    trained(tmp_path / 'other name', settings={'lr': 1})
    first = (tmp_path / 'run.pth').read_bytes()
    assert (tmp_path / 'other name.pth').read_bytes() == first
    trained(tmp_path / 'run', settings={'lr': 1})  # it may replace its own
    assert (tmp_path / 'run.pth').read_bytes() == first


@pytest.mark.parametrize(
    'settings, run, difference',
    [
        ({'lr': 2}, {'stage': 'cam'}, 'lr = 1, now lr = 2'),
        ({'lr': 1}, {'stage': 'aff'}, 'stage = cam, now stage = aff'),
    ],
)
def test_weights_of_another_training_are_not_replaced(tmp_path, settings, run, difference):
    trained(tmp_path / 'run', settings={'lr': 1}, run={'stage': 'cam'})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    expected = f'run.pth: is of a training with {difference}; use another session name'
    for start_over in (False, True):
        with pytest.raises(UserError, match=expected):
            trained(tmp_path / 'run', settings=settings, run=run, start_over=start_over)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    'now, changed',
    [(data(names=['a', 'c']), 'the list l.txt'), (data(label=0), 'the labels in c.npy')],
)
def test_weights_of_other_data_are_replaced_only_when_told_to_start_over(tmp_path, now, changed):
    trained(tmp_path / 'run', run=data())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    expected = f'run.pth: {changed} changed since it was trained; .* --no_resume to train anew'
    for dry_run in (False, True):
        with pytest.raises(UserError, match=expected):
            trained(tmp_path / 'run', run=now, dry_run=dry_run)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    trained(tmp_path / 'run', run=now, start_over=True)
    line = f'run.pth: {changed} changed since it was trained; this run replaces it'
    assert line in (tmp_path / 'run.log').read_text()
    trained(tmp_path / 'run', run=now)  # it is of this data now


def test_a_run_on_other_data_that_is_broken_off_needs_no_second_consent(tmp_path):
    trained(tmp_path / 'run', run=data())
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / 'run', stop=5, save_every=2, run=data(label=0), start_over=True)
    with pytest.raises(UserError, match='state-4.pth: the labels in c.npy changed'):
        trained(tmp_path / 'run', save_every=2, run=data())
    trained(tmp_path / 'run', save_every=2, run=data(label=0))
    assert 'steps: 4 … 6' in (tmp_path / 'run.log').read_text()


def test_weights_that_do_not_say_what_they_learned_from_are_not_replaced(tmp_path):
    save_checkpoint(str(tmp_path / 'run.pth'), {}, training={'settings': {'stage': ''}})
    with pytest.raises(UserError, match='run.pth: does not say which training wrote it'):
        trained(tmp_path / 'run')


@pytest.mark.parametrize('content', ['state dict', b'', b'something else'])
def test_weights_of_unknown_origin_are_not_replaced(tmp_path, content):
    path = tmp_path / 'run.pth'
    if content == 'state dict':
        torch.save({'weight': torch.ones(1, 6), 'bias': torch.ones(1)}, path)
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(UserError, match='run.pth: does not say which training wrote it'):
        trained(tmp_path / 'run')
    assert path.read_bytes() == before


def test_weights_that_the_run_reads_are_not_replaced(tmp_path):
    trained(tmp_path / 'run')
    os.link(tmp_path / 'run.pth', tmp_path / 'link.pth')
    for name in ('run.pth', 'link.pth'):
        with pytest.raises(UserError, match='run.pth: this training reads it and would replace it'):
            trained(tmp_path / 'run', run={'reads': [str(tmp_path / name)]})


def test_further_checkpoints_are_kept_from_other_runs_too(tmp_path):
    kept = {'checkpoint_every': 2}
    trained(tmp_path / 'run', settings={'lr': 1}, run=kept)
    record = training_of(load_checkpoint(str(tmp_path / 'run_itr2.pth')))
    assert record['settings'] == {'stage': '', 'lr': 1} and record['inputs'] == {}
    (tmp_path / 'run.pth').unlink()
    with pytest.raises(UserError, match='run_itr2.pth: is of a training with lr = 1, now lr = 2'):
        trained(tmp_path / 'run', settings={'lr': 2}, run=kept)
    trained(tmp_path / 'run', settings={'lr': 2}, run={'checkpoint_every': 3, 'stage': ''})


def test_a_second_run_of_a_session_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(set_up, 'only_run_of', lambda session: only_run_of(session, patience=0))
    with only_run_of(str(tmp_path / 'run')):
        with pytest.raises(UserError, match='run: another training of this session name is runn'):
            trained(tmp_path / 'run')
        trained(tmp_path / 'run2')
    trained(tmp_path / 'run')


@pytest.mark.parametrize(
    'name, reason', [('', 'ends in a folder'), ('file/run', 'file is no folder')]
)
def test_a_session_name_that_cannot_be_written(tmp_path, name, reason):
    (tmp_path / 'file').write_text('')
    for dry_run in (False, True):
        with pytest.raises(UserError, match=reason):
            trained(f'{tmp_path}/{name}', dry_run=dry_run)


@pytest.mark.parametrize('ending', ['.log', '.jsonl'])
@pytest.mark.parametrize('make', [os.mkdir, os.mkfifo])
def test_a_log_that_cannot_be_written_ends_the_run_before_it_touches_the_other(
    tmp_path, ending, make
):
    other = tmp_path / {'.log': 'run.jsonl', '.jsonl': 'run.log'}[ending]
    other.write_text('of the run before\n')
    make(tmp_path / f'run{ending}')
    with pytest.raises(UserError, match=f'run{ending}: cannot be written'):
        trained(tmp_path / 'run')
    assert other.read_text() == 'of the run before\n'


def failing(path, monkeypatch):
    """Let the file of a path be on a disk that is full."""
    write = set_up.save_checkpoint

    def save(target, *rest):
        limit = 100 if Path(target) == path else 10**9
        with files_of_at_most(limit):
            write(target, *rest)

    monkeypatch.setattr(set_up, 'save_checkpoint', save)


def test_a_full_disk_at_the_end_leaves_the_states_to_continue_from(tmp_path, monkeypatch):
    whole = trained(tmp_path / 'whole')
    with monkeypatch.context() as patch:
        failing(tmp_path / 'run.pth', patch)
        expected = 'run.pth: cannot be written .* the same command continues after step 4$'
        with pytest.raises(UserError, match=expected):
            trained(tmp_path / 'run', save_every=2)
    assert not (tmp_path / 'run.pth').exists()
    again = trained(tmp_path / 'run', save_every=2)
    assert all(torch.equal(again[key], value) for key, value in whole.items())


@pytest.mark.parametrize(
    'limit, save_every, path', [(400, 0, 'run.log'), (2000, 2, 'run.state-2.pth')]
)
def test_a_full_disk_in_the_middle_is_one_line(tmp_path, capsys, limit, save_every, path):
    # capsys: what is printed goes to no file of limited size
    notes = ['a long line'] * 50 if not save_every else []
    expected = f'{path}: cannot be written .*make room and give the same command again'
    with files_of_at_most(limit), pytest.raises(UserError, match=expected):
        trained(tmp_path / 'run', save_every=save_every, run={'notes': notes})
    assert not (tmp_path / 'run.pth').exists() and not list(tmp_path.glob('*.tmp'))
    trained(tmp_path / 'run', save_every=2)
