"""SIGTERM and Ctrl-C during training, which stops between two steps."""

import os
import signal
import threading
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """A block in which SIGTERM and SIGINT are only noted.

    So the step under way can end, and its training state can be written.

    Args:
        quiet: print nothing when a signal comes.
    Attributes:
        signal: number of the first signal that came; 0 before.
    """

    def __init__(self, quiet: bool = False):
        self.signal = 0
        self.quiet = quiet
        self._before: dict[int, Any] = {}

    def __enter__(self) -> 'Interrupts':
        # outside the main thread Python sets no handlers
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if not self.signal and not self.quiet:
            # a handler must not use buffered output
            os.write(2, f'\n{signal.Signals(number).name}: stops after this step\n'.encode())
        self.signal = self.signal or number


def ignore(worker: int = 0) -> None:
    """Ignore both signals, in a loader's worker process.

    Terminals and SLURM signal the workers too, but the main process decides when they end.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
