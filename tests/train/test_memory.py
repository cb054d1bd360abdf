"""tool/train/memory.py: freed blocks leave the process, or stay in it."""

import os
import subprocess
import sys

import pytest

from mini import ROOT

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith('linux') or 'glibc' not in os.confstr('CS_GNU_LIBC_VERSION'),
    reason='only glibc is told what to do with freed memory',
)
HOLES = """
del (first := [np.ones(3 << 20)])[:]  # 24 MB: from now on such blocks come from the heap
blocks = [np.ones(2 << 20) for _ in range(8)]  # 16 MB each
del blocks[:-1]  # the last one keeps the heap from shrinking
"""
LARGE = 'np.ones(8 << 20)  # 64 MB, freed at once'


def memory(call, allocate):
    """MB that a process holds after `call` of tool.train.memory and `allocate`."""
    script = f"""
import numpy as np
from tool.train.memory import *
{call}
{allocate}
lines = open('/proc/self/status')
print(next(int(line.split()[1]) >> 10 for line in lines if line.startswith('VmRSS')))
"""
    return int(
        subprocess.run(
            [sys.executable, '-c', script],
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )


def test_holes_are_given_back():
    assert memory('', HOLES) - memory('return_freed_memory()', HOLES) > 80


def test_large_blocks_are_kept():
    assert memory('keep_freed_memory()', LARGE) - memory('', LARGE) > 50
