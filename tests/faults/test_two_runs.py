"""A second run that writes where a first one is at work is refused in one line, and the first ends
as if it had been alone. The pipeline waits instead."""

import os
import shutil
import signal
import time

import pytest

from faults.stages import STAGES, results, temporary_files
from process_ids import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, 'SIGSTOP'), reason='the first run is halted'),
]
# what a stage writes once the output is its own
BEGUN = ('.records-0.jsonl', '*.jsonl', '*.png', '*.jpg')


def has_begun(out):
    return any(next(out.rglob(pattern), None) for pattern in BEGUN)


def halted(world, stage, out, tries=20):
    """A run of a stage that is halted after it has begun to write, and before it is complete."""
    started = world.server.start(stage.command(world, out), cwd=stage.cwd)
    while not has_begun(out) and started.poll() is None:
        time.sleep(0.001)
    if started.poll() is None:
        os.kill(started.pid, signal.SIGSTOP)
        if set(results(out)) < set(results(world.out(stage.name))) or stage.trains:
            return started
        os.kill(started.pid, signal.SIGCONT)
    assert started.end().code == 0, started.text()
    assert tries, 'it is always faster than this test'
    shutil.rmtree(out)
    return halted(world, stage, out, tries - 1)


def check_whole(world, name, out):
    assert results(out) == results(world.out(name))
    assert temporary_files(out) == []


@pytest.mark.parametrize('name', [name for name in STAGES if name != 'pipeline'])
def test_the_second_run_is_refused(world, tmp_path, name):
    stage = STAGES[name]
    world.out(name)
    out = tmp_path / 'out'
    first = halted(world, stage, out)
    try:
        second = world.server.run((stage.other or stage.command)(world, out), cwd=stage.cwd)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    ended = first.end()
    assert ended.code == 0, ended.text
    assert second.code == 2 and 'Traceback' not in second.text, second.text
    (line,) = second.messages()
    assert 'another' in line and ('is writing there' in line or 'is running' in line)
    check_whole(world, name, out)


def test_the_second_pipeline_waits(world, tmp_path):
    stage = STAGES['pipeline']
    world.out('pipeline')
    out = tmp_path / 'out'
    first = halted(world, stage, out)
    second = world.server.start(stage.command(world, out))
    assert wait_until(lambda: 'waiting for the pipeline that works in' in second.text())
    os.kill(first.pid, signal.SIGCONT)
    assert first.end().code == 0 and second.end().code == 0, second.text()
    assert second.text().count(' complete (') == 3
    check_whole(world, 'pipeline', out)
