"""Start and end of every training run. What differs between the stages is a `TrainingRun`.

A training script takes these steps: `start` (device, processes, seed), then it reads its inputs and
makes its network, then `place` (the network on the device, at the precision asked for), `train`.
"""

import argparse
import contextlib
import dataclasses
import glob
import os
import re
import shutil
from collections.abc import Callable

import torch
from torch import nn

from tool.files.atomic import check_writable
from tool.files.checkpoints import load_checkpoint, save_checkpoint, training_of
from tool.files.disk import existing_part, in_words
from tool.files.manifest import first_difference
from tool.files.places import same_place
from tool.run.errors import OutputError, UserError
from tool.train import processes
from tool.train.engine import TrainingRun, TrainOptions, check_finite, fit, per_process
from tool.train.inputs import first_change, record
from tool.train.log import RunLog
from tool.train.precision import allow_tf32, described, fast_forward, grad_scaler
from tool.train.session_lock import check_session, only_run_of
from tool.train.states import States


def start(device_name: str | None, seed: int) -> torch.device:
    """Join the other processes of torchrun, if there are any, and seed the initial weights.

    Args:
        device_name: the value of --device; None if it was not given.
        seed: decides the initial weights of the layers that are made from here on.
    Returns:
        The device of this process.
    Raises:
        UserError: this machine does not have the device.
    """
    device = processes.start(device_name)
    torch.manual_seed(seed)
    return device


def options_of(args: argparse.Namespace, max_steps: int, accumulate: int = 1) -> TrainOptions:
    """The training options that a command line gives.

    Args:
        args: holds the flags of `command_line.add_train_flags` and `add_precision_flags`, where
            --amp is `precision.resolved` already.
        max_steps: steps of the whole run.
        accumulate: parts into which a process splits its share of a batch.
    Raises:
        UserError: the batch cannot be split over the processes and parts.
    """
    per_process(args.batch_size, accumulate)
    return TrainOptions(
        session=args.session_name,
        batch_size=args.batch_size,
        max_steps=max_steps,
        seed=args.seed,
        num_workers=args.num_workers,
        accumulate=accumulate,
        amp=args.amp,
        compiled=args.compile,
        channels_last=args.channels_last,
        tf32=args.tf32 == 'on',
        deterministic=args.deterministic == 'on',
        save_every=args.save_every,
        start_over=args.no_resume,
        dry_run=args.dry_run,
        tblog_dir=args.tblog_dir,
    )


def place(
    net: nn.Module, device: torch.device, options: TrainOptions
) -> tuple[nn.Module, Callable]:
    """Bring a network to its device, at the precision asked for.

    Make the optimiser afterwards, from the network that is returned: it may have other modules.

    Returns:
        The network, and the function to call in its place (see `precision.fast_forward`).
    Raises:
        UserError: fp16 is asked for without a GPU.
    """
    allow_tf32(options.tf32)
    net = processes.sync_norms(net.to(device), device)
    forward = fast_forward(net, device, options.amp, options.compiled, options.channels_last)
    return net, forward


def train(run: TrainingRun) -> None:
    """Train, and write <session>.pth, a bare state dict.

    The run resumes from its newest training state, if there is one. At the end the training states
    are removed. A dry run only makes the checks and says what would be done.

    Raises:
        UserError: another run of the session is at work; a file of another training would be
            replaced; a training state is damaged or has other settings; a loss became non-finite;
            a file could not be written in the middle, and the message says how to go on.
        Interrupted: SIGTERM or SIGINT came; see `engine.fit`.
    """
    options = run.options
    scaler = grad_scaler(options.amp)
    settings = settings_of(run)
    if options.dry_run:
        processes.once(lambda: _say_plan(run, settings))
        return
    with only_run_of(options.session):
        states = States(options.session, settings, options.save_every, run.inputs, scaler=scaler)
        replaced = processes.once(lambda: check_outputs(run, states))
        start_step = states.resume(run.net, run.optimizer, options.start_over)
        if start_step >= options.max_steps:
            raise UserError(
                f'{states.path(start_step)}: is of a later step than the last one of this run, '
                f'{options.max_steps}; remove it, or use --no_resume to start over'
            )
        # The log is opened last: a run that is refused leaves the old one as it is.
        notes = [*replaced, *states.notes]
        log = _open_log(run, start_step, notes) if processes.is_main() else None
        try:
            _fit_and_save(run, start_step, states, log, scaler)
        except OutputError as error:
            raise UserError(f'{error}; {states.how_to_go_on()}') from None
        finally:
            if log is not None:
                with contextlib.suppress(OutputError):  # the first error is the one to report
                    log.close()


def _say_plan(run: TrainingRun, settings: dict) -> None:
    """Check what `train` would, and print what it would do.

    Raises:
        UserError: as `train` before its first step.
    """
    options = run.options
    check_session(options.session)
    states = States(options.session, settings, options.save_every, run.inputs)
    replaced = check_outputs(run, states)
    if options.start_over:
        print(f'{len(states.paths())} training states would be removed')
        start_step = 0
    else:
        newest = states.load()
        start_step = newest['step'] if newest is not None else 0
    for note in [*replaced, *states.notes]:
        print(note)
    if run.inputs:
        print(f'learns from {", ".join(item.name for item in run.inputs)}')
    weights = sum(value.numel() * value.element_size() for value in run.net.state_dict().values())
    # each of the two last states holds the network and the momentum of the optimiser
    states_size = 4 * weights if options.save_every else 0
    free = shutil.disk_usage(existing_part(options.session)).free
    print(
        f'{options.session}.pth: steps {start_step} … {options.max_steps} of '
        f'{len(run.dataset)} pictures, batches of {options.batch_size}; '
        f'about {in_words(weights)} to write, '
        f'{in_words(states_size)} meanwhile for training states, {in_words(free)} free'
    )
    print('dry run: nothing was made')


def settings_of(run: TrainingRun) -> dict:
    """All settings that decide the weights of a run, its stage and its classes included."""
    settings = {'stage': run.stage, **run.settings}
    if run.classes is not None:
        settings['classes'] = ', '.join(run.classes.foreground)
    return settings


def check_outputs(run: TrainingRun, states: States) -> list[str]:
    """Check before the first step that a run replaces no file that is not its own.

    A checkpoint of the same settings and data is replaced: the same command trains again. One of
    other data is replaced only by a run that was told to start over, or by one that continues after
    a break: its states are of the data that there are now, or they are refused themselves.

    Args:
        run: the run.
        states: its training states.
    Returns:
        Lines for the log on the checkpoints of other data that will be replaced.
    Raises:
        UserError: the run reads a file that it would write; a log cannot be written; or a
            checkpoint in its place is of another training or of other data, and the message names
            the first difference.
    """
    session = run.options.session
    checkpoints = [session + '.pth', *_further_checkpoints(run)]
    logs = [session + '.log', session + '.jsonl']
    for path in logs:
        check_writable(os.path.realpath(path))  # a log that is a link is written where it leads
    for path in [*checkpoints, *logs]:
        for read in run.reads:
            if same_place(path, read):
                raise UserError(
                    f'{path}: this training reads it and would replace it; use another session name'
                )
    may_replace = run.options.start_over or bool(states.paths())
    notes = []
    for path in checkpoints:
        if not os.path.lexists(path):
            continue
        training = _own_training(path, settings_of(run))
        changed = first_change(training['inputs'], run.inputs)
        if changed is not None and not may_replace:
            raise UserError(
                f'{path}: {changed} changed since it was trained; use another session name, or '
                '--no_resume to train anew and replace it'
            )
        if changed is not None:
            notes.append(f'{path}: {changed} changed since it was trained; this run replaces it')
    return notes


def _further_checkpoints(run: TrainingRun) -> list[str]:
    """The further checkpoints on disk that a run would replace."""
    session = run.options.session
    found = []
    for path in glob.glob(glob.escape(session) + '_itr*.pth'):
        match = re.fullmatch(r'_itr(\d+)\.pth', path[len(session) :])
        if match and _is_kept(run, int(match[1])):
            found.append(path)
    return sorted(found)


def _is_kept(run: TrainingRun, done: int) -> bool:
    """Whether a run keeps a further checkpoint after `done` steps."""
    if run.checkpoint_every == 0:
        return False
    return done % run.checkpoint_every == 0 and done < run.options.max_steps


def _own_training(path: str, settings: dict) -> dict:
    """The entries of a checkpoint about its training: 'settings' and 'inputs'.

    Raises:
        UserError: it says nothing, or its training had other settings.
    """
    fix = 'use another session name, or move the file away'
    try:
        training = training_of(load_checkpoint(path))
    except UserError:  # damaged, or no checkpoint
        training = None
    parts = ('settings', 'inputs')
    if training is None or not all(isinstance(training.get(part), dict) for part in parts):
        raise UserError(
            f'{path}: does not say which training wrote it, so it is not replaced; {fix}'
        )
    difference = first_difference(training['settings'], settings)
    if difference is not None:
        raise UserError(f'{path}: is of a training with {difference}; {fix}')
    return training


def _fit_and_save(
    run: TrainingRun,
    start_step: int,
    states: States,
    log: RunLog | None,
    scaler: torch.amp.GradScaler,
) -> None:
    """Train from a step on, and write the checkpoints."""
    session = run.options.session
    training = {'settings': settings_of(run), 'inputs': record(run.inputs)}

    def save(path: str) -> None:
        save_checkpoint(path, run.net.state_dict(), run.classes, run.config, training)

    def keep_checkpoint(done: int) -> None:
        if processes.is_main() and _is_kept(run, done):
            check_finite(done, run.net)
            save(f'{session}_itr{done}.pth')

    if run.on_log is not None:
        run.on_log(log)
    run = dataclasses.replace(run, before_state=keep_checkpoint)
    fit(run, start_step, states, log, scaler)
    if log is not None:
        path = session + '.pth'
        save(path)
        states.clear()
        log.say(f'wrote {path}')
        log.close()


def _open_log(run: TrainingRun, start_step: int, notes: list[str]) -> RunLog:
    """Open the log of a run and write its facts and notes.

    Args:
        notes: lines that follow those of the run.
    """
    options = run.options
    share = per_process(options.batch_size, options.accumulate)
    parts = f', {options.accumulate} parts' if options.accumulate > 1 else ''
    steps = f'{start_step} … {options.max_steps}' if start_step else options.max_steps
    log = RunLog(options.session, options.tblog_dir, start_step)
    log.header(
        **run.facts,
        seed=options.seed,
        device=run.device,
        amp=described(options.amp, run.device, options.tf32),
        batch=f'{options.batch_size} ({processes.world()} × {share}{parts})',
        steps=steps,
    )
    for line in [*run.notes, *notes]:
        log.say(line)
    return log
