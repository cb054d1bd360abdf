"""Two locks that keep all but one pipeline out of a work folder.

The pipeline holds the first lock while it runs. Each stage holds the second while it runs, in its
own process (`tool.presets.stage_process`): where a pipeline is killed and its stage lives on, the
folder stays locked until the stage has ended. The operating system frees the locks of a process
that ends, whichever way it ends.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout


def pipeline_lock(work: str) -> FileLock:
    """The lock of the pipeline that works in a folder."""
    return FileLock(os.path.join(work, '.lock'))


def stage_lock(work: str) -> FileLock:
    """The lock of the stage that a pipeline has started in a folder."""
    return FileLock(os.path.join(work, '.stage.lock'))


def acquire(lock: FileLock, message: str) -> None:
    """Take a lock; where another process has it, print the message and wait."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(message, flush=True)
        lock.acquire()


@contextmanager
def exclusive(work: str) -> Iterator[None]:
    """Keep all other pipelines out of a work folder while the block runs.

    First wait until no other pipeline works there, and no stage that a killed one has left behind.
    """
    os.makedirs(work, exist_ok=True)
    ours = pipeline_lock(work)
    acquire(ours, f'waiting for the pipeline that works in {work}')
    try:
        left_behind = stage_lock(work)
        acquire(left_behind, f'waiting for the stage that a pipeline has left behind in {work}')
        left_behind.release()
        yield
    finally:
        ours.release()
