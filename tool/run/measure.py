"""Seconds and megabytes of a call."""

import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable


def seconds(function: Callable, repeats: int = 5) -> float:
    """Median time of a call after one to warm up (with one repeat, of the only call)."""
    times = []
    for _ in range(repeats + (repeats > 1)):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times[repeats > 1 :])


def in_a_process(function: Callable, *arguments, repeats: int = 1) -> tuple[float, float]:
    """(`seconds`, MB of memory at its peak) of what function(*arguments) prepares, in a process of
    its own."""
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    process = context.Process(target=_measure, args=(queue, function, arguments, repeats))
    process.start()
    result = queue.get()
    process.join()
    return result


def _measure(queue, function: Callable, arguments: tuple, repeats: int) -> None:
    import torch  # here: nothing in this folder loads torch at import

    torch.set_flush_denormal(True)
    before = peak_memory()  # of Python and torch themselves
    run = function(*arguments)
    queue.put((seconds(run, repeats), peak_memory() - before))


def peak_memory() -> float:
    """MB of this process at its peak."""
    if os.path.exists('/proc/self/status'):  # getrusage's value is the parent's at first
        with open('/proc/self/status', encoding='ascii') as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith('VmHWM'))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)  # macOS counts bytes
