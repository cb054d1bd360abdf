"""Processes by their ids: whether they live, and which ones a process has."""

import os
import subprocess
import time
from collections.abc import Callable, Iterable

WAIT = 60  # seconds, on a machine that is very busy


def lives(process_id: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    status = subprocess.run(
        ['ps', '-o', 'stat=', '-p', str(process_id)], capture_output=True, text=True
    )
    return status.stdout.strip()[:1] not in ('', 'Z')


def below(process_id: int) -> set[int]:
    """The ids of all processes that a process has started, and of those that these have."""
    lines = subprocess.run(['ps', '-eo', 'pid=,ppid='], capture_output=True, text=True).stdout
    parent_of = {}
    for line in lines.splitlines():
        child, parent = line.split()
        parent_of[int(child)] = int(parent)
    found = {process_id}
    while True:
        more = {child for child, parent in parent_of.items() if parent in found} - found
        if not more:
            return found - {process_id}
        found |= more


def wait_until(seen: Callable[[], object], process: subprocess.Popen | None = None) -> bool:
    """Wait until `seen()` is true; False if that takes too long or the process ends before."""
    end = time.monotonic() + WAIT
    while not seen():
        if time.monotonic() > end or (process is not None and process.poll() is not None):
            return bool(seen())
        time.sleep(0.02)
    return True


def all_end(process_ids: Iterable[int]) -> bool:
    """Wait until none of the processes lives; False if that takes too long."""
    ids = list(process_ids)
    return wait_until(lambda: not any(lives(process_id) for process_id in ids))
