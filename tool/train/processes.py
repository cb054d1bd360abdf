"""Several training processes under torchrun: ranks, collectives, and averaged gradients.

Without torchrun there is one process, and every function here does what that needs. So callers have
no second code path.
"""

import argparse
import datetime
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as process_group
from torch import nn

from tool.run import command_line, interrupts
from tool.run.errors import UserError
from tool.run.shard import shard_index
from tool.run.workers import TIMEOUT_VARIABLE, timeout

# {'store': the store that all processes of this run share}; empty without torchrun
_joined: dict[str, process_group.Store] = {}


def run(
    main: Callable[[argparse.Namespace], None], parse_args: Callable[[], argparse.Namespace]
) -> None:
    """Run `main(parse_args())` of a command that torchrun may start.

    It is like `command_line.run`, but when processes fail together, only one of them prints the
    error; the others exit with code 2 in silence.
    """

    def together(args: argparse.Namespace) -> None:
        try:
            main(args)
        except UserError:
            if not _first_to_fail():
                sys.exit(2)
            raise
        except Exception as error:
            if _another_failed():
                sys.exit(2)
            if not _lost_contact(error):
                raise
            if not _first_to_fail():
                sys.exit(2)
            fix = 'if it was killed, the same command continues from the newest training state'
            if 'nccl' in str(error).lower():
                fix += '; NCCL needs room in /dev/shm (docker run --shm-size)'
            raise UserError(
                f'lost contact to another process of this run ({_first_sentence(error)}); {fix}'
            ) from error
        stop()

    command_line.run(together, parse_args)


def start(device_name: str | None = None) -> torch.device:
    """Join the other processes of torchrun, if there are any, and find this process's device.

    The processes communicate by nccl for tensors on GPUs and by gloo for tensors on the CPU.

    Args:
        device_name: the value of --device; None if it was not given; see
            `command_line.pick_device`.
    Raises:
        UserError: this machine does not have the device; RANK and WORLD_SIZE are wrong, or set
            without torchrun.
    """
    number, processes = shard_index()
    if processes == 1:
        return command_line.pick_device(device_name)
    _join(number, processes)
    return command_line.pick_device(device_name)


def _join(number: int, processes: int) -> None:
    """Make the process group.

    A process waits for the others a few times as long as a loader waits for its workers: the
    process whose worker is stuck finds out first, and tells the others.

    Raises:
        UserError: torchrun has not started this process, or the other processes cannot be reached.
    """
    here = f'RANK={number} WORLD_SIZE={processes}'
    for variable in ('MASTER_ADDR', 'MASTER_PORT'):
        if not os.environ.get(variable):
            raise UserError(
                f'{here} are set and {variable} is not: start the command with torchrun, or unset '
                'RANK and WORLD_SIZE'
            )
    to_meet = datetime.timedelta(seconds=timeout())
    to_answer = datetime.timedelta(seconds=3 * timeout())
    backend = 'cpu:gloo,cuda:nccl' if torch.cuda.is_available() else 'gloo'
    try:
        with interrupts.at_once():
            store, _, _ = next(process_group.rendezvous('env://', timeout=to_meet))
            process_group.init_process_group(
                backend, store=store, rank=number, world_size=processes, timeout=to_answer
            )
    except (ValueError, RuntimeError) as error:
        address = f'{os.environ["MASTER_ADDR"]}:{os.environ["MASTER_PORT"]}'
        raise UserError(
            f'{here}: cannot reach the other processes at {address} ({_first_sentence(error)}); '
            f'start the command with torchrun, or unset RANK and WORLD_SIZE; '
            f'{TIMEOUT_VARIABLE}=<seconds> waits longer'
        ) from None
    _joined['store'] = store


def _first_sentence(error: Exception) -> str:
    """The first sentence of an error's message, without the place in gloo's source."""
    lines = re.sub(r'^\[[^]]*\.cc:\d+\] ', '', str(error).strip()).splitlines()
    return lines[0].split('. ')[0][:100] if lines else type(error).__name__


def _lost_contact(error: Exception) -> bool:
    """Whether an error is that of a collective whose other processes have ended or do not answer.

    gloo has no exception of its own; its messages begin with the line of its source.
    """
    if not process_group.is_initialized():
        return False
    if isinstance(error, process_group.DistError):
        return True
    return isinstance(error, RuntimeError) and 'gloo' in str(error)


def _first_to_fail() -> bool:
    """True in the first process that fails, which prints the error; counts the failures."""
    if 'store' not in _joined:
        return True
    try:
        return _joined['store'].add('failed', 1) == 1
    except RuntimeError:  # the process that keeps the store has ended
        return False


def _another_failed() -> bool:
    """True if another process has failed."""
    if 'store' not in _joined:
        return False
    try:
        return _joined['store'].check(['failed'])
    except RuntimeError:  # the process that keeps the store has ended
        return True


def stop() -> None:
    """Leave the process group, if there is one."""
    _joined.clear()
    if process_group.is_initialized():
        process_group.destroy_process_group()


def rank() -> int:
    """Number of this process, 0 … world() − 1."""
    if not process_group.is_initialized():
        return 0
    return process_group.get_rank()


def world() -> int:
    """Number of processes that train together."""
    if not process_group.is_initialized():
        return 1
    return process_group.get_world_size()


def is_main() -> bool:
    """True in the process of rank 0, which logs and writes files."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process has called this."""
    if world() > 1:
        with interrupts.at_once():
            process_group.barrier()


def once(work: Callable[[], Any]) -> Any:
    """Run `work()` in the main process and return its result in every process.

    Raises:
        UserError: in every process, if `work` raised it.
    """
    if world() == 1:
        return work()
    result = None
    message = None
    if is_main():
        try:
            result = work()
        except UserError as error:
            message = str(error)
    outcome = [result, message]
    with interrupts.at_once():
        process_group.broadcast_object_list(outcome, device=torch.device('cpu'))
    result, message = outcome
    if message is not None:
        raise UserError(message)
    return result


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, without gradient; `values` is not changed."""
    if world() > 1:
        values = values.clone()
        process_group.all_reduce(values)
    return values


def highest(value: int) -> int:
    """The highest of the processes' values. It is exchanged on the CPU, so no GPU is waited for."""
    if world() == 1:
        return value
    values = torch.tensor([value])
    process_group.all_reduce(values, process_group.ReduceOp.MAX)
    return int(values.item())


def gather(values: torch.Tensor) -> torch.Tensor:
    """Gather the tensors of all processes, with gradient.

    It is for a loss that every process computes on the whole batch. A process gets the gradient of
    its own part times world(). That is because `wrap` averages the gradients over the processes,
    but here they have to be summed.

    Args:
        values: [n, …], this process's part of the batch.
    Returns:
        [n · world(), …], the parts in the order of the ranks.
    """
    if world() == 1:
        return values
    return _Gather.apply(values)


class _Gather(torch.autograd.Function):
    """See `gather`."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        parts = []
        for _ in range(world()):
            parts.append(torch.empty_like(values, memory_format=torch.contiguous_format))
        process_group.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        own_part = gradient.chunk(world())[rank()]
        return own_part * world()


def wrap(module: nn.Module, device: torch.device, static: bool = True) -> nn.Module:
    """A module to call in place of `module`, which averages the gradients over the processes.

    The parameters stay those of `module`, so the optimiser and checkpoints go on using it.

    Args:
        module: the losses with the network in them, on `device`.
        device: the device of this process.
        static: True if every step uses the same parameters, though maybe not all of them. False if
            every step uses all of them; only then can `no_sync` be used.
    """
    if world() == 1:
        return module
    device_ids = [device.index] if device.type == 'cuda' else None
    return nn.parallel.DistributedDataParallel(
        module,
        device_ids=device_ids,
        **_no_buffer_exchange(),
        # gradients are not copied to the buckets that are exchanged
        gradient_as_bucket_view=True,
        static_graph=static,
    )


def _no_buffer_exchange() -> dict[str, Any]:
    """The argument by which DistributedDataParallel does not send buffers in each forward pass.

    Nothing in training reads the statistics of BatchNorm, and the main process, which saves them,
    has its own. Newer PyTorch (2.14 has both) calls the argument `forward_sync_buffers`.
    """
    known = inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
    if 'forward_sync_buffers' in known:
        return {'forward_sync_buffers': False}
    return {'broadcast_buffers': False}


def sync_norms(net: nn.Module, device: torch.device) -> nn.Module:
    """`net` with SyncBatchNorm in place of BatchNorm, if several processes train on GPUs.

    Call it before the optimiser is made. SyncBatchNorm exists on GPUs only; on the CPU every
    process normalises by its own part of the batch.
    """
    if world() == 1 or device.type != 'cuda':
        return net
    # PyTorch's own conversion would drop the activations inside timm's BatchNorm layers.
    from timm.layers import convert_sync_batchnorm

    return convert_sync_batchnorm(net)
