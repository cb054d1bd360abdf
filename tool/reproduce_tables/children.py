"""Running jobs in processes of their own, several at a time, and ending them in order."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tool.files.reading import open_text
from tool.presets.ladder import clock
from tool.presets.stage_process import end_with_parent
from tool.presets.stages import ROOT
from tool.reproduce_tables.runs import Job, is_complete, write_record
from tool.run.errors import Interrupted, shortened
from tool.run.interrupts import Interrupts

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

    SIGTERM and Ctrl-C are handed on to the processes once; no further job starts, and those that
    run end in order. A job whose needed file is missing fails without being started.

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
    waiting = list(enumerate(jobs, 1))
    running: list[Running] = []
    failures: list[Failure] = []
    handed_on = False
    with Interrupts(quiet=True) as interrupts:
        while True:
            if interrupts.signal and not handed_on:
                handed_on = True
                for item in running:
                    item.process.send_signal(interrupts.signal)
            stopped = bool(interrupts.signal) or (stop_on_error and bool(failures))
            free = _free_slots(slots, running)
            while waiting and free and not stopped:
                number, job = waiting.pop(0)
                if job.needs and not os.path.exists(job.needs):
                    reason = f'{job.needs} is missing, because what makes it has failed'
                    failures.append(Failure(job, reason))
                    print(f'{_label(number, jobs, job)} cannot run: {reason}', flush=True)
                    stopped = stop_on_error
                    continue
                running.append(_start(job, number, free.pop(0), slots))
                print(f'{_label(number, jobs, job)} runs, output in {job.log}', flush=True)
            if not running:
                break
            time.sleep(INTERVAL)
            for item in list(running):
                if item.process.poll() is None:
                    continue
                running.remove(item)
                label = _label(item.number, jobs, item.job)
                seconds = clock(time.monotonic() - item.start)
                if item.process.returncode == 0:
                    write_record(item.job, done=True)
                if is_complete(item.job):
                    print(f'{label} complete, {seconds}{on_success(item.job)}', flush=True)
                elif interrupts.signal:
                    print(f'{label} stopped, {seconds}', flush=True)
                else:
                    reason = reason_of(item)
                    failures.append(Failure(item.job, reason))
                    print(f'{label} failed, {seconds}: {reason}', flush=True)
    if interrupts.signal:
        raise Interrupted(interrupts.signal, 'stopped; the same command continues from there')
    return failures


def _free_slots(slots: Sequence[Mapping[str, str]], running: list[Running]) -> list[int]:
    """The numbers of the slots in which no job runs."""
    taken = {item.slot for item in running}
    return [number for number in range(len(slots)) if number not in taken]


def _label(number: int, jobs: Sequence[Job], job: Job) -> str:
    """The start of a job's lines."""
    digits = len(str(len(jobs)))
    return f'[{number:{digits}}/{len(jobs)}] {job.title}:'


def _start(job: Job, number: int, slot: int, slots: Sequence[Mapping[str, str]]) -> Running:
    """Start the process of a job; its output is appended to the job's log."""
    os.makedirs(job.folder, exist_ok=True)
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
            env={**os.environ, **slots[slot]},
        )
    return Running(job, number, process, slot, time.monotonic())


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
