"""Starting a script from the pipeline, and stopping it when the pipeline is stopped."""

import os
import shlex
import signal
import subprocess
import sys
import time

from tool.files.atomic import check_writable, empty_file
from tool.files.reading import open_text
from tool.presets.stages import ROOT
from tool.run.interrupts import SAME_REQUEST, SIGNALS


def run_script(
    command: list[str], work: str, log: str, goes_on: bool, threads: int | None = None
) -> tuple[int, int]:
    """Run a script of the repository, python <command>, and wait for its end.

    SIGTERM and Ctrl-C are handed on to it, and again if they come once more after SAME_REQUEST
    seconds.

    Args:
        command: the words that follow `python`.
        work: the work folder, whose stage lock the script holds.
        log: file for its output.
        goes_on: add to the log that is there, in place of a new one.
        threads: OMP_NUM_THREADS, unless the environment has one.
    Returns:
        (exit code, number of the signal that came or 0).
    Raises:
        OutputError: the log cannot be written.
    """
    check_writable(log)
    os.makedirs(os.path.dirname(log), exist_ok=True)
    environment = {'OMP_WAIT_POLICY': 'PASSIVE'}
    if threads:
        environment['OMP_NUM_THREADS'] = str(threads)
    environment.update(os.environ)
    process: subprocess.Popen | None = None
    signals: list[int] = []
    handed_on: list[float] = []

    def hand_on() -> None:
        if process is None or not signals:
            return
        now = time.monotonic()
        if not handed_on or now - handed_on[-1] > SAME_REQUEST:
            handed_on.append(now)
            process.send_signal(signals[-1])

    def note(number: int, frame) -> None:
        signals.append(number)
        hand_on()

    if not goes_on:
        empty_file(log)
    with open(log, 'a', encoding='utf-8') as output:
        print('$ python', shlex.join(command), file=output, flush=True)
        # The handlers are set before the process starts. It then begins with the default ones, and
        # heeds Ctrl-C even where a shell in the background makes its commands ignore it.
        before = {number: signal.signal(number, note) for number in SIGNALS}
        try:
            process = subprocess.Popen(
                [
                    sys.executable,
                    '-m',
                    'tool.presets.stage_process',
                    work,
                    str(os.getpid()),
                    *command,
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )
            hand_on()  # a signal may have come while the process was being started
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    first_signal = signals[0] if signals else 0
    return code if code >= 0 else 128 - code, first_signal


def last_line(path: str) -> str:
    """The line that says how the last run in a log ended.

    It is the last line with an error message, else the last one that is not empty.
    """
    with open_text(path, errors='replace') as file:
        last_run = file.read().rpartition('$ python ')[2]
    lines = [line.strip() for line in last_run.splitlines() if line.strip()]
    for line in reversed(lines):
        if ': error: ' in line:
            return line
    return lines[-1]
