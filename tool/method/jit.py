"""Functions compiled by numba, with the compiled code kept on disk for the next process."""

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator

import numba
from numba.core import event


def compiled(**options) -> Callable[[Callable], Callable]:
    """Decorator: compile a function of arrays and numbers when it is first called, and cache the
    result.

    numba keeps compiled code beside the source file. Where that folder is read-only, it takes the
    user's own cache folder, or the one that the environment variable NUMBA_CACHE_DIR names. Where
    none of them can be written, a temporary folder serves this process and the workers that it
    starts.

    Args:
        options: passed on to `numba.njit`.
    """

    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # numba found no folder to keep the code in
            _cache_in_temporary_folder()
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # not even a temporary one: every process compiles for itself
            return numba.njit(**options)(function)

    return decorate


def _cache_in_temporary_folder() -> None:
    """Let numba keep compiled code in a private temporary folder, which this process removes when
    it ends."""
    with contextlib.suppress(OSError):
        folder = tempfile.mkdtemp(prefix='ppc-numba-')
        os.environ['NUMBA_CACHE_DIR'] = folder  # worker processes inherit it
        numba.config.reload_config()
        atexit.register(_remove, folder, os.getpid())


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked worker
        shutil.rmtree(folder, ignore_errors=True)


class _SayOnce(event.Listener):
    """Prints a line when numba really compiles; code that comes from the cache is silent."""

    def __init__(self, line: str):
        self.line = line
        self.said = False

    def on_start(self, event: event.Event) -> None:
        if not self.said:
            print(self.line, file=sys.stderr, flush=True)
        self.said = True

    def on_end(self, event: event.Event) -> None:
        pass


@contextlib.contextmanager
def announce_compilation(line: str) -> Iterator[None]:
    """Print `line` once to stderr if a function is compiled inside the block."""
    with event.install_listener('numba:compile', _SayOnce(line)):
        yield
