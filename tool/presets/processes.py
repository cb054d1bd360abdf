"""The number of processes that share a stage, the command that starts them, and what it decides."""

import functools

from tool.presets.stages import Stage
from tool.run import command_line

_LAUNCHER = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node']
# flags with a value, and keys of DeepLab's config, that change no result
_WORKERS = ('--jobs', '--num_workers')
_WORKER_KEYS = ('DATA_WORKERS=',)


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
    return [*_LAUNCHER, str(count), *words]


def deciding_words(command: list[str]) -> list[str]:
    """The words of a command that decide its result.

    Numbers of processes and workers do not: they are what a machine has room for, and a work folder
    may go on on another one.

    Args:
        command: of `launched`.
    """
    if command[: len(_LAUNCHER)] == _LAUNCHER:
        command = command[len(_LAUNCHER) + 1 :]
    deciding = []
    words = iter(command)
    for word in words:
        if word in _WORKERS:
            next(words, None)
        elif not word.startswith(_WORKER_KEYS):
            deciding.append(word)
    return deciding
