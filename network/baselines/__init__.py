"""The baselines by name, and which one a command means."""

import os
import subprocess
from importlib import import_module

from network.baselines.baseline import Baseline
from tool.run.errors import UserError

# a further baseline is a file network/baselines/<name>.py with a BASELINE, and its name here
BASELINES: dict[str, Baseline] = {
    name: import_module(f'network.baselines.{name}').BASELINE for name in ('seam', 'eps')
}


def pick_baseline(name: str | None = None) -> tuple[Baseline, str]:
    """(baseline, why) for training: --baseline, else the checked-out git branch of this code if it
    is called like one."""
    if name is not None:
        return BASELINES[name], '--baseline'
    branch = _branch()
    if branch in BASELINES:
        return BASELINES[branch], f'git branch {branch}'
    return (
        BASELINES['seam'],
        f'git branch {branch} is no baseline, the default'
        if branch
        else 'no git branch, the default',
    )


def baseline_of(state: dict, path: str, name: str | None = None) -> tuple[Baseline, str]:
    """(baseline, why) for inference: the one whose projection head the checkpoint has.

    Raises:
        UserError: of no baseline, or of another one than --baseline says.
    """
    found = [
        baseline for baseline in BASELINES.values() if f'{baseline.projection}.weight' in state
    ]
    if len(found) != 1:
        heads = ' or '.join(
            f'{baseline.projection} ({baseline.name})' for baseline in BASELINES.values()
        )
        raise UserError(
            f'{path}: of no known baseline (a projection head {heads} is expected); it is of '
            'another network'
        )
    if name is not None and name != found[0].name:
        raise UserError(
            f'{path}: is a checkpoint of the {found[0].name} baseline, not of --baseline {name}'
        )
    return found[0], f'the checkpoint has {found[0].projection}'


def _branch() -> str:
    """Checked-out branch of the repository this file belongs to; '' outside one or on no branch."""
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if not os.path.exists(os.path.join(here, '.git')):
        return ''  # a copy of the code inside somebody else's repository
    try:
        result = subprocess.run(
            ['git', '-C', here, 'symbolic-ref', '--short', '-q', 'HEAD'],
            capture_output=True,
            text=True,
        )
    except OSError:
        return ''
    return result.stdout.strip()
