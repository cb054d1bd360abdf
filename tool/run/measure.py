"""Time and memory that a call takes."""

import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

from tool.run.parents import end_with_parent


def seconds(function: Callable, repeats: int = 5) -> float:
    """Median time of `repeats` calls after one to warm up; with 1, the time of the only call."""
    if repeats > 1:
        function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def in_a_process(function: Callable, *arguments, repeats: int = 1) -> tuple[float, float]:
    """Measure a call in a process of its own.

    Args:
        function: function(*arguments) prepares the call and returns it, a function without
            arguments.
    Returns:
        (`seconds` of the call, MB of memory that preparing and calling need at the peak).
    Raises:
        RuntimeError: the process has ended without a result; it has printed why.
    """
    context = multiprocessing.get_context('spawn')
    result, result_of_child = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(result_of_child, function, arguments, repeats))
    process.start()
    result_of_child.close()
    try:
        return result.recv()
    except EOFError:
        raise RuntimeError('the process that was measured has ended early') from None
    finally:
        process.join()


def _measure(result: Any, function: Callable, arguments: tuple, repeats: int) -> None:
    import torch  # imported here, because nothing in this folder loads torch at import

    end_with_parent()
    torch.set_flush_denormal(True)
    before = peak_memory()  # of Python and torch themselves
    run = function(*arguments)
    result.send((seconds(run, repeats), peak_memory() - before))


def peak_memory() -> float:
    """MB of this process at its peak."""
    if os.path.exists('/proc/self/status'):  # getrusage's value is the parent's at first
        with open('/proc/self/status', encoding='ascii') as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith('VmHWM'))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)  # macOS counts bytes
