"""Scripts that the pipeline starts: one at a time, in a work folder of their own, stopped when the
pipeline is."""

import ctypes
import fcntl
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tool.presets.preset import ROOT
from tool.run.interrupts import SIGNALS


@contextmanager
def alone(work: str) -> Iterator[None]:
    """Wait until no other pipeline, and no stage that one has left behind, works in `work`; then
    keep others out.

    The stages inherit the locked file: it is free when the last process that may write there has
    ended.
    """
    os.makedirs(work, exist_ok=True)
    with open(os.path.join(work, '.lock'), 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f'waiting for the pipeline that works in {work}', flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), True)
        yield


def run_script(command: list[str], log: str, mode: str, threads: int = None) -> tuple[int, int]:
    """Run a script of the repository: python <command>. SIGTERM and Ctrl-C are handed on, once, and
    its end is waited for.

    Args:
        log: file for its output; mode 'w' or 'a'.
        threads: OMP_NUM_THREADS, unless the environment has one.
    Returns:
        (exit code, number of the signal that came or 0).
    """
    os.makedirs(os.path.dirname(log), exist_ok=True)
    signals: list[int] = []
    own = {'OMP_WAIT_POLICY': 'PASSIVE', **({'OMP_NUM_THREADS': str(threads)} if threads else {})}
    with open(log, mode, encoding='utf-8') as output:
        print('$ python', shlex.join(command), file=output, flush=True)
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=False,
            env={**own, **os.environ},
            preexec_fn=_heed_signals,
        )

        def hand_on(number: int, frame) -> None:
            if not signals:
                process.send_signal(number)
            signals.append(number)

        before = {number: signal.signal(number, hand_on) for number in SIGNALS}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return code if code >= 0 else 128 - code, signals[0] if signals else 0


def _heed_signals() -> None:
    """In a stage's process: take Ctrl-C even if shells in the background ignore it; get SIGTERM
    when the pipeline is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))


def last_line(path: str) -> str:
    """What the last run of a log ended with: its 'error:' line, else the last line that is not
    empty."""
    with open(path, encoding='utf-8', errors='replace') as file:
        lines = [
            line.strip()
            for line in file.read().rpartition('$ python ')[2].splitlines()
            if line.strip()
        ]
    return next((line for line in reversed(lines) if ': error: ' in line), lines[-1])
