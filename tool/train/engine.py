"""The training loop of every stage.

Batches are numbered by step, so a run can resume at any step with the batches it would have had.
The losses stay on the device and are read every LOG_EVERY steps, so a GPU is not waited for.
"""

import contextlib
import math
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.data import Dataset

from tool.method.class_set import ClassSet
from tool.run import interrupts
from tool.run.command_line import MOST_STEPS
from tool.run.errors import Interrupted, UserError
from tool.run.loader import load
from tool.run.progress import progress
from tool.train import processes
from tool.train.inputs import Input
from tool.train.log import RunLog
from tool.train.memory import keep_freed_memory
from tool.train.optimiser import base_lr, set_lr
from tool.train.precision import choose_algorithms
from tool.train.random_numbers import StepSampler, mixed_seed
from tool.train.states import States

# Steps between two reads of the losses from the device.
LOG_EVERY = 20
# What a process whose input is bad tells the others; higher than the number of any signal.
FAILED = 1000
# The end of every message about a value that is not finite.
_STOPS = 'the run stops here and writes no weights (a lower --lr, or another --seed, may help)'


def steps_of(images: int, batch_size: int, max_epochs: int, max_steps: int | None = None) -> int:
    """Number of training steps.

    Args:
        images: number of images in the list.
        batch_size: images in a step, all processes together.
        max_epochs: epochs to train; the incomplete last batch of an epoch is dropped.
        max_steps: the number of steps, instead of epochs, if it is given.
    Raises:
        UserError: there are fewer images than one batch has, or there are more steps than
            MOST_STEPS.
    """
    if images < batch_size:
        raise UserError(
            f'--batch_size {batch_size} is more than the {images} images of the list; use a '
            'smaller one'
        )
    steps = max_steps or images // batch_size * max_epochs
    if steps > MOST_STEPS:
        raise UserError(
            f'--max_epochs {max_epochs}: that is {steps:,} steps, at most {MOST_STEPS:,} are '
            'possible; use a smaller number'
        )
    return steps


def per_process(batch_size: int, accumulate: int = 1, name: str = '--batch_size') -> int:
    """Number of images of a batch that each process works on.

    Args:
        batch_size: images in a step, all processes together.
        accumulate: parts that a process works on one after the other.
        name: the flag or config key of the batch size, for the message.
    Raises:
        UserError: the batch cannot be split into equal parts.
    """
    parts = processes.world() * accumulate
    if batch_size % parts:
        how = f'{processes.world()} processes'
        if accumulate > 1:
            how += f' and {accumulate} parts each'
        raise UserError(
            f'{name} {batch_size}: cannot be split over {how}; make it a multiple of {parts}'
        )
    return batch_size // processes.world()


@dataclass(frozen=True)
class TrainOptions:
    """The choices of a command line or a config about a training run, whatever the network."""

    # path prefix of the checkpoint, the logs and the training states
    session: str
    # images in a step, all processes together
    batch_size: int
    # steps of the whole run
    max_steps: int
    # seed of every random choice
    seed: int
    # worker processes that load samples, per training process; 0: the training process loads them
    num_workers: int = 0
    # parts into which a process splits its share of a batch (gradient accumulation, saves memory)
    accumulate: int = 1
    # mixed precision of the network, a key of tool.train.precision.DTYPES
    amp: str = 'off'
    # compile the network with torch.compile
    compiled: bool = False
    # channels-last tensors in float32 too; on a GPU they always are
    channels_last: bool = False
    # on a GPU, float32 convolutions may compute in TF32
    tf32: bool = True
    # on a GPU, the same bits in every run instead of the fastest algorithms
    deterministic: bool = True
    # steps between two training states; 0: write none
    save_every: int = 0
    # remove existing training states instead of resuming from the newest one
    start_over: bool = False
    # check everything, say what would be done, and do not train
    dry_run: bool = False
    # TensorBoard folder; None or '': no TensorBoard
    tblog_dir: str | None = None
    # the flag or config key that chose num_workers, for messages
    workers_flag: str = '--num_workers'


@dataclass
class TrainingRun:
    """Everything that differs between the training runs of the stages.

    A training script fills it in and gives it to `tool.train.set_up.train`.
    """

    # the network, on `device`
    net: nn.Module
    # its parameter groups hold the initial learning rates
    optimizer: torch.optim.Optimizer
    # losses(batch, step) calls the network and returns a dict of scalar tensors. 'loss' is
    # minimised; all are logged. Summed over the parts of a process's share and averaged over the
    # processes, they have to be the losses of the whole batch.
    losses: Callable[[dict, int], dict[str, torch.Tensor]]
    # takes an index (epoch, number of the image) and returns a dict
    dataset: Dataset
    # lr_factor(step) → factor on the initial learning rates
    lr_factor: Callable[[int], float]
    # where the network and the batches are
    device: torch.device
    options: TrainOptions
    # the stage, which the checkpoint names: 'contrast_train', 'aff_train', 'segmentation'
    stage: str = ''
    # the settings that decide the weights; a training state with other settings is refused
    settings: dict = field(default_factory=dict)
    # what the run learns from; a training state that learned from other data is refused
    inputs: list[Input] = field(default_factory=list)
    # the files that the run reads; none of them may be replaced by what it writes
    reads: list[str] = field(default_factory=list)
    # steps between two further checkpoints <session>_itr<steps>.pth; 0: only the last one is kept
    checkpoint_every: int = 0
    # the classes of the data, whose names the checkpoint carries; None: it carries no names
    classes: ClassSet | None = None
    # the config that the checkpoint carries; None: it carries none
    config: dict | None = None
    # {name: value} for the start of the log, besides the facts that every run logs
    facts: dict = field(default_factory=dict)
    # lines for the log that follow the facts
    notes: list[str] = field(default_factory=list)
    # batch_facts(batch) → further entries for each part, computed from a process's whole share
    batch_facts: Callable[[dict], dict] | None = None
    # called once with the open log; with None in all processes but the main one
    on_log: Callable[[RunLog | None], None] | None = None
    # called after each step, before its state is written, with the number of steps done. So a run
    # that is killed in between does the step, and this, again
    before_state: Callable[[int], None] | None = None


class _Losses(nn.Module):
    """The losses as one module that contains the network.

    DistributedDataParallel wraps it, because the losses may call the network several times in a
    step.
    """

    def __init__(self, net: nn.Module, losses: Callable[[dict, int], dict[str, torch.Tensor]]):
        super().__init__()
        self.net = net
        self.losses = losses

    def forward(self, batch: dict, step: int) -> dict[str, torch.Tensor]:
        return self.losses(batch, step)


def fit(
    run: TrainingRun,
    start_step: int = 0,
    states: States | None = None,
    log: RunLog | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Train for the steps start_step … max_steps − 1.

    Under torchrun each process works on its share of every batch.

    Args:
        run: the network, its optimiser, its losses and its data.
        start_step: first step to do.
        states: writes training states regularly, and one when a signal ends the run; None: none.
        log: the log of the run; None in all processes but the main one.
        scaler: gradient scaler of fp16; None: no scaling.
    Raises:
        UserError: a loss or a weight became non-finite; the message names it and the step. Or the
            next batch cannot be loaded; then the state after the last step was written.
        Interrupted: SIGTERM or SIGINT came. The step was finished and its state written.
        SystemExit: another process of the run has failed; that one prints the message.
    """
    options = run.options
    max_steps = options.max_steps
    per_process(options.batch_size, options.accumulate)
    choose_algorithms(run.device, options.deterministic)
    if run.device.type == 'cpu':
        keep_freed_memory()
    model = processes.wrap(_Losses(run.net, run.losses), run.device, static=options.accumulate == 1)
    if scaler is None:
        scaler = torch.amp.GradScaler(enabled=False)
    run.net.train()
    pending: list[tuple[int, dict]] = []  # (step, losses) that are still on the device
    done = start_step
    bar = progress(
        total=max_steps * options.batch_size,
        initial=done * options.batch_size,
        desc='train',
        quiet=not processes.is_main(),
    )
    with (
        interrupts.Interrupts(quiet=not processes.is_main()) as signals,
        contextlib.closing(bar),
        _loaded(run, start_step, signals) as source,
    ):
        failure = _Failure()
        for step, batch in enumerate(_batches(source, signals, failure), start_step):
            # for dropout: the same numbers wherever the run was resumed
            torch.manual_seed(mixed_seed(options.seed, step, 0, processes.rank()))
            set_lr(run.optimizer, run.lr_factor(step))
            parts = _parts(batch, options.accumulate, run.device, run.batch_facts)
            losses = _update(model, run.optimizer, scaler, parts, step)
            pending.append((step, losses))
            bar.update(options.batch_size)
            done = step + 1
            saving = _state_is_due(states, done, max_steps)
            if saving or len(pending) == LOG_EVERY or done == max_steps:
                _report(pending, run.optimizer, log, max_steps)
                pending.clear()
            if run.before_state is not None:
                run.before_state(done)
            if saving:
                _save(states, done, run)
        if done < max_steps:
            if pending:
                _report(pending, run.optimizer, log, max_steps)
            saved = _save_last(states, done, start_step, run)
            failure.raise_any(saved)
            _stop(signals.signal, states, done)
    check_finite(done, run.net)


def _state_is_due(states: States | None, done: int, max_steps: int) -> bool:
    """True if a training state is to be written after `done` steps."""
    if states is None or states.every == 0:
        return False
    return done % states.every == 0 and done < max_steps


def _loaded(
    run: TrainingRun, start_step: int, signals: interrupts.Interrupts
) -> contextlib.AbstractContextManager[Iterator[dict]]:
    """Loads this process's share of every batch from `start_step` on, until a signal comes."""
    sampler = StepSampler(
        len(run.dataset),
        run.options.batch_size,
        run.options.max_steps,
        run.options.seed,
        start_step,
        processes.rank(),
        processes.world(),
    )
    return load(
        run.dataset,
        sampler,
        run.options.num_workers,
        batched=True,
        pin_memory=run.device.type == 'cuda',
        stop=lambda: signals.signal,
        flag=run.options.workers_flag,
    )


@dataclass
class _Failure:
    """Why there are no more batches, if this process or another one cannot load the next."""

    # the mistake that this process has found
    error: UserError | None = None
    # another process has found one, and prints it
    elsewhere: bool = False

    def raise_any(self, saved: str) -> None:
        """End the run if there is a failure.

        Args:
            saved: where the same command continues, for the message.
        Raises:
            UserError: this process has failed.
            SystemExit: another process has.
        """
        if self.error is not None:
            message = f'{self.error}; {saved}' if saved else str(self.error)
            raise UserError(message) from self.error
        if self.elsewhere:
            sys.exit(2)


def _batches(
    source: Iterator[dict], signals: interrupts.Interrupts, failure: _Failure
) -> Iterator[dict]:
    """Yield batches until the last one, until a signal has come to any of the processes, or until
    one of them cannot load its next batch.

    Before every batch the processes agree whether to go on, so that all of them stop at the same
    step. `signals.signal` then holds the number of the signal in each of them, or `failure` says
    what has failed.
    """
    while True:
        batch = None
        if not signals.signal:
            try:
                batch = next(source, None)
            except UserError as error:
                failure.error = error
        status = processes.highest(FAILED if failure.error else signals.signal)
        if status == FAILED:
            failure.elsewhere = failure.error is None
            return
        if status:
            signals.signal = status
            return
        if batch is None:
            return
        yield batch


def _parts(
    batch: dict, count: int, device: torch.device, batch_facts: Callable[[dict], dict] | None
) -> list[dict]:
    """Bring a batch to the device and split it into `count` equal parts.

    What `batch_facts` returns for the whole batch is added to each part.
    """
    on_device = {}
    for key, value in batch.items():
        if torch.is_tensor(value):
            value = value.to(device, non_blocking=True)
        on_device[key] = value
    common = batch_facts(on_device) if batch_facts else {}
    first_entry = next(iter(on_device.values()))
    size = len(first_entry) // count
    parts = []
    for first in range(0, size * count, size):
        part = {key: value[first : first + size] for key, value in on_device.items()}
        parts.append({**part, **common})
    return parts


def _update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    parts: list[dict],
    step: int,
) -> dict[str, torch.Tensor]:
    """Do one step of the optimiser with the gradients of all parts.

    Returns:
        The losses, each summed over the parts, without gradient and still on the device.
    """
    optimizer.zero_grad(set_to_none=True)
    sums: dict[str, torch.Tensor] = {}
    for part in parts:
        # The processes exchange gradients once in a step, with the last part.
        keeps_gradients = processes.world() > 1 and part is not parts[-1]
        with model.no_sync() if keeps_gradients else contextlib.nullcontext():
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
    """Read the pending losses from the device, check them, and log them.

    Args:
        pending: (step, {name: scalar tensor}) of each step since the last report.
        optimizer: its learning rate is logged.
        log: None in all processes but the main one.
        max_steps: steps of the whole run.
    Raises:
        UserError: a loss is not finite.
    """
    steps = [step for step, _ in pending]
    names = list(pending[0][1])
    rows = []
    for _, terms in pending:
        rows.append(torch.stack([terms[name].float() for name in names]))
    table = torch.stack(rows)  # [steps, names]
    # one transfer from the device, of the mean over the processes
    table = (processes.total(table) / processes.world()).cpu()
    records = []
    for step, row in zip(steps, table.tolist()):
        values = dict(zip(names, row))
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(f'step {step}: {name} is {value}; {_STOPS}')
        records.append({'step': step, **values})
    if log is None:
        return
    lr = base_lr(optimizer)
    means = dict(zip(names, table.mean(0).tolist()))
    losses = '  '.join(f'{name} {value:.4f}' for name, value in means.items())
    log.records(records)
    log.scalars(steps[-1], {**means, 'lr': lr})
    log.say(f'step {steps[-1] + 1}/{max_steps}  {losses}  lr {lr:.3g}')


def check_finite(done: int, net: nn.Module) -> None:
    """Make sure that all values of the network are finite after `done` steps.

    The losses do not tell: a finite loss can have gradients that are not finite.

    Raises:
        UserError: names the first tensor with a value that is not finite.
    """
    values = {name: value for name, value in net.state_dict().items() if value.is_floating_point()}
    # one transfer from the device
    finite = torch.stack([value.isfinite().all() for value in values.values()]).tolist()
    for name, is_finite in zip(values, finite):
        if not is_finite:
            raise UserError(f'step {done - 1}: {name} has values that are not finite; {_STOPS}')


def _save(states: States, done: int, run: TrainingRun) -> None:
    """Write the training state after `done` steps, in the main process."""
    check_finite(done, run.net)
    if processes.is_main():
        states.save(done, run.net, run.optimizer)


def _save_last(states: States | None, done: int, start_step: int, run: TrainingRun) -> str:
    """Write the training state of a run that ends early, after `done` steps.

    Returns:
        Where the same command continues, for a message; '' if the run keeps no states, or has none
        yet.
    """
    if states is None or states.every == 0 or done == 0:
        return ''
    if done > start_step:
        _save(states, done, run)
    return f'the state after step {done} is saved, the same command continues from there'


def _stop(number: int, states: States | None, done: int) -> None:
    """End a run that a signal has stopped, and whose state is written.

    Raises:
        Interrupted: always; only the main process has a message.
    """
    if not processes.is_main():
        raise Interrupted(number, '')
    if states is not None and states.every > 0:
        what_next = 'the same command continues from there'
    else:
        what_next = 'no training state was asked for, the run cannot continue'
    name = signal.Signals(number).name
    raise Interrupted(number, f'stopped by {name} after step {done}; {what_next}')
