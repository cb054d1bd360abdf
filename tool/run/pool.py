"""A pool of worker processes that a stage hands work to while it goes on."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tool.run.workers import Call, Workers, server_context

# Seconds that calls under way get when the work is broken off. A dense CRF, the longest of them,
# takes some seconds; docker stops a container that has not ended after 10.
GRACE = 8.0


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
        self._workers: Workers | None = None
        if jobs:
            self._workers = Workers(_apply, jobs, server_context(), 'a worker process', '--jobs')

    def submit(self, function: Callable, *arguments: Any) -> list:
        """Hand out one call, and return the results that have become ready meanwhile.

        Raises:
            UserError: a worker was killed, or does not answer.
            Whatever a call has raised.
        """
        return [call.result() for call in self.hand_out(function, *arguments)]

    def finish(self) -> Iterator:
        """Yield the results that are still under way, as they become ready."""
        for call in self.finish_calls():
            yield call.result()

    def hand_out(self, function: Callable, *arguments: Any) -> list[Call]:
        """Like `submit`, for a caller that goes on when a call fails.

        Returns:
            The calls that are ready. `call.result()` returns or raises what the function did, and
            `call.arguments` are the function and its arguments.
        Raises:
            UserError: a worker was killed, or does not answer.
        """
        if self._workers is None:
            call = Call(0, (function, *arguments))
            try:
                call.answer(function(*arguments))
            except Exception as error:
                call.answer(None, error)
            return [call]
        ready = []
        while self._workers.outstanding >= 2 * self.jobs:
            ready.append(self._next())
        self._workers.submit(function, *arguments)
        return ready

    def finish_calls(self) -> Iterator[Call]:
        """Like `finish`, for a caller that goes on when a call fails; see `hand_out`."""
        while self._workers is not None and self._workers.outstanding:
            yield self._next()

    def _next(self) -> Call:
        """Wait for the next call that is ready."""
        assert self._workers is not None
        call = self._workers.next_done()
        assert call is not None  # only a wait with `stop` ends without one
        return call

    def __enter__(self) -> 'Pool':
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                for _result in self.finish():
                    pass
        finally:
            if self._workers is not None:
                self._workers.close(GRACE)


def _apply(function: Callable, *arguments: Any) -> Any:
    """The jobs of the workers."""
    return function(*arguments)


def pool_map(function: Callable, items: Iterable, jobs: int) -> Iterator:
    """Yield function(item) of every item, computed by `jobs` workers, as they become ready."""
    with Pool(jobs) as pool:
        for item in items:
            yield from pool.submit(function, item)
        yield from pool.finish()
