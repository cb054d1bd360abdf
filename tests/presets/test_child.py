"""tool/presets/child.py: signals, and what a log ended with."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mini import ROOT
from tool.presets.child import last_line

# A pipeline of one stage, started as a shell starts a command in the background: Ctrl-C is ignored.
PIPELINE = """
import signal, sys
from tool.presets.child import run_script
signal.signal(signal.SIGINT, signal.SIG_IGN)
work = sys.argv[1]
print(run_script([f'{work}/stage.py', f'{work}/started'], work, f'{work}/log', goes_on=False))
"""
STAGE = """
import sys, time
open(sys.argv[1], 'w').close()
time.sleep(60)
"""


@pytest.mark.skipif(os.name != 'posix', reason='signals')
def test_a_stage_heeds_ctrl_c_even_in_the_background(tmp_path):
    (tmp_path / 'stage.py').write_text(STAGE)
    pipeline = subprocess.Popen(
        [sys.executable, '-c', PIPELINE, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(400):
        if (tmp_path / 'started').exists():
            break
        time.sleep(0.05)
    pipeline.send_signal(signal.SIGINT)
    out, _ = pipeline.communicate(timeout=30)
    assert out == f'(130, {int(signal.SIGINT)})\n'


def test_last_line_is_of_the_last_run(tmp_path):
    log = tmp_path / 'log'
    log.write_text('$ python a\na.py: error: old\n$ python a\nstep 1\nKilled\n\n')
    assert last_line(str(log)) == 'Killed'
