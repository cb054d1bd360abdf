"""contrast_train.py, killed or stopped at any moment: the same command again ends with the same weights, bit by bit."""
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
    for _ in range(6):
        process = start(data, session)
        time.sleep(draw.uniform(0, whole[1] / 2))
        process.kill()
        killed += end(process) == -signal.SIGKILL
    process = start(data, session, '--no_resume')
    wait_for(process, lambda: list(tmp_path.glob('.run.state-*.tmp')))  # most likely while a state is being written
    process.kill()
    end(process)
    assert killed
    assert end(start(data, session)) == 0
    assert same(weights(whole[0]), weights(session))
    assert (tmp_path / 'run.jsonl').read_bytes() == whole[0].with_suffix('.jsonl').read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['run.jsonl', 'run.log', 'run.out', 'run.pth']


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
    assert f'contrast_train.py: stopped by {number.name} after step {steps[-1]}; the same command continues' in output
    assert 'Traceback' not in output
    process = start(data, session, '--save_every', 5)
    assert end(process) == 0 and f'steps: {steps[-1]} … {STEPS}' in (tmp_path / 'run.log').read_text()
    assert same(weights(whole[0]), weights(session))
