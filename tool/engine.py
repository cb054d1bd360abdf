"""The training loop of every stage: batches by step, losses kept on the device, poly learning rate, states to continue from."""
import glob
import os
import re
from typing import Callable

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tool import dist
from tool.errors import UserError
from tool.files import atomic
from tool.log import RunLog, progress
from tool.optim import set_lr
from tool.seeding import StepSampler, mixed_seed

LOG_EVERY = 20  # steps between two reads of the losses from the device


def steps_of(images: int, batch_size: int, max_epochs: int, max_steps: int = None) -> int:
    """Training steps: `max_steps` where given, else whole batches of an epoch × epochs.

    Raises:
        UserError: fewer images than one batch.
    """
    if images < batch_size:
        raise UserError(f'--batch_size {batch_size} is more than the {images} images of the list; use a smaller one')
    return max_steps or images // batch_size * max_epochs


_NO_DECISION = ('weights', 'voc12_root', 'session_name', 'num_workers', 'device', 'tblog_dir', 'save_every', 'no_resume')


def run_settings(args, **more) -> dict:
    """The settings of a run that decide its weights: its flags but for where files lie and how fast it goes, and `more`."""
    return {**{key: value for key, value in vars(args).items() if key not in _NO_DECISION}, **more}


class States:
    """Training states on disk: `<session>.state-<step>.pth` (network, optimiser, step, settings), the last two kept.

    Args:
        settings: what decides the weights; a state of other settings is refused.
        every: steps between two states; 0 writes none.
    """

    def __init__(self, session: str, settings: dict, every: int):
        self.session, self.settings, self.every = session, settings, every

    def _files(self) -> list[tuple[int, str]]:
        pattern = re.compile(re.escape(os.path.basename(self.session)) + r'\.state-(\d+)\.pth$')
        found = glob.glob(glob.escape(self.session) + '.state-*.pth')
        return sorted((int(m[1]), path) for path in found if (m := pattern.match(os.path.basename(path))))

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
            raise UserError(f'{path}: damaged training state ({str(error)[:100]}); delete it or use --no_resume') from None
        for key in {**before, **self.settings}:
            if before.get(key) != self.settings.get(key):
                raise UserError(f'{path}: is of a run with {key} = {before.get(key)}, now {key} = {self.settings.get(key)}; '
                                'use --no_resume to start over, or another session name')
        return state

    def resume(self, net: nn.Module, optimizer: torch.optim.Optimizer, start_over: bool = False) -> int:
        """Bring network and optimiser to the newest state and return its step (0: none). `start_over` removes all states."""
        if start_over and dist.is_main():
            self.clear()
        dist.barrier()
        state = self.load()
        if state is None:
            return 0
        net.load_state_dict(state['net'])
        optimizer.load_state_dict(state['optimizer'])
        return state['step']

    def save(self, step: int, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write the state after `step` steps and drop all but the last two."""
        with atomic(f'{self.session}.state-{step}.pth') as temporary:
            torch.save({'step': step, 'net': net.state_dict(), 'optimizer': optimizer.state_dict(),
                        'settings': self.settings}, temporary)
        for _, path in self._files()[:-2]:
            os.unlink(path)

    def clear(self) -> None:
        """Remove all states of the session."""
        for _, path in self._files():
            os.unlink(path)


def fit(net: nn.Module, optimizer: torch.optim.Optimizer, losses: Callable, dataset: Dataset, *, batch_size: int,
        max_steps: int, lr_factor: Callable[[int], float], device: torch.device, seed: int, num_workers: int,
        log: RunLog | None, start_step: int = 0, states: States = None, after_step: Callable[[int], None] = None) -> None:
    """Train `net` for steps start_step … max_steps − 1; under torchrun each process works on its part of every batch.

    Args:
        net: the network itself; what `losses` calls is `dist.wrap(net, device)`.
        losses: losses(batch, step) → dict of scalar tensors; its 'loss' is minimised, all are logged.
        dataset: indexed by (epoch, index); its items are dicts.
        lr_factor: factor on the groups' initial learning rates at a step.
        batch_size: images a step, all processes together.
        log: None in all processes but the main one.
        states: writes training states as it goes.
        after_step: called with the number of steps done (evaluation pictures, extra checkpoints).
    Raises:
        UserError: a loss term became non-finite; names the step and the term.
    """
    if batch_size % dist.world():
        raise UserError(f'a batch of {batch_size} cannot be split over {dist.world()} processes; make it a multiple of them')
    sampler = StepSampler(len(dataset), batch_size, max_steps, seed, start_step, dist.rank(), dist.world())
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers, pin_memory=device.type == 'cuda')
    net.train()
    pending: list[tuple[int, dict]] = []  # losses not yet read from the device
    bar = progress(total=max_steps * batch_size, initial=start_step * batch_size, desc='train', quiet=not dist.is_main())
    for step, batch in enumerate(loader, start_step):
        batch = {key: value.to(device, non_blocking=True) if torch.is_tensor(value) else value
                 for key, value in batch.items()}
        torch.manual_seed(mixed_seed(seed, step))  # dropout and pixel sampling: a function of (seed, step)
        terms = losses(batch, step)
        optimizer.zero_grad(set_to_none=True)
        terms['loss'].backward()
        set_lr(optimizer, lr_factor(step))
        optimizer.step()
        pending.append((step, {name: value.detach() for name, value in terms.items()}))
        bar.update(batch_size)
        done = step + 1
        saving = states is not None and states.every and done % states.every == 0 and done < max_steps
        if len(pending) == LOG_EVERY or done == max_steps or saving:
            _report(pending, optimizer, log, max_steps)
            pending.clear()
        if saving and dist.is_main():
            states.save(done, net, optimizer)
        if after_step is not None:
            after_step(done)
    bar.close()


def _report(pending: list[tuple[int, dict]], optimizer: torch.optim.Optimizer, log: RunLog | None, max_steps: int) -> None:
    """Read the pending losses in one transfer, check them, and write them to the log, the jsonl and TensorBoard."""
    names = list(pending[0][1])
    table = torch.stack([torch.stack([terms[name].float() for name in names]) for _, terms in pending])
    table = (dist.total(table) / dist.world()).cpu()  # the mean over the processes
    for (step, _), row in zip(pending, table):
        for name, value in zip(names, row.tolist()):
            if not torch.isfinite(torch.tensor(value)):
                raise UserError(f'step {step}: {name} is {value}; the run stops here and writes no weights '
                                '(a lower --lr, or another --seed, may help)')
    if log is None:
        return
    lr = optimizer.param_groups[0]['lr']
    log.records([{'step': step, **dict(zip(names, row.tolist()))} for (step, _), row in zip(pending, table)])
    step, means = pending[-1][0], dict(zip(names, table.mean(0).tolist()))
    log.scalars(step, {**means, 'lr': lr})
    log.say(f'step {step + 1}/{max_steps}  ' + '  '.join(f'{name} {value:.4f}' for name, value in means.items())
            + f'  lr {lr:.3g}')
