"""Training states on disk, from which an interrupted run resumes with the same result."""

import argparse
import glob
import os
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tool.files.checkpoints import is_plain
from tool.files.manifest import first_difference
from tool.files.torch_files import read_torch, write_torch
from tool.run.errors import UserError
from tool.train import processes
from tool.train.inputs import Input, first_change, record

# Flags of the training scripts that do not decide the weights, but for rounding: where files lie,
# how fast a run is, whether it is a dry run.
# What lies in the files does: the caller of `run_settings` gives the fingerprint of --weights, and
# those of the others are the `inputs` of a run.
_NO_DECISION = (
    'weights',
    'voc12_root',
    'train_list',
    'cls_labels',
    'saliency_root',
    'la_crf_dir',
    'ha_crf_dir',
    'label_dir',
    'refiner',  # Refiner.settings has it
    'session_name',
    'num_workers',
    'device',
    'deterministic',
    'grad_checkpointing',
    'tblog_dir',
    'save_every',
    'no_resume',
    'dry_run',
)


def run_settings(args: argparse.Namespace, **more: object) -> dict:
    """The settings of a run that decide its weights.

    Args:
        args: the flags of the run; those that do not decide the weights are left out.
        more: further settings.
    """
    settings = {key: value for key, value in vars(args).items() if key not in _NO_DECISION}
    return {**settings, **more}


class DamagedState(Exception):
    """A training state that cannot be read; the message says why."""


class States:
    """The training states of a run: `<session>.state-<step>.pth`.

    A state holds the network, the optimiser, the step, the settings and fingerprints of the data.
    The main process writes it, and the last two are kept.

    Args:
        session: path prefix of the files.
        settings: what decides the weights; a state with other settings is refused.
        every: steps between two states; 0: none are written.
        inputs: what the run learns from; a state that learned from other data is refused.
        more: further objects with a state_dict that decide how the run goes on, by name, e.g. the
            gradient scaler of fp16.
    Attributes:
        notes: lines for the log on damaged states that were passed over.
    """

    def __init__(
        self,
        session: str,
        settings: dict,
        every: int,
        inputs: Sequence[Input] = (),
        **more: Any,
    ):
        self.session = session
        self.settings = settings
        self.every = every
        self.inputs = inputs
        self.more = more
        self.notes: list[str] = []

    def path(self, step: int) -> str:
        """The path of the state after `step` steps."""
        return f'{self.session}.state-{step}.pth'

    def _files(self) -> list[tuple[int, str]]:
        """(step, path) of every state on disk, in the order of the steps."""
        session_name = os.path.basename(self.session)
        pattern = re.compile(re.escape(session_name) + r'\.state-(\d+)\.pth$')
        files = []
        for path in glob.glob(glob.escape(self.session) + '.state-*.pth'):
            match = pattern.match(os.path.basename(path))
            if match:
                files.append((int(match[1]), path))
        return sorted(files)

    def paths(self) -> list[str]:
        """The paths of all states on disk."""
        return [path for _, path in self._files()]

    def load(self) -> dict | None:
        """The newest state that can be read; None where there is no state at all.

        Each damaged one that is passed over gets a line in `notes`.

        Raises:
            UserError: all of them are damaged, or the newest readable one has other settings or
                other data; the message names the difference.
        """
        files = self._files()
        reasons = []
        for step, path in reversed(files):
            try:
                state = self._read(step, path)
            except DamagedState as error:
                reasons.append(f'{path}: damaged training state ({error})')
                continue
            self._check(path, state)
            self.notes += [f'{reason}; continuing from {path}' for reason in reasons]
            return state
        if files:
            raise UserError(
                f'{reasons[0]}, and no other state is left to continue from; use --no_resume to '
                'start over'
            )
        return None

    def _read(self, step: int, path: str) -> dict:
        """Read the state of a step.

        Raises:
            DamagedState: it cannot be read, or is none of this step.
        """
        try:
            state = read_torch(path)
            if not isinstance(state, dict):
                raise DamagedState('it is no dict')
            names = ('net', 'optimizer', *self.more)
            lost = [name for name in ('step', 'settings', *names) if name not in state]
            if lost:
                raise DamagedState(f'it has no {lost[0]}')
            if state['step'] != step:
                raise DamagedState(f'it is of step {str(state["step"])[:20]}')
            for name in ('settings', *names):
                if not isinstance(state[name], dict):
                    raise DamagedState(f'its {name} is no dict')
            if not is_plain(state['settings']):
                raise DamagedState('its settings are no texts, numbers and lists of them')
        except DamagedState:
            raise
        except Exception as error:  # a damaged file can raise anything
            raise DamagedState(_short(error)) from None
        return state

    def _check(self, path: str, state: dict) -> None:
        """Check that a state is of this run.

        Raises:
            UserError: it has other settings, or learned from other data.
        """
        start_over = 'use --no_resume to start over'
        difference = first_difference(state['settings'], self.settings)
        if difference is not None:
            raise UserError(
                f'{path}: is of a run with {difference}; {start_over}, or another session name'
            )
        before = state.get('inputs')
        if not isinstance(before, dict):
            raise UserError(
                f'{path}: does not say what it learned from, as the states of earlier versions; '
                f'{start_over}'
            )
        changed = first_change(before, self.inputs)
        if changed is not None:
            raise UserError(
                f'{path}: {changed} changed since this state was written; restore what was there, '
                f'or {start_over}'
            )

    def resume(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, start_over: bool = False
    ) -> int:
        """Load the newest state that can be read into the network and the optimiser.

        The main process reads it and sends it to the others, so the folder need not be shared.

        Args:
            net: the network.
            optimizer: its optimiser.
            start_over: remove all states first.
        Returns:
            The number of steps done; 0 where there is no state.
        Raises:
            UserError: as `load`; or the state does not fit the network or the optimiser.
        """

        def newest() -> dict | None:
            if start_over:
                self.clear()
            self._remove_leftovers()
            return self.load()

        state = processes.once(newest)
        if state is None:
            return 0
        try:
            net.load_state_dict(state['net'])
            load_optimizer(optimizer, state['optimizer'])
            for name, item in self.more.items():
                item.load_state_dict(state[name])
        except Exception as error:  # what was edited by hand can raise anything
            raise UserError(
                f'{self.path(state["step"])}: does not fit this network ({_short(error)}); remove '
                'it, or use --no_resume to start over'
            ) from None
        return state['step']

    def how_to_go_on(self) -> str:
        """A line on what the same command will do, for a run that has to end now."""
        files = self._files()
        if not files:
            return 'there is no training state, so the same command starts from the beginning'
        step, _ = files[-1]
        return f'the same command continues after step {step}'

    def save(self, step: int, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write the state after `step` steps, and remove all but the last two.

        Raises:
            OutputError: it cannot be written; the earlier states are left.
        """
        items = {'net': net, 'optimizer': optimizer, **self.more}
        state = {'step': step, 'settings': self.settings, 'inputs': record(self.inputs)}
        for name, item in items.items():
            state[name] = item.state_dict()
        write_torch(self.path(step), state)
        for _, path in self._files()[:-2]:
            os.unlink(path)

    def clear(self) -> None:
        """Remove all states of the session."""
        for _, path in self._files():
            os.unlink(path)

    def _remove_leftovers(self) -> None:
        """Remove the temporary files (see `atomic`) of a run that was killed while it wrote."""
        folder, name = os.path.split(os.path.abspath(self.session))
        prefix = os.path.join(glob.escape(folder), '.' + glob.escape(name))
        for ending in ('.state-*.pth', '_itr*.pth', '.pth', '.jsonl'):
            for path in glob.glob(f'{prefix}{ending}.*.tmp'):
                os.unlink(path)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load what an optimiser has accumulated for every parameter, such as its momentum.

    Learning rates and other settings stay those of the run, which decides them in every step.

    Args:
        optimizer: the optimiser, with the parameters that it had.
        state: its state dict.
    Raises:
        ValueError: a tensor does not have the shape of its parameter.
    """
    optimizer.load_state_dict({**optimizer.state_dict(), 'state': state['state']})
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            is_number = not torch.is_tensor(value) or value.ndim == 0
            if not is_number and value.shape != parameter.shape:
                shape = tuple(value.shape)
                raise ValueError(f'{name} is {shape}, expected {tuple(parameter.shape)}')


def _short(error: Exception) -> str:
    """The reason of an error in a few words."""
    lines = str(error).splitlines() or [type(error).__name__]
    return ' '.join(' '.join(lines[:2]).split())[:120]
