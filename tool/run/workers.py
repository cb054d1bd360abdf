"""Worker processes that answer calls, and never keep their caller waiting without a limit.

`tool.run.pool.Pool` and `tool.run.loader` are made of them. They differ from the processes of
`concurrent.futures` and of PyTorch's DataLoader in this: a caller that waits for them heeds
signals; a worker that was killed, or that does not answer, is an error of one line; and no worker
is left when its parent has ended, even if that was killed.
"""

import atexit
import contextlib
import math
import multiprocessing
import os
import queue
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from typing import Any

from tool.run import interrupts
from tool.run.errors import UserError
from tool.run.messages import receive, send
from tool.run.parents import end_with_parent

# Environment variable: seconds without any answer after which workers are given up.
TIMEOUT_VARIABLE = 'PPC_TIMEOUT'
# Its default. The slowest honest answers, a batch of large pictures from a busy network disk or a
# dense CRF on an overloaded machine, take some tens of seconds.
TIMEOUT = 600.0

# Seconds between two looks at whether a signal has come.
POLL = 0.2
# Seconds in which a process has to be gone that was killed. One that waits for a dead disk in the
# kernel may never go.
GONE = 5.0

# The longest path that the name of a Unix socket can have is 107 bytes on Linux and 103 on macOS.
SOCKET_PATH = 103
# What multiprocessing adds to the folder of temporary files: /pymp-xxxxxxxx/listener-xxxxxxxx
SOCKET_NAME = 32


def timeout() -> float:
    """Seconds that processes wait for each other at the most (PPC_TIMEOUT).

    Raises:
        UserError: the variable is not a number above 0.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, '')
    if not text:
        return TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UserError(f'{TIMEOUT_VARIABLE}={text}: must be a number of seconds above 0')
    return seconds


def server_context() -> BaseContext:
    """A way to start workers that share nothing with this process, not even its threads and GPUs.

    They are forked from a server process that has read the script once. Where the server's socket
    can have no name, because TMPDIR is too long or missing, each worker reads the script itself.
    """
    methods = multiprocessing.get_all_start_methods()
    if 'forkserver' in methods and _socket_fits():
        return multiprocessing.get_context('forkserver')
    return multiprocessing.get_context('spawn')


def fork_context() -> BaseContext:
    """A way to start workers that inherit a data set; only Linux forks a process with threads well.

    Elsewhere the data set is sent to them.
    """
    return multiprocessing.get_context('fork' if sys.platform == 'linux' else 'spawn')


def _socket_fits() -> bool:
    """Whether a Unix socket can be made in the folder of temporary files."""
    try:
        folder = tempfile.gettempdir()
    except OSError:  # no folder can be written to
        return False
    return len(os.fsencode(folder)) + SOCKET_NAME <= SOCKET_PATH


class Call:
    """A call that was handed to the workers.

    Attributes:
        number: its place in the order of all calls.
        arguments: what it was made with.
    """

    def __init__(self, number: int, arguments: tuple):
        self.number = number
        self.arguments = arguments
        self._value: Any = None
        self._error: BaseException | None = None
        # why there is no answer, if its worker has ended
        self.lost: str | None = None

    def answer(self, value: Any, error: BaseException | None = None) -> None:
        """Keep what the call returned or raised."""
        self._value = value
        self._error = error

    def result(self) -> Any:
        """The result of the call.

        Raises:
            The exception that the call raised in the worker.
        """
        if self._error is not None:
            raise self._error
        return self._value


class _RemoteTraceback(Exception):
    """The cause of a worker's exception: its traceback, as text."""

    def __str__(self) -> str:
        return '\n' + self.args[0]


class _Worker:
    """A worker process and this process's end of the channel to it."""

    def __init__(
        self, context: BaseContext, task: Callable, prepare: Callable[[], None] | None
    ) -> None:
        if context.get_start_method() != 'fork':
            # It starts with the first process, and would let signals come again.
            resource_tracker.ensure_running()
        self.channel, theirs = socket.socketpair()
        with theirs, interrupts.held_back():
            self.process = context.Process(  # type: ignore[attr-defined]
                target=_serve, args=(theirs, task, prepare), daemon=True
            )
            try:
                self.process.start()
            except BaseException:
                self.channel.close()
                raise

    def why_ended(self) -> str:
        """The way the process has ended, for a message."""
        self.process.join(GONE)
        code = self.process.exitcode
        if code is None or code >= 0:
            return 'has ended' if code is None else f'has ended with code {code}'
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f'signal {-code}'
        reason = ' (out of memory?)' if name == 'SIGKILL' else ''
        return f'was killed by {name}{reason}'


def _serve(channel: socket.socket, task: Callable, prepare: Callable[[], None] | None) -> None:
    """Answer calls until there are no more: all that a worker process does."""
    interrupts.ignore()
    interrupts.deliver()
    end_with_parent()
    if prepare is not None:
        prepare()
    with contextlib.suppress(EOFError, OSError):
        while True:
            arguments = receive(channel)
            if arguments is None:
                return
            answer: tuple[Any, BaseException | None, str]
            try:
                answer = (task(*arguments), None, '')
            except BaseException as error:
                answer = (None, error, traceback.format_exc())
            _send_answer(channel, answer)


def _send_answer(channel: socket.socket, answer: tuple) -> None:
    """Send (value, error, traceback); what cannot be sent becomes an error that can."""
    try:
        send(channel, answer)
    except OSError:
        raise
    except Exception as error:
        text = answer[2] or traceback.format_exc()
        send(channel, (None, RuntimeError(f'cannot be sent to the main process: {error}'), text))


class Workers:
    """Processes that do calls of one function, task(*arguments), in the order they are handed out.

    A thread of this process for each worker hands it the next call and takes the answer.

    Args:
        task: the function.
        count: number of workers, at least 1. They start when there is work for them.
        context: how they are started: `server_context()` or `fork_context()`.
        what: what a worker is, for messages: 'a process that loads pictures'.
        flag: what chose their number, for messages.
        prepare: called once in every worker before its first call.
        received: called with the value of every answer, in a thread of this process; its result
            takes the value's place.
    Attributes:
        outstanding: number of calls whose answers have not been taken.
    """

    def __init__(
        self,
        task: Callable,
        count: int,
        context: BaseContext,
        what: str,
        flag: str,
        prepare: Callable[[], None] | None = None,
        received: Callable[[Any], Any] | None = None,
    ):
        self.count = count
        self.what = what
        self.flag = flag
        self.outstanding = 0
        self.timeout = timeout()
        self._task = task
        self._context = context
        self._prepare = prepare
        self._received = received
        self._numbers = 0
        self._workers: list[_Worker] = []
        self._threads: list[threading.Thread] = []
        self._todo: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._closed = False
        _open.add(self)

    def submit(self, *arguments: Any) -> int:
        """Hand out a call, without waiting; returns its number.

        Raises:
            UserError: a worker cannot be started.
        """
        if self._closed:
            raise RuntimeError('submit after shutdown of the workers')
        self.start(min(self.count, self.outstanding + 1))
        call = Call(self._numbers, arguments)
        self._numbers += 1
        self.outstanding += 1
        self._todo.put(call)
        return call.number

    def start(self, count: int) -> None:
        """Start workers until there are `count`.

        Raises:
            UserError: the system refuses another process.
        """
        added = []
        # All processes are forked before the first thread begins.
        while len(self._workers) < count:
            try:
                worker = _Worker(self._context, self._task, self._prepare)
            except OSError as error:
                raise UserError(
                    f'{self.what} cannot be started ({error.strerror or error}); use fewer '
                    f'{self.flag}'
                ) from None
            self._workers.append(worker)
            added.append(worker)
        for worker in added:
            thread = threading.Thread(target=self._drive, args=(worker,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _drive(self, worker: _Worker) -> None:
        """Hand one worker call after call, until there are no more or it has ended."""
        while True:
            call = self._todo.get()
            if call is None:
                with contextlib.suppress(OSError):
                    send(worker.channel, None)
                return
            try:
                send(worker.channel, call.arguments)
                value, error, text = receive(worker.channel)
                if error is not None:
                    error.__cause__ = _RemoteTraceback(text)
                elif self._received is not None:
                    value = self._received(value)
                call.answer(value, error)
            except (EOFError, OSError):
                call.lost = worker.why_ended()
            except Exception as error:  # the arguments, or the answer, cannot be pickled
                call.answer(None, error)
            self._done.put(call)
            if call.lost:
                return

    def next_done(self, stop: Callable[[], Any] | None = None) -> Call | None:
        """Wait for the next answer.

        Args:
            stop: asked while there is none; the wait ends when it returns something true.
        Returns:
            The call that was answered; None where `stop` has ended the wait.
        Raises:
            UserError: a worker has been killed, or none has answered within the timeout.
        """
        # Counted in looks and not by the clock, which goes on while Ctrl-Z has stopped everything.
        looks = math.ceil(self.timeout / POLL)
        for _ in range(looks):
            try:
                call = self._done.get(timeout=POLL)
            except queue.Empty:
                if stop is not None and stop():
                    return None
                continue
            self.outstanding -= 1
            if call.lost:
                raise UserError(f'{self.what} {call.lost}; use fewer {self.flag}')
            return call
        self.close(0)
        raise UserError(
            f'{self.what} has not answered for {self.timeout:g} s (a disk or network mount that '
            f'does not respond?); {TIMEOUT_VARIABLE}=<seconds> waits longer'
        )

    def close(self, grace: float) -> None:
        """End the workers.

        Calls that no worker has begun are dropped.

        Args:
            grace: seconds for the calls that are under way; workers that need more are killed.
        """
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._todo.get_nowait()
        for _ in self._workers:
            self._todo.put(None)
        end = time.monotonic() + grace
        for worker in self._workers:
            worker.process.join(max(0.0, end - time.monotonic()))
        for worker in self._workers:
            if worker.process.is_alive():
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(GONE)
            with contextlib.suppress(OSError):
                worker.channel.shutdown(socket.SHUT_RDWR)  # wakes its thread
        for thread in self._threads:
            thread.join(GONE)
        for worker in self._workers:
            worker.channel.close()
        self._threads = []
        self._workers = [worker for worker in self._workers if worker.process.is_alive()]
        self.outstanding = 0


# All workers that may still run, e.g. of a generator that was not closed.
_open: 'weakref.WeakSet[Workers]' = weakref.WeakSet()


def close_all() -> bool:
    """End all workers of this process.

    Returns:
        True if all have ended; False where one cannot be killed, as it waits in the kernel for a
        disk. Python would wait for it at its end.
    """
    for workers in list(_open):
        workers.close(0)
    return not any(workers._workers for workers in _open)


# Python ends daemonic processes itself, by SIGTERM, which they ignore: this has to come before.
atexit.register(close_all)
