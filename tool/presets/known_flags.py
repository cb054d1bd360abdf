"""Checks, before the first stage runs, that the scripts know the flags that --set gives them."""

import functools
import subprocess
import sys
from collections.abc import Sequence

from tool.presets.load import Override
from tool.presets.stages import ROOT, Preset
from tool.run.errors import UserError


def check_overrides(preset: Preset, overrides: Sequence[Override]) -> None:
    """Look up each flag and each config KEY of --set in the help of its script.

    Raises:
        UserError: a script does not know a flag or a key.
    """
    for override in overrides:
        if override.stage == 'preset':
            continue
        stage = preset.stages[override.stage]
        option = override.option
        known = words_of_help(stage.script)
        if option in stage.flags and f'--{option}' not in known:
            raise UserError(f'--set {override.text}: {stage.script} has no flag --{option}')
        if option in stage.config and option not in known:
            raise UserError(f'--set {override.text}: {stage.script} has no key {option}')


@functools.lru_cache
def words_of_help(script: str) -> set[str]:
    """The words of a script's --help, which names all its flags and, of DeepLab, all its keys."""
    words = [script] if script.endswith('.py') else ['-m', script]
    help_text = subprocess.run(
        [sys.executable, *words, '--help'], cwd=ROOT, capture_output=True, text=True
    ).stdout
    return {word.strip('[],:') for word in help_text.split()}
