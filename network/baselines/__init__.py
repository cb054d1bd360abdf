"""The baselines by name, and the choice of the one that a command uses."""

import os
import subprocess
from importlib import import_module

from network.baselines.baseline import Baseline
from tool.run.errors import UserError

# To add a baseline, write network/baselines/<name>.py with a BASELINE, and add the name here.
BASELINES: dict[str, Baseline] = {
    name: import_module(f'network.baselines.{name}').BASELINE for name in ('seam', 'eps')
}


def pick_baseline(name: str | None = None) -> tuple[Baseline, str]:
    """The baseline to train.

    It is the one that --baseline names, else the one that the checked-out git branch of this code
    is named after, else SEAM.

    Args:
        name: the value of --baseline; None where it is not given.
    Returns:
        The baseline, and why it is that one, for the log.
    """
    if name is not None:
        return BASELINES[name], '--baseline'
    branch = _branch()
    if branch in BASELINES:
        return BASELINES[branch], f'git branch {branch}'
    if branch:
        why = f'git branch {branch} is no baseline, the default'
    else:
        why = 'no git branch, the default'
    return BASELINES['seam'], why


def baseline_of(state: dict, path: str, name: str | None = None) -> tuple[Baseline, str]:
    """The baseline of a checkpoint: the one whose projection head it has.

    Args:
        state: the checkpoint's state dict.
        path: the checkpoint's file, for messages.
        name: the value of --baseline; None where it is not given.
    Returns:
        The baseline, and how it is known, for the log.
    Raises:
        UserError: the checkpoint is of no baseline, or of another one than --baseline names.
    """
    baselines = BASELINES.values()
    found = [baseline for baseline in baselines if f'{baseline.projection}.weight' in state]
    if len(found) != 1:
        heads = [f'{baseline.projection} ({baseline.name})' for baseline in baselines]
        raise UserError(
            f'{path}: of no known baseline (a projection head {" or ".join(heads)} is expected); '
            'give a checkpoint of contrast_train.py'
        )
    baseline = found[0]
    if name is not None and name != baseline.name:
        raise UserError(
            f'{path}: is a checkpoint of the {baseline.name} baseline, not of --baseline {name}'
        )
    return baseline, f'the checkpoint has {baseline.projection}'


def _branch() -> str:
    """The checked-out branch of the repository that this file belongs to.

    It is '' where there is no repository or no branch.
    """
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if not os.path.exists(os.path.join(here, '.git')):
        return ''  # a copy of the code, perhaps inside another repository
    try:
        result = subprocess.run(
            ['git', '-C', here, 'symbolic-ref', '--short', '-q', 'HEAD'],
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return result.stdout.strip()
