"""A pool of worker processes that a stage hands work to while it goes on."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Iterable, Iterator

from tool.run.errors import UserError


class Pool:
    """Worker processes that run `function(*arguments)`.

    Results come in the order in which they become ready. The first error of a worker is raised in
    the caller and stops everything. As a context manager the pool waits for the work under way
    when the block ends well.

    The workers are not forked from this process, because threads and CUDA do not survive a fork.

    Args:
        jobs: number of workers. At most 2 · jobs calls wait at a time, so that memory is bounded.
            With 0 there are no workers, and the caller does the work itself.
    """

    def __init__(self, jobs: int):
        self.jobs = jobs
        self._waiting: set[concurrent.futures.Future] = set()
        self._executor: concurrent.futures.ProcessPoolExecutor | None = None
        if jobs:
            has_forkserver = 'forkserver' in multiprocessing.get_all_start_methods()
            context = multiprocessing.get_context('forkserver' if has_forkserver else 'spawn')
            self._executor = concurrent.futures.ProcessPoolExecutor(jobs, context)

    def submit(self, function: Callable, *arguments) -> list:
        """Hand out one call, and return the results that have become ready meanwhile.

        Raises:
            UserError: a worker was killed.
        """
        if self._executor is None:
            return [function(*arguments)]
        ready = self._collect(2 * self.jobs - 1)
        try:
            self._waiting.add(self._executor.submit(function, *arguments))
        except concurrent.futures.process.BrokenProcessPool:
            raise UserError(_KILLED) from None
        return ready

    def finish(self) -> Iterator:
        """Yield the results that are still under way, as they become ready."""
        while self._waiting:
            yield from self._collect(len(self._waiting) - 1)

    def _collect(self, leave: int) -> list:
        """Wait until at most `leave` calls are under way, and return the results of the others."""
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
    """Yield function(item) of every item, computed by `jobs` workers, as they become ready."""
    with Pool(jobs) as pool:
        for item in items:
            yield from pool.submit(function, item)
        yield from pool.finish()
