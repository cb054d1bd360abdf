"""contrast_train.py, killed or stopped at any moment: the same command again ends with the same
weights, bit by bit."""

import os
import random
import signal
import time

import pytest
import torch

from launch import end, train
from mini import make_voc

STEPS = 24


def start(data, session, *more):
    return train(data, session, '--max_steps', STEPS, '--save_every', 3, *more)


def wait_for(process, seen):
    """Wait until `seen()` is true; False if the process ended before."""
    while not seen():
        if not process.is_alive():
            return False
        time.sleep(0.001)
    return True


def weights(session):
    return torch.load(f'{session}.pth', weights_only=True)


def same(first, second):
    return all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    make_voc(root)
    return root


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    """(session, seconds) of an uninterrupted run."""
    session = tmp_path_factory.mktemp('whole') / 'run'
    end(start(data, session.parent / 'first', '--max_steps', 1))  # the server loads torch
    begin = time.monotonic()
    assert end(start(data, session)) == 0
    return session, time.monotonic() - begin


@pytest.mark.slow
def test_two_runs_are_the_same_whoever_loads_the_pictures(data, whole, tmp_path):
    assert end(start(data, tmp_path / 'run', '--num_workers', 2, '--save_every', 0)) == 0
    assert same(weights(whole[0]), weights(tmp_path / 'run'))
    assert (tmp_path / 'run.jsonl').read_bytes() == whole[0].with_suffix('.jsonl').read_bytes()


@pytest.mark.slow
def test_killed_at_random_moments(data, whole, tmp_path):
    session, draw, killed = tmp_path / 'run', random.Random(5), 0
    for _ in range(5):
        process = start(data, session)
        time.sleep(draw.uniform(0.05, 0.5) * whole[1])
        process.kill()
        code = end(process)
        killed += code == -signal.SIGKILL
        if code == 0:  # the kill may also fall between the weights and the removal of the states
            break
    else:
        assert end(start(data, session)) == 0
    assert killed and session.with_suffix('.out').read_text().count(
        f'… {STEPS}'
    )  # a run went on from a state
    check_equal(whole[0], session)


@pytest.mark.slow
def test_killed_as_a_state_is_written(data, whole, tmp_path):
    session = tmp_path / 'run'
    for step in (6, 15):

        def writing(before=frozenset(tmp_path.glob('.*.tmp')), step=step):  # noqa: B008
            past = (tmp_path / f'run.state-{step - 3}.pth').exists()
            return (
                past
                and set(tmp_path.glob('.*.tmp')) - before
                or (tmp_path / f'run.state-{step}.pth').exists()
            )

        process = start(data, session)
        assert wait_for(process, writing)
        process.kill()
        assert end(process) == -signal.SIGKILL
    assert end(start(data, session)) == 0
    check_equal(whole[0], session)


def check_equal(whole, session):
    """A run that went on to its end is the uninterrupted one, and nothing else is left of it."""
    assert same(weights(whole), weights(session))
    assert session.with_suffix('.jsonl').read_bytes() == whole.with_suffix('.jsonl').read_bytes()
    assert sorted(path.name for path in session.parent.iterdir()) == [
        '.run.lock',
        'run.jsonl',
        'run.log',
        'run.out',
        'run.pth',
    ]


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(data, whole, tmp_path, number):
    session = tmp_path / 'run'
    process = start(data, session, '--save_every', 5)
    assert wait_for(process, lambda: (tmp_path / 'run.state-5.pth').exists())
    os.kill(process.pid, number)
    assert end(process) == 128 + number
    steps = sorted(int(path.stem.split('-')[1]) for path in tmp_path.glob('run.state-*.pth'))
    assert 5 <= steps[-1] < STEPS and not (tmp_path / 'run.pth').exists()
    output = (tmp_path / 'run.out').read_text()
    assert (
        f'contrast_train.py: stopped by {number.name} after step {steps[-1]}; the same command '
        'continues' in output
    )
    assert 'Traceback' not in output
    process = start(data, session, '--save_every', 5)
    assert (
        end(process) == 0 and f'steps: {steps[-1]} … {STEPS}' in (tmp_path / 'run.log').read_text()
    )
    assert same(weights(whole[0]), weights(session))
