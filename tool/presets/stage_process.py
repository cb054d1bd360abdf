"""The process of a stage: it takes the stage's lock and then runs the stage's script.

    python -m tool.presets.stage_process WORK_DIR PARENT_ID script.py --flag ...
    python -m tool.presets.stage_process WORK_DIR PARENT_ID -m module --flag ...

`tool.presets.child` starts it. For the script everything is as if Python had been started with it.
"""

import os
import runpy
import signal
import sys

from filelock import FileLock

from tool.presets.lock import acquire, stage_lock
from tool.run.parents import signal_at_parents_death

# The lock that this process holds until it ends. A local one would be released too early.
held: FileLock | None = None


def main(work: str, parent: int, command: list[str]) -> None:
    """Run a command in a work folder.

    Args:
        work: the work folder, whose stage lock is held.
        parent: process id of the pipeline.
        command: the words that follow `python`.
    """
    # Until the script can end in order, Ctrl-C ends it as SIGTERM does: without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal_at_parents_death(signal.SIGTERM)
    hold_stage_lock(work)
    if parent_has_died(parent):
        # The pipeline was killed before this process had the lock: another one may have begun.
        sys.exit(128 + signal.SIGTERM)
    if command[0] == '-m':
        run_module(command[1], command[2:])
    else:
        run_script(command[0], command[1:])


def hold_stage_lock(work: str) -> None:
    """Hold the lock of the stage until this process ends."""
    global held
    held = stage_lock(work)
    acquire(held, 'waiting for a process that an earlier stage has left behind')


def parent_has_died(parent: int) -> bool:
    """Whether the process that started this one has ended. Windows does not tell."""
    return os.name == 'posix' and os.getppid() != parent


def run_module(name: str, arguments: list[str]) -> None:
    """Like `python -m name arguments`."""
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name='__main__', alter_sys=True)


def run_script(path: str, arguments: list[str]) -> None:
    """Like `python path arguments`."""
    sys.argv = [path, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    runpy.run_path(path, run_name='__main__')


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
