"""The training loop of every stage: batches by step, losses kept on the device, poly learning rate,
training states."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tool.run import interrupts
from tool.run.errors import Interrupted, UserError
from tool.run.progress import progress
from tool.train import processes
from tool.train.log import RunLog
from tool.train.memory import keep_freed_memory
from tool.train.optimiser import set_lr
from tool.train.precision import same_bits
from tool.train.random_numbers import StepSampler, mixed_seed
from tool.train.states import States, run_settings

__all__ = ['States', 'fit', 'per_process', 'run_settings', 'steps_of']

LOG_EVERY = 20  # steps between two reads of the losses from the device
FAILED = 1000  # above the number of every signal


def steps_of(images: int, batch_size: int, max_epochs: int, max_steps: int = None) -> int:
    """Training steps: `max_steps` where given, else whole batches of an epoch × epochs.

    Raises:
        UserError: fewer images than one batch.
    """
    if images < batch_size:
        raise UserError(
            f'--batch_size {batch_size} is more than the {images} images of the list; use a '
            'smaller one'
        )
    return max_steps or images // batch_size * max_epochs


def per_process(batch_size: int, accumulate: int = 1, name: str = '--batch_size') -> int:
    """Images of a batch that each process works on, `accumulate` parts one after the other.

    Raises:
        UserError: the batch cannot be split so.
    """
    parts = processes.world() * accumulate
    if batch_size % parts:
        how = f'{processes.world()} processes' + f' and {accumulate} parts each' * (accumulate > 1)
        raise UserError(
            f'{name} {batch_size}: cannot be split over {how}; make it a multiple of {parts}'
        )
    return batch_size // processes.world()


class _Losses(nn.Module):
    """The losses as one module around the network, however often they call it: what
    DistributedDataParallel needs."""

    def __init__(self, net: nn.Module, losses: Callable):
        super().__init__()
        self.net, self.losses = net, losses

    def forward(self, batch: dict, step: int) -> dict[str, torch.Tensor]:
        return self.losses(batch, step)


def fit(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Callable,
    dataset: Dataset,
    *,
    batch_size: int,
    max_steps: int,
    lr_factor: Callable[[int], float],
    device: torch.device,
    seed: int,
    num_workers: int,
    log: RunLog | None,
    start_step: int = 0,
    states: States = None,
    after_step: Callable[[int], None] = None,
    accumulate: int = 1,
    whole: Callable[[dict], dict] = None,
    scaler: torch.amp.GradScaler = None,
) -> None:
    """Train `net` for steps start_step … max_steps − 1; under torchrun each process works on its
    part of every batch.

    Args:
        losses: losses(batch, step) → dict of scalar tensors; its 'loss' is minimised, all are
            logged. It calls `net`. The mean over the processes of the sum over the parts has to be
            the loss of the whole batch.
        dataset: indexed by (epoch, index); its items are dicts.
        lr_factor: factor on the groups' initial learning rates at a step.
        batch_size: images a step, all processes together.
        log: None in all processes but the main one.
        states: writes training states as it goes, and when a signal ends the run.
        after_step: called with the number of steps done (evaluation pictures, extra checkpoints).
        accumulate: parts that a process's share of a batch is worked on in, one after the other, to
            save memory.
        whole: whole(batch) → what every part has to know of the process's share of a batch, added
            to each part.
        scaler: gradient scaler of fp16.
    Raises:
        UserError: a loss term or a weight became non-finite; names the step and which.
        Interrupted: SIGTERM or SIGINT came; the step was finished and its state written.
    """
    per_process(batch_size, accumulate)
    same_bits(device)
    if device.type == 'cpu':
        keep_freed_memory()
    sampler = StepSampler(
        len(dataset), batch_size, max_steps, seed, start_step, processes.rank(), processes.world()
    )
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        pin_memory=device.type == 'cuda',
        worker_init_fn=interrupts.ignore,
    )
    model = processes.wrap(_Losses(net, losses), device, static=accumulate == 1)
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    net.train()
    pending: list[tuple[int, dict]] = []  # losses not yet read from the device
    done = start_step
    bar = progress(
        total=max_steps * batch_size,
        initial=done * batch_size,
        desc='train',
        quiet=not processes.is_main(),
    )
    with (
        interrupts.Interrupts(quiet=not processes.is_main()) as wish,
        contextlib.closing(bar),
        contextlib.closing(_batches(loader, wish)) as batches,
    ):
        for step, batch in enumerate(batches, start_step):
            torch.manual_seed(mixed_seed(seed, step, 0, processes.rank()))  # dropout
            set_lr(optimizer, lr_factor(step))
            parts = _parts(batch, accumulate, device, whole)
            pending.append((step, _update(model, optimizer, scaler, parts, step)))
            bar.update(batch_size)
            done = step + 1
            saving = (
                states is not None
                and states.every
                and done % states.every == 0
                and done < max_steps
            )
            if len(pending) == LOG_EVERY or done == max_steps or saving:
                _report(pending, optimizer, log, max_steps)
                pending.clear()
            if saving:
                _save(states, done, net, optimizer)
            if after_step is not None:
                after_step(done)
        if done < max_steps:
            if pending:
                _report(pending, optimizer, log, max_steps)
            _stop(wish.signal, states, done, start_step, net, optimizer)
    check_finite(done, net)


def _batches(loader: DataLoader, wish: interrupts.Interrupts) -> Iterator[dict]:
    """Batches until the last, or until a signal came to any process; bad input of one process ends
    them all."""
    source = iter(loader)
    try:
        while True:
            batch = error = None
            if not wish.signal:
                try:
                    batch = next(source, None)
                except UserError as raised:
                    error = raised
            verdict = processes.highest(FAILED if error else wish.signal)
            if error:
                raise error
            if verdict == FAILED:
                sys.exit(2)  # the process that failed says why
            if verdict or batch is None:
                wish.signal = verdict
                return
            yield batch
    finally:
        # The loader's processes ignore the SIGTERM that Python ends them with at exit
        # (interrupts.ignore), and an error's
        # traceback keeps the loader from being collected before: left to themselves both sides wait
        # for ever.
        if loader.num_workers:
            source._shutdown_workers()


def _parts(
    batch: dict, count: int, device: torch.device, whole: Callable[[dict], dict] | None
) -> list[dict]:
    """The batch on the device, in `count` equal parts, each with what `whole` says of all of it."""
    batch = {
        key: value.to(device, non_blocking=True) if torch.is_tensor(value) else value
        for key, value in batch.items()
    }
    size = len(next(iter(batch.values()))) // count
    common = whole(batch) if whole else {}
    return [
        {**{key: value[first : first + size] for key, value in batch.items()}, **common}
        for first in range(0, size * count, size)
    ]


def _update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    parts: list[dict],
    step: int,
) -> dict[str, torch.Tensor]:
    """One step of the optimiser on the gradients of all parts; returns the sums of their loss
    terms."""
    optimizer.zero_grad(set_to_none=True)
    sums: dict[str, torch.Tensor] = {}
    for part in parts:
        # the processes exchange gradients once, with the last part
        local = processes.world() > 1 and part is not parts[-1]
        with model.no_sync() if local else contextlib.nullcontext():
            terms = model(part, step)
            scaler.scale(terms['loss']).backward()
        sums = {name: sums.get(name, 0) + value.detach() for name, value in terms.items()}
    scaler.step(optimizer)
    scaler.update()
    return sums


def _report(
    pending: list[tuple[int, dict]],
    optimizer: torch.optim.Optimizer,
    log: RunLog | None,
    max_steps: int,
) -> None:
    """Read the pending losses in one transfer, check them, and write them to the log, the jsonl and
    TensorBoard."""
    names = list(pending[0][1])
    table = torch.stack(
        [torch.stack([terms[name].float() for name in names]) for _, terms in pending]
    )
    table = (processes.total(table) / processes.world()).cpu()  # the mean over the processes
    for (step, _), row in zip(pending, table):
        for name, value in zip(names, row.tolist()):
            if not torch.isfinite(torch.tensor(value)):
                raise UserError(f'step {step}: {name} is {value}; {_STOPS}')
    if log is None:
        return
    lr = optimizer.param_groups[0]['lr']
    log.records(
        [{'step': step, **dict(zip(names, row.tolist()))} for (step, _), row in zip(pending, table)]
    )
    step, means = pending[-1][0], dict(zip(names, table.mean(0).tolist()))
    log.scalars(step, {**means, 'lr': lr})
    log.say(
        f'step {step + 1}/{max_steps}  '
        + '  '.join(f'{name} {value:.4f}' for name, value in means.items())
        + f'  lr {lr:.3g}'
    )


_STOPS = 'the run stops here and writes no weights (a lower --lr, or another --seed, may help)'


def check_finite(done: int, net: nn.Module) -> None:
    """UserError if a value of the network is not finite after `done` steps: a finite loss can have
    other gradients."""
    values = {name: value for name, value in net.state_dict().items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all() for value in values.values()]).tolist()
    if not all(finite):
        raise UserError(
            f'step {done - 1}: {list(values)[finite.index(False)]} has values that are not finite; '
            f'{_STOPS}'
        )


def _save(states: States, done: int, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    check_finite(done, net)
    if processes.is_main():
        states.save(done, net, optimizer)


def _stop(
    number: int,
    states: States | None,
    done: int,
    start_step: int,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write the state of a run that a signal ends, and end it."""
    written = states is not None and states.every
    if written and done > start_step:
        _save(states, done, net, optimizer)
    line = f'stopped by {signal.Signals(number).name} after step {done}; ' + (
        'the same command continues from there'
        if written
        else 'no training state was asked for, the run cannot continue'
    )
    raise Interrupted(number, line if processes.is_main() else '')
