"""Processes that end when the process that started them has ended, whichever way it ended."""

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading

# Number of the option of Linux's prctl that sends a signal to a process whose parent has died.
PR_SET_PDEATHSIG = 1


def signal_at_parents_death(number: int) -> None:
    """Ask for a signal when the parent of this process ends. Only Linux offers this.

    The kernel sends it even to a process that does not run Python code at the moment. The parent
    has to be started already; whether it has ended before this call has to be asked afterwards.
    """
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))


def end_with_parent() -> None:
    """Make a process of `multiprocessing` end when the process that has started it ends.

    A thread waits for that on every system. On Linux the kernel ends a direct child as well.
    Children of a fork server are none: its end is not that of the process which they work for.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if os.name == 'posix' and os.getppid() == parent.pid:
        signal_at_parents_death(signal.SIGKILL)
    threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    """End this process once the process of a sentinel has ended."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
