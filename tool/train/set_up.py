"""How every training run starts and ends. What differs between the stages is a `TrainingRun`.

A training script takes these steps: `start` (device, processes, seed), then it reads its inputs and
makes its network, then `place` (the network on the device, at the precision asked for), `train`.
"""

import argparse
from collections.abc import Callable

import torch
from torch import nn

from tool.files.checkpoints import save_checkpoint
from tool.train import processes
from tool.train.engine import TrainingRun, TrainOptions, fit, per_process
from tool.train.log import RunLog
from tool.train.precision import described, fast_forward, grad_scaler
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
        save_every=args.save_every,
        start_over=args.no_resume,
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
    net = processes.sync_norms(net.to(device), device)
    forward = fast_forward(net, device, options.amp, options.compiled, options.channels_last)
    return net, forward


def train(run: TrainingRun) -> None:
    """Train, and write <session>.pth, a bare state dict.

    The run resumes from its newest training state, if there is one. At the end the training states
    are removed.

    Raises:
        UserError: a training state is damaged or has other settings; a loss became non-finite.
        Interrupted: SIGTERM or SIGINT came; see `engine.fit`.
    """
    options = run.options
    scaler = grad_scaler(options.amp)
    settings = run.settings
    if run.classes is not None:
        settings = {**settings, 'classes': ', '.join(run.classes.foreground)}
    states = States(options.session, settings, options.save_every, scaler=scaler)
    start_step = states.resume(run.net, run.optimizer, options.start_over)

    # The log is opened last: a run that is refused leaves the old one as it is.
    log = _open_log(run, start_step) if processes.is_main() else None
    if run.on_log is not None:
        run.on_log(log)
    fit(run, start_step, states, log, scaler)
    if log is not None:
        path = options.session + '.pth'
        save_checkpoint(path, run.net.state_dict(), run.classes, run.config)
        states.clear()
        log.say(f'wrote {path}')
        log.close()


def _open_log(run: TrainingRun, start_step: int) -> RunLog:
    """Open the log of a run and write its facts and notes."""
    options = run.options
    share = per_process(options.batch_size, options.accumulate)
    parts = f', {options.accumulate} parts' if options.accumulate > 1 else ''
    steps = f'{start_step} … {options.max_steps}' if start_step else options.max_steps
    log = RunLog(options.session, options.tblog_dir, start_step)
    log.header(
        **run.facts,
        seed=options.seed,
        device=run.device,
        amp=described(options.amp, run.device),
        batch=f'{options.batch_size} ({processes.world()} × {share}{parts})',
        steps=steps,
    )
    for line in run.notes:
        log.say(line)
    return log
