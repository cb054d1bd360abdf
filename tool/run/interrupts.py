"""SIGTERM and Ctrl-C as a wish that training follows between two steps."""

import os
import signal
import threading

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """Within it SIGTERM and SIGINT are only noted, so that the step under way can end and be saved.

    Attributes:
        signal: number of the first of them that came, 0 before.
    """

    def __init__(self, quiet: bool = False):
        self.signal, self.quiet = 0, quiet
        self._before = {}

    def __enter__(self) -> 'Interrupts':
        if (
            threading.current_thread() is threading.main_thread()
        ):  # elsewhere Python sets no handlers
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if not self.signal and not self.quiet:  # os.write: a handler must not use buffered output
            os.write(2, f'\n{signal.Signals(number).name}: stops after this step\n'.encode())
        self.signal = self.signal or number


def ignore(worker: int = 0) -> None:
    """For loader processes: terminals and SLURM signal them too, but the main process decides when
    they end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
