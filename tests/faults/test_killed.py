"""Every stage, killed with SIGKILL at random moments and started again, gives the files of an
undisturbed run, byte by byte, and leaves no temporary file and no process behind.

PPC_FAULTS=10 tries ten moments of every stage in place of two.
"""

import os
import random
import shutil
import signal

import pytest

from faults.server import wait_for
from faults.stages import STAGES, results, temporary_files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, 'fork'), reason='stages are forked'),
]
MOMENTS = int(os.environ.get('PPC_FAULTS', 2))


def check_equal(out, world, name):
    """The output of a disturbed run is that of the undisturbed one, and nothing else is there."""
    whole = results(world.out(name))
    found = results(out)
    assert sorted(found) == sorted(whole)
    assert [path for path in whole if found[path] != whole[path]] == []
    assert temporary_files(out) == []


def kill_at(world, stage, out, share):
    """Start a stage and kill it; `share` is the moment, as a part of the undisturbed run's time.

    Returns:
        Whether it was killed; False if it had ended before.
    """
    started = world.server.start(stage.command(world, out), cwd=stage.cwd)
    runs = wait_for(started, share * world.seconds[stage.name])
    processes = started.processes()
    if runs:
        started.send_signal(signal.SIGKILL)
    ended = started.end(processes)
    assert ended.code in (0, -signal.SIGKILL), ended.text
    return ended.code != 0


@pytest.mark.parametrize('name', STAGES)
def test_a_killed_stage_goes_on_to_the_same_bytes(world, tmp_path, name):
    stage = STAGES[name]
    world.out(name)
    draw = random.Random(f'{name} {MOMENTS}')
    out = tmp_path / 'out'
    kills = 0
    for number in range(MOMENTS):
        # one moment in every part of the run's time, in any order of the parts
        share = draw.uniform(number, number + 1) / MOMENTS
        while not kill_at(world, stage, out, share):
            # it was complete already: begin again, and kill it earlier
            check_equal(out, world, name)
            shutil.rmtree(out)
            share *= 0.7
        kills += 1
    ended = world.server.run(stage.command(world, out), cwd=stage.cwd)
    assert ended.code == 0, ended.text
    check_equal(out, world, name)
    assert kills == MOMENTS
