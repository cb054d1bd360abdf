"""The number of processes that share a stage, and the command that starts them."""

import functools

from tool.presets.stages import Stage
from tool.run import command_line


def process_count(stage: Stage, device: str | None) -> int:
    """The number of processes that share a stage on this machine."""
    if stage.processes == 1:
        return 1
    return min(stage.processes, most_processes(device))


@functools.lru_cache
def most_processes(device: str | None) -> int:
    """The number of processes that there is room for: the GPUs, or the cores of the processor.

    Args:
        device: the value of --device; None if it was not given.
    """
    kind = command_line.pick_device(device).type
    if kind == 'cpu':
        return command_line.default_jobs()
    if kind != 'cuda' or device not in (None, 'cuda'):
        return 1  # one device was named, or there is only one
    import torch  # here: most runs of the pipeline do without

    return torch.cuda.device_count()


def launched(words: list[str], count: int) -> list[str]:
    """The words that follow `python` to run a script in `count` processes.

    Args:
        words: the script and its flags.
    """
    if count == 1:
        return words
    launcher = ['-m', 'torch.distributed.run', '--standalone']
    return [*launcher, '--nproc_per_node', str(count), *words]
