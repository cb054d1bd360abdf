"""SIGTERM and Ctrl-C: a command ends in order, training between two steps."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from tool.run.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Seconds after the first signal in which further ones are taken for the same request: torchrun,
# SLURM and terminals send several at once.
SAME_REQUEST = 10.0


def _in_main_thread() -> bool:
    """Whether this is the thread in which Python sets and runs handlers of signals."""
    return threading.current_thread() is threading.main_thread()


class Interrupts:
    """A block in which SIGTERM and SIGINT are only noted.

    So the step under way can end, and its training state can be written. Who cannot wait for that
    sends the signal again after SAME_REQUEST seconds: it ends the block at once, by `Interrupted`.

    Args:
        quiet: print nothing when a signal comes.
    Attributes:
        signal: number of the first signal that came; 0 before.
    """

    def __init__(self, quiet: bool = False):
        self.signal = 0
        self.quiet = quiet
        self._came = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> 'Interrupts':
        if _in_main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        name = signal.Signals(number).name
        if self.signal:
            if time.monotonic() - self._came > SAME_REQUEST:
                raise Interrupted(number, f'stopped by a second {name}, in the middle of a step')
            return
        self.signal = number
        self._came = time.monotonic()
        if not self.quiet:
            # a handler must not use buffered output
            os.write(2, f'\n{name}: stops after this step\n'.encode())


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """A block that SIGTERM and SIGINT end by `Interrupted`, so that it can clean up.

    Signals that this process ignores, as Ctrl-C in the background of a shell, stay ignored.
    """
    came: list[float] = []

    def end(number: int, frame) -> None:
        now = time.monotonic()
        if came and now - came[-1] < SAME_REQUEST:
            return  # cleaning up has begun
        came.append(now)
        raise Interrupted(number, f'stopped by {signal.Signals(number).name}')

    before: dict[int, Any] = {}
    if _in_main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """A block that SIGTERM and SIGINT end at once, with the process and without a word.

    It is for waiting in code that is not Python's, which keeps Python's handlers from running: for
    other processes of a run, where there is nothing to clean up.
    """
    before: dict[int, Any] = {}
    if _in_main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)


def ignore() -> None:
    """Ignore both signals, in a worker process.

    Terminals and SLURM signal the workers too, but the main process decides when they end.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """A block in which this thread starts processes that get no signal before they `deliver` it.

    Worker processes begin with the handlers of this process or with Python's, until they have
    called `ignore`. A fork server that starts in the block never gets a signal, nor do its
    processes before they call `deliver`.
    """
    if os.name != 'posix':
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def deliver() -> None:
    """In a process that was started in `held_back`: let signals come again."""
    if os.name == 'posix':
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
