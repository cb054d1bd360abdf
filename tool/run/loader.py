"""Loading samples in worker processes, in order: the loaders of all stages.

They give what PyTorch's DataLoader gives, but never wait without a limit. A worker that is killed
or does not answer is a UserError, signals are heeded meanwhile, and no shared memory is needed
(see `tool.run.workers` and `tool.run.messages`).
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from tool.run.workers import Workers, fork_context

# Samples or batches for each worker that are loaded ahead.
PREFETCH = 2


@contextlib.contextmanager
def load(
    dataset: Any,
    keys: Collection[Any],
    num_workers: int,
    *,
    batched: bool = False,
    pin_memory: bool = False,
    stop: Callable[[], Any] | None = None,
    flag: str = '--num_workers',
) -> Iterator[Iterator[Any]]:
    """Load the samples of a data set in the order of their keys.

    The workers end with the block.

    Args:
        dataset: dataset[key] returns a sample.
        keys: the keys; with `batched` a list of keys for each batch.
        num_workers: number of worker processes; with 0 this process loads the samples itself.
        batched: collate the samples of a list of keys to a batch.
        pin_memory: bring tensors to page-locked memory, from which a GPU copies them faster.
        stop: asked while samples are waited for; the loading ends when it returns something true.
        flag: what chose the number of workers, for messages.
    Yields:
        An iterator over the samples or batches.
    Raises:
        UserError: from the iterator: a sample cannot be read; a worker was killed, or has not
            answered in time.
    """
    fetch = _Fetch(dataset, batched)
    received = _Pin() if pin_memory else None
    count = min(num_workers, len(keys))
    if count == 0:
        yield _loaded_here(fetch, keys, received)
        return
    workers = Workers(
        fetch,
        count,
        fork_context(),
        'a process that loads pictures',
        flag,
        prepare=_one_thread,
        received=received,
    )
    try:
        workers.start(count)
        yield _in_order(workers, iter(keys), stop)
    finally:
        workers.close(0)  # they only read


class _Fetch:
    """Gets one sample, or one batch, of a data set."""

    def __init__(self, dataset: Any, batched: bool):
        self.dataset = dataset
        self.batched = batched

    def __call__(self, key: Any) -> Any:
        if not self.batched:
            return self.dataset[key]
        from torch.utils.data import default_collate

        return default_collate([self.dataset[each] for each in key])


def _loaded_here(
    fetch: _Fetch, keys: Iterable[Any], received: Callable[[Any], Any] | None
) -> Iterator[Any]:
    """Load the samples in this process, each when it is asked for."""
    for key in keys:
        sample = fetch(key)
        yield sample if received is None else received(sample)


def _in_order(
    workers: Workers, keys: Iterator[Any], stop: Callable[[], Any] | None
) -> Iterator[Any]:
    """Yield the samples of the workers in the order of their keys."""
    early: dict[int, Any] = {}  # calls that were answered before their turn
    submitted = 0
    taken = 0
    while True:
        while submitted - taken < PREFETCH * workers.count:
            try:
                key = next(keys)
            except StopIteration:
                break
            workers.submit(key)
            submitted += 1
        if taken == submitted:
            return
        while taken not in early:
            call = workers.next_done(stop)
            if call is None:
                return
            early[call.number] = call
        sample = early.pop(taken).result()
        taken += 1
        yield sample


def _one_thread() -> None:
    """Make a worker compute in one thread: there are as many workers as there is room for."""
    import torch

    torch.set_num_threads(1)


class _Pin:
    """Brings the tensors of samples to page-locked memory, for the GPU of this process.

    It is called in threads. These begin with the first GPU, and would take memory of it.
    """

    def __init__(self) -> None:
        import torch

        self.device = torch.cuda.current_device()

    def __call__(self, sample: Any) -> Any:
        import torch

        with torch.cuda.device(self.device):
            return pinned(sample)


def pinned(value: Any) -> Any:
    """A sample whose tensors are in page-locked memory."""
    import torch

    if torch.is_tensor(value):
        return value.pin_memory()
    if isinstance(value, dict):
        return {key: pinned(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        entries = [pinned(entry) for entry in value]
        return entries if isinstance(value, list) else tuple(entries)
    return value
