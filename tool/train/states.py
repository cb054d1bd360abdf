"""Training states on disk: what a run that was broken off continues from, bit by bit."""

import glob
import os
import re
from typing import Any

import torch
from torch import nn

from tool.files.atomic import atomic
from tool.run.errors import UserError
from tool.train import processes

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


def run_settings(args, **more) -> dict:
    """The settings of a run that decide its weights: its flags but for where files lie and how fast
    it goes, and `more`."""
    return {**{key: value for key, value in vars(args).items() if key not in _NO_DECISION}, **more}


class States:
    """`<session>.state-<step>.pth` (network, optimiser, step, settings), the last two kept; written
    by the main process.

    Args:
        settings: what decides the weights; a state of other settings is refused.
        every: steps between two states; 0 writes none.
        more: further objects with a state_dict that decide how the run goes on, by name (the
            gradient scaler of fp16).
    """

    def __init__(self, session: str, settings: dict, every: int, **more: Any):
        self.session, self.settings, self.every, self.more = session, settings, every, more

    def _files(self) -> list[tuple[int, str]]:
        pattern = re.compile(re.escape(os.path.basename(self.session)) + r'\.state-(\d+)\.pth$')
        found = glob.glob(glob.escape(self.session) + '.state-*.pth')
        return sorted(
            (int(m[1]), path) for path in found if (m := pattern.match(os.path.basename(path)))
        )

    def load(self) -> dict | None:
        """The newest state, or None.

        Raises:
            UserError: it is damaged or of other settings; the message names the difference.
        """
        files = self._files()
        if not files:
            return None
        path = files[-1][1]
        try:
            state = torch.load(path, map_location='cpu', weights_only=True)
            before = state['settings']
        except Exception as error:  # whatever a damaged file raises
            raise UserError(
                f'{path}: damaged training state ({str(error)[:100]}); delete it or use --no_resume'
            ) from None
        for key in {**before, **self.settings}:
            if before.get(key) != self.settings.get(key):
                raise UserError(
                    f'{path}: is of a run with {key} = {before.get(key)}, now {key} = '
                    f'{self.settings.get(key)}; use --no_resume to start over, or another session '
                    'name'
                )
        return state

    def resume(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, start_over: bool = False
    ) -> int:
        """Bring network and optimiser to the newest state and return its step (0: none).
        `start_over` removes all states.

        The main process reads it and hands it to the others, so the folder need not be shared.
        """

        def newest():
            if start_over:
                self.clear()
            self._remove_leftovers()
            return self.load()

        state = processes.once(newest)
        if state is None:
            return 0
        for name, item in {'net': net, 'optimizer': optimizer, **self.more}.items():
            item.load_state_dict(state[name])
        return state['step']

    def save(self, step: int, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write the state after `step` steps and drop all but the last two."""
        with atomic(f'{self.session}.state-{step}.pth') as temporary:
            items = {'net': net, 'optimizer': optimizer, **self.more}
            torch.save(
                {
                    'step': step,
                    'settings': self.settings,
                    **{name: item.state_dict() for name, item in items.items()},
                },
                temporary,
            )
        for _, path in self._files()[:-2]:
            os.unlink(path)

    def clear(self) -> None:
        """Remove all states of the session."""
        for _, path in self._files():
            os.unlink(path)

    def _remove_leftovers(self) -> None:
        """Remove the half-written files of a run that was killed while it wrote."""
        folder, name = os.path.split(os.path.abspath(self.session))
        for what in ('.state-*.pth', '.pth'):
            for path in glob.glob(
                os.path.join(glob.escape(folder), f'.{glob.escape(name)}{what}.*.tmp')
            ):
                os.unlink(path)
