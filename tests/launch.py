"""contrast_train.py on a toy set in processes of its own, forked by a server that has loaded torch:
many, in little time."""

import multiprocessing
import os
import sys
from pathlib import Path

import torch

context = multiprocessing.get_context('forkserver')
context.set_forkserver_preload(['contrast_train'])


def _run(flags: list[str], output: str, environment: dict[str, str]) -> None:
    """The process: what a command line starts."""
    import contrast_train
    from tool.run import interrupts
    from tool.train import processes

    interrupts.deliver()  # a pool of an earlier test may have started the server without them
    torch.set_num_threads(1)
    os.environ.update(environment)
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = ['contrast_train.py', *flags]
    processes.run(contrast_train.main, contrast_train.parse_args)


def train(data: Path, session: Path, *more, output: str = '', environment: dict[str, str] = None):
    """A started contrast_train.py at width 1/16; what it prints goes to <session>.out<output>."""
    flags = [
        '--weights',
        'scratch',
        '--width',
        1 / 16,
        '--voc12_root',
        data,
        '--train_list',
        data / 'list.txt',
        '--cls_labels',
        data / 'cls_labels.npy',
        '--session_name',
        session,
        '--batch_size',
        2,
        '--crop_size',
        64,
        '--num_workers',
        0,
        '--device',
        'cpu',
        '--tblog_dir',
        '',
        '--baseline',
        'seam',
        *more,
    ]
    process = context.Process(
        target=_run, args=(list(map(str, flags)), f'{session}.out{output}', environment or {})
    )
    process.start()
    return process


def end(process) -> int:
    """Exit code of a process; a negative one is a signal."""
    process.join(240)
    return process.exitcode


def agent() -> torch.distributed.TCPStore:
    """The store that torchrun keeps for its processes; it lives as long as this object."""
    return torch.distributed.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)


def environment(rank: int, store: torch.distributed.TCPStore) -> dict[str, str]:
    """What torchrun tells one of two processes."""
    return {
        'RANK': str(rank),
        'LOCAL_RANK': str(rank),
        'WORLD_SIZE': '2',
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(store.port),
        'TORCHELASTIC_USE_AGENT_STORE': 'True',
        'TORCHELASTIC_RESTART_COUNT': '0',
    }
