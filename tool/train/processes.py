"""Several processes under torchrun: who this one is, what all of them know, and a network that
averages their gradients.

Without torchrun everything here is the one-process case, so callers need no second code path.
"""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as process_group
from torch import nn

from tool.run import command_line
from tool.run.errors import UserError


def run(main: Callable, parse_args: Callable) -> None:
    """`command_line.run` for a command that torchrun may start: the processes fail as one, with one
    line and exit code 2."""

    def together(args: argparse.Namespace) -> None:
        try:
            main(args)
        except UserError:
            if not _first_to_fail():
                sys.exit(2)
            raise
        except Exception:  # a collective that lost its partner, for example
            if _another_failed():
                sys.exit(2)
            raise
        stop()

    command_line.run(together, parse_args)


def start(device_name: str | None = None) -> torch.device:
    """The device of this process; under torchrun also joins the others (nccl on GPUs, gloo for
    everything on the CPU).

    Args:
        device_name: as --device; under torchrun plain 'cuda' means the GPU of the local rank.
    Raises:
        UserError: this machine does not have the device.
    """
    if int(os.environ.get('WORLD_SIZE', 1)) == 1:
        return command_line.pick_device(device_name)
    store, number, processes = next(process_group.rendezvous('env://'))
    process_group.init_process_group(
        'cpu:gloo,cuda:nccl' if torch.cuda.is_available() else 'gloo',
        store=store,
        rank=number,
        world_size=processes,
    )
    _joined['store'] = store
    if device_name in (None, 'cuda') and torch.cuda.is_available():
        device_name = f'cuda:{os.environ["LOCAL_RANK"]}'
    device = command_line.pick_device(device_name)
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    return device


_joined: dict[
    str, process_group.Store
] = {}  # the store all processes of this run share, as 'store'


def _first_to_fail() -> bool:
    """True for the one process that is to say what went wrong."""
    try:
        return 'store' not in _joined or _joined['store'].add('failed', 1) == 1
    except RuntimeError:  # the store ended with the process that keeps it
        return False


def _another_failed() -> bool:
    try:
        return 'store' in _joined and _joined['store'].check(['failed'])
    except RuntimeError:
        return True


def stop() -> None:
    """Leave the process group, if there is one."""
    _joined.clear()
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


def once(work: Callable[[], Any]) -> Any:
    """The result of `work()`, which the main process alone runs, in every process; so is the
    UserError it raises."""
    if world() == 1:
        return work()
    outcome: list[Any] = [None, None]
    if is_main():
        try:
            outcome[0] = work()
        except UserError as error:
            outcome[1] = str(error)
    process_group.broadcast_object_list(outcome, device=torch.device('cpu'))
    if outcome[1] is not None:
        raise UserError(outcome[1])
    return outcome[0]


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes of a tensor without gradient; `values` itself is left as it is."""
    if world() > 1:
        values = values.clone()
        process_group.all_reduce(values)
    return values


def highest(value: int) -> int:
    """The highest of the processes' values; passes from CPU to CPU, a GPU is not waited for."""
    if world() == 1:
        return value
    values = torch.tensor([value])
    process_group.all_reduce(values, process_group.ReduceOp.MAX)
    return int(values.item())


def gather(values: torch.Tensor) -> torch.Tensor:
    """The processes' tensors [n, …] in rank order as one [n · world, …], with gradient.

    For a loss that every process computes on the whole batch: a process gets the gradient of its
    own part, times world(), because `wrap` averages over the processes what has to be summed.
    """
    return _Gather.apply(values) if world() > 1 else values


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: torch.Tensor) -> torch.Tensor:
        parts = [
            torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(world())
        ]
        process_group.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.chunk(world())[rank()] * world()


def wrap(module: nn.Module, device: torch.device, static: bool = True) -> nn.Module:
    """What to call in place of `module`: gradients of its parameters are averaged over the
    processes.

    The parameters stay those of `module`, so optimiser and checkpoints go on using it.

    Args:
        static: the same parameters take part in every step, though maybe not all of them. Off: all
            take part, and `no_sync` works.
    """
    if world() == 1:
        return module
    return nn.parallel.DistributedDataParallel(
        module, device_ids=[device.index] if device.type == 'cuda' else None, static_graph=static
    )


def sync_norms(net: nn.Module, device: torch.device) -> nn.Module:
    """`net` with SyncBatchNorm for BatchNorm where several processes train on GPUs; call before
    `fit`.

    SyncBatchNorm exists on GPUs only: on the CPU every process normalises by its own part of the
    batch.
    """
    if world() == 1 or device.type != 'cuda':
        return net
    # PyTorch's own would drop the activations inside timm's BatchNorm layers
    from timm.layers import convert_sync_batchnorm

    return convert_sync_batchnorm(net)
