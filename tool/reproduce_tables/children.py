"""Running jobs in processes of their own, several at a time, and ending them in order."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tool.files.atomic import check_writable
from tool.files.reading import open_text
from tool.presets.ladder import clock
from tool.presets.stages import ROOT
from tool.reproduce_tables.runs import Job, is_complete, write_record
from tool.run.errors import Interrupted, shortened
from tool.run.interrupts import Interrupts
from tool.run.parents import signal_at_parents_death

# Seconds between two looks at the processes.
INTERVAL = 0.1


@dataclass
class Running:
    """A job whose process runs.

    Attributes:
        job: the job.
        number: its number among all jobs, from 1.
        process: its process.
        slot: number of the slot that it occupies.
        start: when it was started, in seconds.
    """

    job: Job
    number: int
    process: subprocess.Popen
    slot: int
    start: float


@dataclass(frozen=True)
class Failure:
    """A job that has failed, and why, in one line."""

    job: Job
    reason: str


def run_jobs(
    jobs: Sequence[Job],
    slots: Sequence[Mapping[str, str]],
    stop_on_error: bool,
    on_success: Callable[[Job], str],
) -> list[Failure]:
    """Run jobs, one in each slot at a time.

    Args:
        jobs: the jobs in their order.
        slots: environment variables of each slot, besides those of this process.
        stop_on_error: start no further job after one has failed.
        on_success: called when a job has ended well; returns the end of its line.
    Returns:
        The jobs that have failed.
    Raises:
        Interrupted: a signal came.
    """
    return Children(jobs, slots, stop_on_error, on_success).run()


class Children:
    """The processes of jobs; see `run_jobs` for the arguments."""

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: Sequence[Mapping[str, str]],
        stop_on_error: bool,
        on_success: Callable[[Job], str],
    ):
        self.count = len(jobs)
        self.slots = slots
        self.stop_on_error = stop_on_error
        self.on_success = on_success
        self.waiting = list(enumerate(jobs, 1))
        self.running: list[Running] = []
        self.failures: list[Failure] = []

    def run(self) -> list[Failure]:
        """Run all jobs.

        SIGTERM and Ctrl-C are handed on to the processes. No further job starts then, and those
        that run end in order. A second signal is handed on too, and nobody waits for them any more.
        """
        handed_on = False
        with Interrupts(quiet=True) as interrupts:
            try:
                while True:
                    if interrupts.signal and not handed_on:
                        handed_on = True
                        self._signal_all(interrupts.signal)
                    if not interrupts.signal:
                        self._start_waiting()
                    if not self.running:
                        break
                    time.sleep(INTERVAL)
                    self._collect(bool(interrupts.signal))
            except Interrupted:
                self._signal_all(interrupts.signal)
                raise
        if interrupts.signal:
            raise Interrupted(interrupts.signal, 'stopped; the same command continues from there')
        return self.failures

    def _signal_all(self, number: int) -> None:
        """Send a signal to all processes that run."""
        for item in self.running:
            item.process.send_signal(number)

    def _start_waiting(self) -> None:
        """Start waiting jobs in the free slots. One whose needed file is missing has failed."""
        taken = {item.slot for item in self.running}
        free = [number for number in range(len(self.slots)) if number not in taken]
        while self.waiting and free:
            if self.stop_on_error and self.failures:
                return
            number, job = self.waiting.pop(0)
            if job.needs and not os.path.exists(job.needs):
                reason = f'{job.needs} is missing, because what makes it has failed'
                self.failures.append(Failure(job, reason))
                self._say(number, job, f'cannot run: {reason}')
                continue
            slot = free.pop(0)
            self.running.append(_start(job, number, slot, self.slots[slot]))
            self._say(number, job, f'runs, output in {job.log}')

    def _collect(self, interrupted: bool) -> None:
        """Take the processes that have ended from those that run.

        Args:
            interrupted: a signal has been handed on to them.
        """
        for item in list(self.running):
            if item.process.poll() is None:
                continue
            self.running.remove(item)
            job = item.job
            seconds = clock(time.monotonic() - item.start)
            if item.process.returncode == 0:
                write_record(job, done=True)
            if is_complete(job):
                self._say(item.number, job, f'complete, {seconds}{self.on_success(job)}')
            elif interrupted:
                self._say(item.number, job, f'stopped, {seconds}')
            else:
                reason = reason_of(item)
                self.failures.append(Failure(job, reason))
                self._say(item.number, job, f'failed, {seconds}: {reason}')

    def _say(self, number: int, job: Job, text: str) -> None:
        """Print a line about a job."""
        digits = len(str(self.count))
        print(f'[{number:{digits}}/{self.count}] {job.title}: {text}', flush=True)


def _start(job: Job, number: int, slot: int, environment: Mapping[str, str]) -> Running:
    """Start the process of a job; its output is appended to the job's log."""
    os.makedirs(job.folder, exist_ok=True)
    check_writable(job.log)
    write_record(job, done=False)
    with open(job.log, 'a', encoding='utf-8') as log:
        print('$ python', shlex.join(job.words), file=log, flush=True)
        process = subprocess.Popen(
            [sys.executable, *job.words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C of the terminal reaches it through this process only
            preexec_fn=end_with_parent if os.name == 'posix' else None,
            env={**os.environ, **environment},
        )
    return Running(job, number, process, slot, time.monotonic())


def end_with_parent() -> None:
    """In the new process, before its command: a kill of this one ends it in order."""
    signal_at_parents_death(signal.SIGTERM)


def reason_of(item: Running) -> str:
    """Why a process that has ended did not make what it has to make, in one line."""
    code = item.process.returncode
    if code == 0:
        return 'it ended well, but without all that it has to make'
    if code < 0:
        return f'it was ended by {signal.Signals(-code).name}; the same command continues it'
    return reason_in(item.job.log)


def reason_in(log: str) -> str:
    """The line that says why the last run in a log has failed."""
    with open_text(log, errors='replace') as file:
        last_run = file.read().rpartition('$ python ')[2]
    lines = [line.strip() for line in last_run.splitlines()[1:] if line.strip()]
    for line in reversed(lines):
        if ' failed: ' in line or ': error: ' in line:
            return shortened(line)
    return shortened(lines[-1]) if lines else f'no output; see {log}'
