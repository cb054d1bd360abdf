"""tool/run/loader.py: the order of the keys, small machines, and errors of one line."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from mini import ROOT
from tool.run.errors import UserError
from tool.run.loader import load, pinned
from tool.run.workers import TIMEOUT_VARIABLE


class Squares:
    """Slow where the index is small, so that later samples are ready first."""

    def __getitem__(self, index):
        if index == 13:
            raise UserError('a13.jpg: damaged')
        time.sleep(0.05 if index < 2 else 0)
        return {'square': torch.tensor(index * index), 'name': f'a{index}', 'number': index}


class Bad:
    """Samples whose loading goes wrong: it never ends, or its process is killed."""

    def __init__(self, kind):
        self.kind = kind

    def __getitem__(self, index):
        if self.kind == 'stuck':
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize('num_workers', [0, 1, 3])
def test_samples_come_in_the_order_of_their_keys(num_workers):
    keys = [5, 0, 1, 7, 8, 9, 2, 3]
    with load(Squares(), keys, num_workers) as samples:
        loaded = list(samples)
    assert [sample['number'] for sample in loaded] == keys
    assert [sample['square'].item() for sample in loaded] == [key * key for key in keys]
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize('num_workers', [0, 2])
def test_batches_are_collated(num_workers):
    with load(Squares(), [[1, 2], [3, 4, 5]], num_workers, batched=True) as batches:
        first, second = batches
    assert first['square'].tolist() == [1, 4] and first['name'] == ['a1', 'a2']
    assert second['square'].tolist() == [9, 16, 25]


@pytest.mark.parametrize('num_workers', [0, 2])
def test_no_samples(num_workers):
    with load(Squares(), [], num_workers) as samples:
        assert list(samples) == []


@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_mistake_in_the_data_is_raised_in_its_turn(num_workers):
    with load(Squares(), [11, 12, 13, 14], num_workers) as samples:
        assert [next(samples)['number'] for _ in range(2)] == [11, 12]
        with pytest.raises(UserError) as caught:
            next(samples)
    assert str(caught.value) == 'a13.jpg: damaged'
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    'kind, message',
    [
        ('killed', r'a process that loads pictures was killed by SIGKILL .* fewer DATA_WORKERS'),
        ('stuck', r'a process that loads pictures has not answered for 1 s .* PPC_TIMEOUT='),
    ],
)
def test_a_worker_that_fails_is_one_line(monkeypatch, kind, message):
    monkeypatch.setenv(TIMEOUT_VARIABLE, '1')
    with load(Bad(kind), range(4), 2, flag='DATA_WORKERS') as samples:
        with pytest.raises(UserError, match=message):
            next(samples)
    assert multiprocessing.active_children() == []


def test_loading_ends_when_it_is_asked_to():
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 1

    with load(Bad('stuck'), range(4), 2, stop=stop) as samples:
        assert list(samples) == []
    assert multiprocessing.active_children() == []


class Layouts:
    """Tensors of several layouts and types."""

    def __getitem__(self, index):
        picture = torch.arange(24.0).reshape(1, 2, 3, 4)
        return {
            'channels last': picture.to(memory_format=torch.channels_last),
            'turned': picture[0, 0].T,
            'part': picture[..., ::2],
            'number': torch.tensor(3.5),
            'empty': torch.zeros(0, 3),
            'bfloat16': picture.bfloat16(),
            'array': np.arange(3),
        }


def test_tensors_keep_values_types_and_order_in_memory():
    """Layers may compute other bits for another order of the dimensions in memory."""
    with load(Layouts(), [0], 1) as samples:
        (back,) = samples
    for name, expected in Layouts()[0].items():
        if name == 'array':
            np.testing.assert_array_equal(back[name], expected)
            continue
        assert back[name].dtype == expected.dtype
        assert torch.equal(back[name], expected)
    assert back['channels last'].is_contiguous(memory_format=torch.channels_last)
    assert back['turned'].stride() == (1, 4)


def test_all_tensors_of_a_sample_are_pinned(monkeypatch):
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda tensor: tensor + 100)
    one = torch.tensor(1)
    sample = pinned({'views': [one, one], 'size': (3, 4), 'name': 'a', 'image': one})
    assert sample['size'] == (3, 4) and sample['name'] == 'a'
    assert [view.item() for view in sample['views']] == [101, 101] and sample['image'] == 101


# 20 MB a sample, where there is room for 64 kB of shared memory.
LARGE = """
import torch
from tool.run.loader import load

class Large:
    def __getitem__(self, index):
        return torch.full((5, 1000, 1000), float(index))

with load(Large(), range(6), 2) as samples:
    print([sample[0, 0, 0].item() for sample in samples])
"""
MOUNT = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
UNSHARE = ['unshare', '--mount', 'sh', '-c', MOUNT, 'sh']


def can_mount():
    """True where /dev/shm can be replaced for one command."""
    try:
        return subprocess.run([*UNSHARE, 'true'], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not can_mount(), reason='needs root on Linux, to mount a small /dev/shm')
def test_no_shared_memory_is_needed():
    """A container has 64 MB of it; PyTorch's DataLoader hung or ended in tracebacks."""
    done = subprocess.run(
        [*UNSHARE, sys.executable, '-c', LARGE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == '[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]\n', done.stderr
