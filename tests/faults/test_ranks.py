"""A process of torchrun dies: the others end with at most one line, and no process is left."""

import os
import signal

import pytest

from faults.stages import contrast_infer, contrast_train, temporary_files
from process_ids import below, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='asks Linux for processes'),
]


def torchrun(world, words, logs):
    """Start a command in two processes; what they print goes to files below `logs`."""
    flags = ['--standalone', '--nproc_per_node', 2, '--redirects', 3, '--log-dir', logs]
    return world.server.start(['-m', 'torch.distributed.run', *flags, *words])


def ranks(started, script):
    """{rank: process id} of the processes that run a script."""
    found = {}
    for process_id in below(started.pid):
        try:
            command = open(f'/proc/{process_id}/cmdline').read()
            environment = open(f'/proc/{process_id}/environ').read().split('\0')
        except OSError:
            continue
        variables = dict(item.partition('=')[::2] for item in environment)
        if script in command and 'RANK' in variables:
            found.setdefault(int(variables['RANK']), process_id)
    return found


def lines(logs):
    """What the processes have printed on stderr."""
    return ''.join(path.read_text() for path in logs.rglob('stderr.log')).splitlines()


@pytest.mark.parametrize('killed', ['rank 1', 'torchrun'])
def test_training(world, tmp_path, killed):
    out = tmp_path / 'out'
    words = [*contrast_train(world, out), '--max_steps', 10_000]
    started = torchrun(world, words, tmp_path / 'logs')
    assert wait_until(lambda: list(out.glob('seam.state-*.pth'))), started.text()
    processes = started.processes()
    assert set(ranks(started, 'contrast_train.py')) == {0, 1}
    victim = started.pid if killed == 'torchrun' else ranks(started, 'contrast_train.py')[1]
    os.kill(victim, signal.SIGKILL)
    ended = started.end(processes)
    assert ended.code != 0
    printed = lines(tmp_path / 'logs')
    assert not any('Traceback' in line for line in printed), printed
    messages = [line for line in printed if ': error: ' in line or ': stopped by ' in line]
    assert len(messages) <= 1, printed
    assert temporary_files(out) == []


def test_inference(world, tmp_path):
    out = tmp_path / 'out'
    started = torchrun(world, contrast_infer(world, out), tmp_path / 'logs')
    assert wait_until(lambda: set(ranks(started, 'contrast_infer.py')) == {0, 1}), started.text()
    processes = started.processes()
    os.kill(ranks(started, 'contrast_infer.py')[1], signal.SIGKILL)
    ended = started.end(processes)
    assert ended.code != 0
    assert not any('Traceback' in line for line in lines(tmp_path / 'logs'))
    assert temporary_files(out) == []
    ended = world.server.run(contrast_infer(world, out))
    assert ended.code == 0, ended.text
