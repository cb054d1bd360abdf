"""What a command takes of the machine: memory and open files of it and of its child processes."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# Seconds between two looks at the processes.
_INTERVAL = 0.02
IS_MEASURED = sys.platform.startswith('linux')  # elsewhere there is no /proc


@dataclass(frozen=True)
class Load:
    """What a command has taken at the most."""

    # MB of memory of the process that had most
    memory: float
    # MB of memory of all its processes, each at its own peak
    total_memory: float
    # open files, pipes and sockets of the process that had most
    open_files: int
    # its processes
    processes: int
    # how long it took
    seconds: float
    output: str


def load_of(command: list[str], cwd: Path) -> Load:
    """Run a command and look at its processes until it ends.

    Raises:
        AssertionError: the command fails.
    """
    memory_of: dict[int, float] = {}
    open_files = 0
    start = time.monotonic()
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while process.poll() is None:
        for pid in _tree(process.pid):
            # The newest peak, not the highest: between fork and exec a process has its parent's.
            memory_of[pid] = _peak_memory(pid) or memory_of.get(pid, 0)
            open_files = max(_open_files(pid), open_files)
        time.sleep(_INTERVAL)
    output = process.stdout.read()
    assert process.returncode == 0, output
    seconds = time.monotonic() - start
    return Load(
        memory=max(memory_of.values()),
        total_memory=sum(memory_of.values()),
        open_files=open_files,
        processes=len(memory_of),
        seconds=seconds,
        output=output,
    )


def _tree(pid: int) -> list[int]:
    """A process and all below it; none that has ended."""
    found = [pid]
    try:
        for thread in os.listdir(f'/proc/{pid}/task'):
            children = Path(f'/proc/{pid}/task/{thread}/children').read_text()
            for child in children.split():
                found += _tree(int(child))
    except OSError:
        pass
    return found


def _peak_memory(pid: int) -> float:
    """MB of a process at its peak; 0 if it has ended."""
    try:
        lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    except OSError:
        return 0
    peaks = [int(line.split()[1]) / 1024 for line in lines if line.startswith('VmHWM')]
    return peaks[0] if peaks else 0


def _open_files(pid: int) -> int:
    """Open files of a process; 0 if it has ended."""
    try:
        return len(os.listdir(f'/proc/{pid}/fd'))
    except OSError:
        return 0
