"""tool/memory.py: freed blocks leave the process."""
import os
import subprocess
import sys

import pytest

from mini import ROOT

SCRIPT = """
import sys
import numpy as np
from tool.memory import return_freed_memory
if sys.argv[1] == 'yes':
    return_freed_memory()
del (first := [np.ones(3 << 20)])[:]  # 24 MB: from now on such blocks come from the heap
blocks = [np.ones(2 << 20) for _ in range(8)]  # 16 MB each
del blocks[:-1]  # the last one keeps the heap from shrinking
print(next(int(line.split()[1]) >> 10 for line in open('/proc/self/status') if line.startswith('VmRSS')))
"""


@pytest.mark.skipif(not sys.platform.startswith('linux') or 'glibc' not in os.confstr('CS_GNU_LIBC_VERSION'),
                    reason='only glibc keeps freed memory this way')
def test_holes_are_given_back():
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    kept, returned = (int(subprocess.run([sys.executable, '-c', SCRIPT, flag], env=environment, check=True, capture_output=True,
                                         text=True).stdout) for flag in ('no', 'yes'))
    assert kept - returned > 80
