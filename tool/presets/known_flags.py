"""Checks, before the first stage runs, that the scripts know the flags that --set gives them."""

import functools
import os
import subprocess
import sys
from collections.abc import Sequence

from tool.presets.load import Override
from tool.presets.stages import ROOT, Preset
from tool.run.errors import UserError


def check_overrides(preset: Preset, overrides: Sequence[Override]) -> None:
    """Look up each flag of --set in the help of its script, and each KEY in the config beside it.

    Raises:
        UserError: a script does not know a flag, or a config does not have a key.
    """
    for override in overrides:
        if override.stage == 'preset':
            continue
        stage = preset.stages[override.stage]
        option = override.option
        if option in stage.flags and f'--{option}' not in flags_of(stage.script):
            raise UserError(f'--set {override.text}: {stage.script} has no flag --{option}')
        if option in stage.config and option not in config_of(stage.script):
            folder = os.path.dirname(stage.script)
            raise UserError(f'--set {override.text}: {folder}/config.py has no key {option}')


@functools.lru_cache
def flags_of(script: str) -> set[str]:
    """The flags that a script's --help names."""
    words = [script] if script.endswith('.py') else ['-m', script]
    help_text = subprocess.run(
        [sys.executable, *words, '--help'], cwd=ROOT, capture_output=True, text=True
    ).stdout
    stripped = [word.strip('[],') for word in help_text.split()]
    return {word for word in stripped if word.startswith('--')}


def config_of(script: str) -> str:
    """The text of the config that lies beside a script of DeepLab; '' for other scripts."""
    path = os.path.join(ROOT, os.path.dirname(script), 'config.py')
    if not os.path.exists(path):
        return ''
    with open(path, encoding='utf-8') as file:
        return file.read()
