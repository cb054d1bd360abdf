"""SIGTERM and Ctrl-C in the middle of every stage: one line, exit code 143 or 130, and nothing
half-written or left behind."""

import os
import random
import shutil
import signal

import pytest

from faults.server import wait_for
from faults.stages import STAGES, results, temporary_files
from process_ids import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='asks Linux for handlers'),
]


def stop(world, stage, out, number, share):
    """Start a stage and send it a signal, as soon as it can end in order or later.

    Args:
        number: the signal.
        share: when it is sent, as a part of the undisturbed run's time.
    Returns:
        How it has ended; None if that was before the signal.
    """
    started = world.server.start(stage.command(world, out), cwd=stage.cwd)
    assert wait_until(lambda: started.handles_signals() or started.poll() is not None)
    runs = wait_for(started, share * world.seconds[stage.name])
    processes = started.processes()
    if runs:
        started.send_signal(number)
    ended = started.end(processes)
    if ended.code == -number and results(out) == results(world.out(stage.name)):
        return None  # it had done its work, and ended
    return ended if ended.code != 0 else None


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('name', STAGES)
def test_a_signal_ends_a_stage_in_order(world, tmp_path, name, number):
    stage = STAGES[name]
    whole = results(world.out(name))
    out = tmp_path / 'out'
    share = random.Random(f'{name} {number}').uniform(0, 0.9)
    while (ended := stop(world, stage, out, number, share)) is None:
        shutil.rmtree(out)
        share *= 0.7
    assert ended.code == 128 + number, ended.text
    assert len(ended.messages()) == 1 and 'Traceback' not in ended.text, ended.text
    assert temporary_files(out) == []
    if not stage.trains:  # a training that was stopped has written states
        found = results(out)
        assert [path for path in found if found[path] != whole.get(path)] == []
