"""Training states on disk, from which an interrupted run resumes with the same result."""

import argparse
import glob
import os
import re
from typing import Any

import torch
from torch import nn

from tool.files.atomic import atomic
from tool.files.manifest import first_difference
from tool.run.errors import UserError
from tool.train import processes

# Flags of the training scripts that do not decide the weights: where files lie, how fast a run is.
# The file of --weights is among them, because the caller of `run_settings` gives its fingerprint.
_NO_DECISION = (
    'weights',
    'voc12_root',
    'session_name',
    'num_workers',
    'device',
    'tblog_dir',
    'save_every',
    'no_resume',
)


def run_settings(args: argparse.Namespace, **more: object) -> dict:
    """The settings of a run that decide its weights.

    Args:
        args: the flags of the run; those that do not decide the weights are left out.
        more: further settings.
    """
    settings = {key: value for key, value in vars(args).items() if key not in _NO_DECISION}
    return {**settings, **more}


class States:
    """The training states of a run: `<session>.state-<step>.pth`.

    A state holds the network, the optimiser, the step and the settings. The main process writes it,
    and the last two are kept.

    Args:
        session: path prefix of the files.
        settings: what decides the weights; a state with other settings is refused.
        every: steps between two states; 0: none are written.
        more: further objects with a state_dict that decide how the run goes on, by name, e.g. the
            gradient scaler of fp16.
    """

    def __init__(self, session: str, settings: dict, every: int, **more: Any):
        self.session = session
        self.settings = settings
        self.every = every
        self.more = more

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

    def load(self) -> dict | None:
        """The newest state; None where there is none.

        Raises:
            UserError: it is damaged or has other settings; the message names the difference.
        """
        files = self._files()
        if not files:
            return None
        _, path = files[-1]
        try:
            state = torch.load(path, map_location='cpu', weights_only=True)
            before = state['settings']
        except Exception as error:  # a damaged file can raise anything
            raise UserError(
                f'{path}: damaged training state ({str(error)[:100]}); delete it or use --no_resume'
            ) from None
        difference = first_difference(before, self.settings)
        if difference is not None:
            raise UserError(
                f'{path}: is of a run with {difference}; use --no_resume to start over, or another '
                'session name'
            )
        return state

    def resume(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, start_over: bool = False
    ) -> int:
        """Load the newest state into the network and the optimiser.

        The main process reads it and sends it to the others, so the folder need not be shared.

        Args:
            net: the network.
            optimizer: its optimiser.
            start_over: remove all states first.
        Returns:
            The number of steps done; 0 where there is no state.
        Raises:
            UserError: as `load`.
        """

        def newest() -> dict | None:
            if start_over:
                self.clear()
            self._remove_leftovers()
            return self.load()

        state = processes.once(newest)
        if state is None:
            return 0
        items = {'net': net, 'optimizer': optimizer, **self.more}
        for name, item in items.items():
            item.load_state_dict(state[name])
        return state['step']

    def save(self, step: int, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write the state after `step` steps, and remove all but the last two."""
        items = {'net': net, 'optimizer': optimizer, **self.more}
        state = {'step': step, 'settings': self.settings}
        for name, item in items.items():
            state[name] = item.state_dict()
        with atomic(f'{self.session}.state-{step}.pth') as temporary:
            torch.save(state, temporary)
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
        for ending in ('.state-*.pth', '.pth'):
            for path in glob.glob(f'{prefix}{ending}.*.tmp'):
                os.unlink(path)
