"""tool/presets/lock.py and stage_process.py: who may work in a folder, and until when."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mini import ROOT
from tool.presets.lock import exclusive, stage_lock

HOLD = """
import sys, time
from tool.presets.lock import exclusive
with exclusive(sys.argv[1]):
    print('in', flush=True)
    time.sleep(float(sys.argv[2]))
"""
# A stage that nothing but its own end or SIGKILL stops.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1] + '.new', 'w') as file:
    file.write(str(os.getpid()))
os.rename(sys.argv[1] + '.new', sys.argv[1])
time.sleep(60)
"""
# A pipeline that starts the stage above.
PIPELINE = """
import sys
from tool.presets.child import run_script
from tool.presets.lock import exclusive
work = sys.argv[1]
with exclusive(work):
    run_script([f'{work}/stage.py', f'{work}/started'], work, f'{work}/log', 'w')
"""


def hold(work, seconds):
    """A process that works alone in a folder for some seconds."""
    return subprocess.Popen(
        [sys.executable, '-c', HOLD, str(work), str(seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_second_waits_and_says_so(tmp_path):
    first = hold(tmp_path, 600)
    assert first.stdout.readline() == 'in\n'
    second = hold(tmp_path, 0)
    assert second.stdout.readline() == f'waiting for the pipeline that works in {tmp_path}\n'
    assert first.poll() is None
    first.terminate()
    first.wait()
    assert second.stdout.readline() == 'in\n'
    assert second.wait() == 0


def test_a_folder_is_free_once_its_holder_is_killed(tmp_path):
    first = hold(tmp_path, 60)
    assert first.stdout.readline() == 'in\n'
    first.kill()
    first.wait()
    with exclusive(str(tmp_path)):
        pass


@pytest.mark.skipif(os.name != 'posix', reason='signals')
def test_a_stage_that_outlives_its_pipeline_keeps_the_folder_locked(tmp_path):
    (tmp_path / 'stage.py').write_text(STUBBORN)
    pipeline = subprocess.Popen([sys.executable, '-c', PIPELINE, str(tmp_path)], cwd=ROOT)
    started = tmp_path / 'started'
    for _ in range(400):
        if started.exists():
            break
        time.sleep(0.05)
    stage = int(started.read_text())
    try:
        pipeline.kill()
        pipeline.wait()
        following = hold(tmp_path, 0)
        message = f'waiting for the stage that a pipeline has left behind in {tmp_path}\n'
        assert following.stdout.readline() == message
        time.sleep(0.3)
        assert following.poll() is None
    finally:
        os.kill(stage, signal.SIGKILL)
    assert following.stdout.readline() == 'in\n'
    assert following.wait() == 0


def start_stage(work, parent, *command):
    return subprocess.run(
        [sys.executable, '-m', 'tool.presets.stage_process', str(work), str(parent), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_a_stage_runs_as_if_python_had_been_started_with_it(tmp_path):
    (tmp_path / 'beside.py').write_text('VALUE = 7')
    (tmp_path / 'stage.py').write_text(
        'import sys\nimport beside\n'
        "if __name__ == '__main__':\n    print(sys.argv, beside.VALUE)\n    sys.exit(3)\n"
    )
    script = str(tmp_path / 'stage.py')
    result = start_stage(tmp_path, os.getpid(), script, '--flag', 'a b')
    assert (result.returncode, result.stdout) == (3, f'{[script, "--flag", "a b"]} 7\n')
    result = start_stage(tmp_path, os.getpid(), '-m', 'platform')
    assert result.returncode == 0 and result.stdout


@pytest.mark.skipif(os.name != 'posix', reason='Windows does not tell that a parent has died')
def test_a_stage_whose_pipeline_is_gone_does_not_begin(tmp_path):
    result = start_stage(tmp_path, 0, '-m', 'platform')
    assert (result.returncode, result.stdout) == (143, '')


def test_a_process_pool_works_in_a_stage(tmp_path):
    """Its processes import the script again, as they do where Python was started with it."""
    (tmp_path / 'stage.py').write_text(
        'import multiprocessing\n\n\ndef square(x):\n    return x * x\n\n\n'
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        '        print(pool.map(square, [3]))\n'
    )
    result = start_stage(tmp_path, os.getpid(), str(tmp_path / 'stage.py'))
    assert result.stdout == '[9]\n', result.stderr
    stage_lock(str(tmp_path)).acquire(timeout=5)
