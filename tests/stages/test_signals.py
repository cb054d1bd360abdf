"""A stage over pictures that a signal ends: one line, its exit code, nothing left behind."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from mini import ROOT, make_voc
from process_ids import all_end, below, wait_until
from tool.files.npy import write_npy

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='signals')
COUNT = 40


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Pictures and CAMs of them."""
    root = tmp_path_factory.mktemp('data')
    (made,) = make_voc(root, 1)
    picture = (root / 'JPEGImages' / f'{made}.jpg').read_bytes()
    names = [f'picture_{number}' for number in range(COUNT)]
    cam = np.zeros((80, 101), np.float32)  # the size of the picture
    cam[20:50, 10:40] = 1
    for name in names:
        (root / 'JPEGImages' / f'{name}.jpg').write_bytes(picture)
        write_npy(str(root / 'cam' / f'{name}.npy'), {0: cam})
    (root / 'list.txt').write_text('\n'.join(names))
    return root


def start(data, out, jobs):
    """aff_prepare.py, with a dense CRF of so many iterations that a picture takes a while."""
    flags = ['--infer_list', data / 'list.txt', '--voc12_root', data, '--cam_dir', data / 'cam']
    flags += ['--out_crf', out, '--alpha', 4, '--crf_iters', 400, '--jobs', jobs]
    return subprocess.Popen(
        [sys.executable, str(ROOT / 'aff_prepare.py'), *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    'number, jobs', [(signal.SIGTERM, 2), (signal.SIGINT, 2), (signal.SIGTERM, 0)]
)
def test_a_signal_ends_the_stage_in_order(data, tmp_path, number, jobs):
    process = start(data, tmp_path, jobs)
    assert wait_until(lambda: list(tmp_path.glob('4.00/*.npy')), process)
    processes = below(process.pid)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    messages = [line for line in err.splitlines() if 'aff_prepare' in line and '%' not in line]
    assert messages == [f'aff_prepare.py: stopped by {number.name}'] and 'Traceback' not in err
    assert all_end(processes)
    made = list(tmp_path.glob('4.00/*.npy'))
    assert len(made) < COUNT and list(tmp_path.rglob('*.tmp')) == []
    for path in made:
        assert np.load(path, allow_pickle=True).item()  # none is half written


@pytest.mark.slow
def test_a_stage_that_is_killed_leaves_no_process(data, tmp_path):
    process = start(data, tmp_path, 2)
    assert wait_until(lambda: list(tmp_path.glob('4.00/*.npy')), process)
    processes = below(process.pid)
    assert len(processes) >= 4  # two workers, their server and its tracker
    process.kill()
    process.communicate()
    assert all_end(processes)
