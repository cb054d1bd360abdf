"""Work on a process pool: bounded, in order of completion, first error stops everything."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Iterable, Iterator

from tool.run.errors import UserError


class Pool:
    """Processes that run `function(*arguments)` while the caller goes on; at most 2 × jobs calls
    wait at a time.

    With jobs = 0 the work is done at once in this process. As a context manager it waits for the
    rest on a clean exit. The processes are not forked from this one (threads and CUDA do not
    survive a fork).
    """

    def __init__(self, jobs: int):
        self.jobs = jobs
        self._waiting: set[concurrent.futures.Future] = set()
        self._executor = None
        if jobs:
            method = (
                'forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn'
            )
            self._executor = concurrent.futures.ProcessPoolExecutor(
                jobs, multiprocessing.get_context(method)
            )

    def submit(self, function: Callable, *arguments) -> list:
        """Hand out one call; returns the results that have become ready meanwhile (in any
        order)."""
        if self._executor is None:
            return [function(*arguments)]
        ready = self._collect(2 * self.jobs - 1)
        try:
            self._waiting.add(self._executor.submit(function, *arguments))
        except concurrent.futures.process.BrokenProcessPool:
            raise UserError(_KILLED) from None
        return ready

    def finish(self) -> Iterator:
        """The results still under way, as they become ready."""
        while self._waiting:
            yield from self._collect(len(self._waiting) - 1)

    def _collect(self, leave: int) -> list:
        ready = []
        while len(self._waiting) > leave:
            done, self._waiting = concurrent.futures.wait(
                self._waiting, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                try:
                    ready.append(future.result())
                except concurrent.futures.process.BrokenProcessPool:
                    raise UserError(_KILLED) from None
        return ready

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                for _ in self.finish():
                    pass
        finally:
            if self._executor is not None:
                self._executor.shutdown(wait=True, cancel_futures=True)


_KILLED = 'a worker process was killed (out of memory?); use fewer --jobs'


def pool_map(function: Callable, items: Iterable, jobs: int) -> Iterator:
    """function(item) for every item on `jobs` processes, results in order of completion."""
    with Pool(jobs) as pool:
        for item in items:
            yield from pool.submit(function, item)
        yield from pool.finish()
