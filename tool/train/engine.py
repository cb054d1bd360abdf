"""The training loop of every stage: batches by step, losses kept on the device, a learning rate for
every step, training states."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tool.method.class_set import ClassSet
from tool.run import interrupts
from tool.run.errors import Interrupted, UserError
from tool.run.progress import progress
from tool.train import processes
from tool.train.log import RunLog
from tool.train.memory import keep_freed_memory
from tool.train.optimiser import set_lr
from tool.train.precision import same_bits
from tool.train.random_numbers import StepSampler, mixed_seed
from tool.train.states import States

LOG_EVERY = 20  # steps between two reads of the losses from the device
FAILED = 1000  # above the number of every signal


def steps_of(images: int, batch_size: int, max_epochs: int, max_steps: int | None = None) -> int:
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


@dataclass(frozen=True)
class TrainOptions:
    """What the command line, or a config, decides about a training run of any network."""

    # path prefix of the checkpoint, the logs and the training states
    session: str
    # images a step, all processes together
    batch_size: int
    # steps of the whole run
    max_steps: int
    # decides every random choice
    seed: int
    # processes that load samples, for each training process; 0: the training process itself
    num_workers: int = 0
    # parts that a process's share of a batch is worked on in, one after the other, to save memory
    accumulate: int = 1
    # what the network computes in, one of tool.train.precision.DTYPES
    amp: str = 'off'
    # torch.compile the network
    compiled: bool = False
    # channels-last tensors in float32 too
    channels_last: bool = False
    # steps between two training states; 0: none
    save_every: int = 0
    # remove the training states that are there instead of continuing from the newest
    start_over: bool = False
    # TensorBoard folder; None or '': none
    tblog_dir: str | None = None


@dataclass
class TrainingRun:
    """A training run: what is trained on what, and what is told about it.

    A script fills it in and gives it to `tool.train.set_up.train`.
    """

    # the network, in place on `device`
    net: nn.Module
    # its parameter groups hold the initial learning rates
    optimizer: torch.optim.Optimizer
    # losses(batch, step) → dict of scalar tensors; its 'loss' is minimised, all are logged. It
    # calls the network. The mean over the processes of the sum over the parts of a batch has to be
    # the loss of the whole batch.
    losses: Callable[[dict, int], dict[str, torch.Tensor]]
    # indexed by (epoch, index); its items are dicts
    dataset: Dataset
    # factor on the initial learning rates at a step
    lr_factor: Callable[[int], float]
    # where the network and each batch are
    device: torch.device
    options: TrainOptions
    # what decides the weights: a training state of other settings is refused
    settings: dict = field(default_factory=dict)
    # of the data: its checkpoints carry their names; None: they carry none
    classes: ClassSet | None = None
    # facts for the start of the log, besides those that every run has
    facts: dict = field(default_factory=dict)
    # lines for the log after the facts
    notes: list[str] = field(default_factory=list)
    # batch_facts(batch) → what every part has to know of the process's share of a batch; it is
    # added to each part
    batch_facts: Callable[[dict], dict] | None = None
    # called once with the open log, None in all processes but the main one
    on_log: Callable[[RunLog | None], None] | None = None
    # called with the number of steps done (further checkpoints)
    after_step: Callable[[int], None] | None = None


class _Losses(nn.Module):
    """The losses as one module around the network, however often they call it: what
    DistributedDataParallel needs."""

    def __init__(self, net: nn.Module, losses: Callable):
        super().__init__()
        self.net, self.losses = net, losses

    def forward(self, batch: dict, step: int) -> dict[str, torch.Tensor]:
        return self.losses(batch, step)


def fit(
    run: TrainingRun,
    start_step: int = 0,
    states: States | None = None,
    log: RunLog | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Train for steps start_step … max_steps − 1; under torchrun each process works on its part of
    every batch.

    Args:
        states: writes training states as it goes, and when a signal ends the run.
        log: None in all processes but the main one.
        scaler: gradient scaler of fp16.
    Raises:
        UserError: a loss term or a weight became non-finite; names the step and which.
        Interrupted: SIGTERM or SIGINT came; the step was finished and its state written.
    """
    options = run.options
    max_steps = options.max_steps
    per_process(options.batch_size, options.accumulate)
    same_bits(run.device)
    if run.device.type == 'cpu':
        keep_freed_memory()
    loader = _loader(run, start_step)
    model = processes.wrap(_Losses(run.net, run.losses), run.device, static=options.accumulate == 1)
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    run.net.train()
    pending: list[tuple[int, dict]] = []  # losses not yet read from the device
    done = start_step
    bar = progress(
        total=max_steps * options.batch_size,
        initial=done * options.batch_size,
        desc='train',
        quiet=not processes.is_main(),
    )
    with (
        interrupts.Interrupts(quiet=not processes.is_main()) as wish,
        contextlib.closing(bar),
        contextlib.closing(_batches(loader, wish)) as batches,
    ):
        for step, batch in enumerate(batches, start_step):
            torch.manual_seed(mixed_seed(options.seed, step, 0, processes.rank()))  # dropout
            set_lr(run.optimizer, run.lr_factor(step))
            parts = _parts(batch, options.accumulate, run.device, run.batch_facts)
            pending.append((step, _update(model, run.optimizer, scaler, parts, step)))
            bar.update(options.batch_size)
            done = step + 1
            saving = (
                states is not None
                and states.every
                and done % states.every == 0
                and done < max_steps
            )
            if len(pending) == LOG_EVERY or done == max_steps or saving:
                _report(pending, run.optimizer, log, max_steps)
                pending.clear()
            if saving:
                _save(states, done, run)
            if run.after_step is not None:
                run.after_step(done)
        if done < max_steps:
            if pending:
                _report(pending, run.optimizer, log, max_steps)
            _stop(wish.signal, states, done, start_step, run)
    check_finite(done, run.net)


def _loader(run: TrainingRun, start_step: int) -> DataLoader:
    """This process's part of every batch from `start_step` on."""
    sampler = StepSampler(
        len(run.dataset),
        run.options.batch_size,
        run.options.max_steps,
        run.options.seed,
        start_step,
        processes.rank(),
        processes.world(),
    )
    return DataLoader(
        run.dataset,
        batch_sampler=sampler,
        num_workers=run.options.num_workers,
        pin_memory=run.device.type == 'cuda',
        worker_init_fn=interrupts.ignore,
    )


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
    batch: dict, count: int, device: torch.device, batch_facts: Callable[[dict], dict] | None
) -> list[dict]:
    """The batch on the device, in `count` equal parts, each with what `batch_facts` says of all of
    it."""
    batch = {
        key: value.to(device, non_blocking=True) if torch.is_tensor(value) else value
        for key, value in batch.items()
    }
    size = len(next(iter(batch.values()))) // count
    common = batch_facts(batch) if batch_facts else {}
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


def _save(states: States, done: int, run: TrainingRun) -> None:
    check_finite(done, run.net)
    if processes.is_main():
        states.save(done, run.net, run.optimizer)


def _stop(number: int, states: States | None, done: int, start_step: int, run: TrainingRun) -> None:
    """Write the state of a run that a signal ends, and end it."""
    written = states is not None and states.every
    if written and done > start_step:
        _save(states, done, run)
    line = f'stopped by {signal.Signals(number).name} after step {done}; ' + (
        'the same command continues from there'
        if written
        else 'no training state was asked for, the run cannot continue'
    )
    raise Interrupted(number, line if processes.is_main() else '')
