"""Several processes under torchrun: who this one is, what all of them know, and a network that averages their gradients.

Without torchrun everything here is the one-process case, so callers need no second code path.
"""
import os

import torch
import torch.distributed as process_group
from torch import nn

from tool.cli import pick_device


def start(device_name: str = None) -> torch.device:
    """The device of this process; under torchrun also joins the others (nccl on GPUs, gloo elsewhere).

    Args:
        device_name: as --device; under torchrun plain 'cuda' means the GPU of the local rank.
    Raises:
        UserError: this machine does not have the device.
    """
    if int(os.environ.get('WORLD_SIZE', 1)) == 1:
        return pick_device(device_name)
    if device_name in (None, 'cuda') and torch.cuda.is_available():
        device_name = f'cuda:{os.environ["LOCAL_RANK"]}'
    device = pick_device(device_name)
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    process_group.init_process_group('nccl' if device.type == 'cuda' else 'gloo')
    return device


def stop() -> None:
    """Leave the process group, if there is one."""
    if process_group.is_initialized():
        process_group.destroy_process_group()


def rank() -> int:
    """Number of this process, 0 … world() − 1."""
    return process_group.get_rank() if process_group.is_initialized() else 0


def world() -> int:
    """How many processes work together."""
    return process_group.get_world_size() if process_group.is_initialized() else 1


def is_main() -> bool:
    """True for the one process that logs and writes."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        process_group.barrier()


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes of a tensor without gradient; `values` itself is left as it is."""
    if world() > 1:
        values = values.clone()
        process_group.all_reduce(values)
    return values


def wrap(net: nn.Module, device: torch.device) -> nn.Module:
    """What to call in place of `net`: its gradients are averaged over the processes.

    The parameters stay those of `net`, so optimiser and checkpoints go on using it.
    """
    if world() == 1:
        return net
    return nn.parallel.DistributedDataParallel(net, device_ids=[device.index] if device.type == 'cuda' else None)


def sync_norms(net: nn.Module, device: torch.device) -> nn.Module:
    """`net` with SyncBatchNorm for BatchNorm where several processes train on GPUs; call before `wrap`.

    SyncBatchNorm exists on GPUs only: on the CPU every process normalises by its own part of the batch.
    """
    return nn.SyncBatchNorm.convert_sync_batchnorm(net) if world() > 1 and device.type == 'cuda' else net
