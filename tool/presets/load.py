"""Finding a preset, running its function, and the changes that `--set` makes to it."""

import dataclasses
import importlib
import importlib.util
import inspect
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tool.presets.stages import FromScores, Preset, RunSettings, Stage, Stages, Value
from tool.run import command_line
from tool.run.errors import UserError

FOLDER = os.path.dirname(os.path.abspath(__file__))
# The presets of this repository: each is a module of this folder.
NAMES = (
    'smoke',
    'quickstart',
    'laptop',
    'laptop_eps',
    'own',
    'seam',
    'eps',
    'coco',
    'reproduce',
)
# The settings of a run that `--set preset.NAME=VALUE` gives.
RUN_OPTIONS = (
    'core',
    'experiment',
    'gt',
    'lists',
    'mask_list',
    'refiner',
    'score_list',
    'val_list',
)
# The fields of a stage that `--set STAGE.NAME=VALUE` changes; all other names are flags.
FIELDS = ('script', 'makes', 'row', 'masks', 'processes', 'like')


@dataclass(frozen=True)
class Override:
    """One word of --set: STAGE.OPTION=VALUE.

    Attributes:
        text: the word itself.
        stage: a stage, or 'preset' for an option of the preset.
        option: a flag, a KEY of the config, or a field of the stage.
        value: what stands behind the first '='.
    """

    text: str
    stage: str
    option: str
    value: str


def parse_override(text: str) -> Override:
    """A word of --set, taken apart.

    Raises:
        UserError: it does not have the form STAGE.FLAG=VALUE.
    """
    target, equals, value = text.partition('=')
    stage, dot, option = target.partition('.')
    if not (equals and dot and stage and option):
        raise UserError(f'--set {text}: STAGE.FLAG=VALUE is expected, e.g. train.max_steps=100')
    return Override(text, stage, option, value)


def load_preset(
    name: str, overrides: Sequence[Override], run: RunSettings, classes: Sequence[str]
) -> Preset:
    """The preset of a name or of a file, for a run. Its stages are resolved.

    A preset is a program: its file is executed.

    Args:
        name: one of NAMES, or the path of a Python file that defines `preset(run)`.
        overrides: the changes that --set asks for.
        classes: the names that `core` may hold.
    Raises:
        UserError: no such preset, stage or option, or an error in the preset's file; names the
            file and the line.
    """
    function, path = _find(name)
    run_options, own_options = _preset_options(name, function, overrides)
    run = dataclasses.replace(run, **run_options)
    preset = _call(path, function, run, **own_options)
    if not isinstance(preset, Preset):
        raise UserError(f'{path}: preset(run) must return a Preset, not {preset!r}')
    unknown = sorted(set(preset.core) - set(classes))
    if unknown:
        raise UserError(
            f'the core classes of the preset {name}: {unknown[0]} is no class; the classes are '
            f'{", ".join(classes)}'
        )
    if not len(preset.stages):
        raise UserError(f'--preset {name}: has no stage')
    _change(preset.stages, overrides)
    return dataclasses.replace(
        preset, name=preset_name(name), stages=Stages(preset.stages.resolved())
    )


def preset_name(name: str) -> str:
    """The name of a preset that was given by its name or by its path."""
    return os.path.basename(name).removesuffix('.py')


def _find(name: str) -> tuple[Callable[..., Preset], str]:
    """The function of a preset, and the file that defines it."""
    if name in NAMES:
        module = importlib.import_module(f'tool.presets.{name}')
        return module.preset, os.path.join(FOLDER, f'{name}.py')
    path = os.path.abspath(name)
    if not (name.endswith('.py') and os.path.isfile(path)):
        raise UserError(
            f'--preset {name}: no such preset; there are {", ".join(NAMES)}, or give the path of '
            'a Python file that defines preset(run)'
        )
    module = _call(path, _execute, path)
    function = getattr(module, 'preset', None)
    if not callable(function):
        raise UserError(f'{path}: defines no function preset(run)')
    return function, path


def _execute(path: str) -> ModuleType:
    """Run a Python file as a module of its own."""
    name = f'preset_file_{preset_name(path)}'
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def _call(path: str, function: Callable, /, *arguments: Any, **options: Any) -> Any:
    """Call a function of the preset's file `path`; an error of its code becomes a UserError."""
    try:
        return function(*arguments, **options)
    except UserError as error:
        where = _where(path, error)
        ours = os.path.dirname(path) == FOLDER
        raise UserError(str(error) if ours else f'{where}: {error}') from None
    except SyntaxError as error:
        where = f'{path}, line {error.lineno}' if error.filename == path else _where(path, error)
        raise UserError(f'{where}: {error.msg}') from None
    except Exception as error:
        raise UserError(f'{_where(path, error)}: {type(error).__name__}: {error}') from error


def _where(path: str, error: Exception) -> str:
    """The file and the line of it that an error came through last."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    return f'{path}, line {lines[-1]}' if lines else path


def _preset_options(
    name: str, function: Callable[..., Preset], overrides: Sequence[Override]
) -> tuple[dict, dict]:
    """The options of a preset that --set gives: those of RunSettings, those of its function."""
    own = list(inspect.signature(function).parameters.values())[1:]
    defaults = {parameter.name: parameter.default for parameter in own}
    given_to_run: dict[str, object] = {}
    given_to_function: dict[str, object] = {}
    for override in overrides:
        if override.stage != 'preset':
            continue
        if override.option in defaults:
            default = defaults[override.option]
            given_to_function[override.option] = _like_default(override, default)
        elif override.option == 'core':
            given_to_run['core'] = override.value.split()
        elif override.option in RUN_OPTIONS:
            given_to_run[override.option] = override.value
        else:
            known = sorted([*RUN_OPTIONS, *defaults])
            raise UserError(
                f'--set {override.text}: the preset {name} has no option {override.option}; there '
                f'are {", ".join(known)}'
            )
    return given_to_run, given_to_function


def _like_default(override: Override, default: object) -> object:
    """The value of an option, as the type that its default has."""
    if isinstance(default, (list, tuple)):
        return shlex.split(override.value)
    if not isinstance(default, (bool, int, float)):
        return override.value
    convert = command_line.boolean if isinstance(default, bool) else type(default)
    try:
        return convert(override.value)
    except Exception:  # ValueError, or argparse's own
        raise UserError(
            f'--set {override.text}: {override.value!r} is not like the default {default!r}'
        ) from None


def _change(stages: Stages, overrides: Sequence[Override]) -> None:
    """Make the changes to stages that --set asks for."""
    for override in overrides:
        if override.stage == 'preset':
            continue
        if override.stage not in stages.names():
            known = sorted(['preset', *stages.names()])
            raise UserError(
                f'--set {override.text}: there is no stage {override.stage}; there are '
                f'{", ".join(known)}'
            )
        stages.replace(_changed(stages[override.stage], override))


def _changed(stage: Stage, override: Override) -> Stage:
    """The stage with the change that --set asks for."""
    option = override.option
    text = override.value
    if option in FIELDS:
        return dataclasses.replace(stage, **{option: _field(override)})
    if option.isupper():
        config = {**stage.config, option: _from_scores(text)}
        return dataclasses.replace(stage, config=config)
    flags = {**stage.flags, option: _flag(override)}
    return dataclasses.replace(stage, flags=flags)


def _field(override: Override) -> Any:
    """The value that --set gives a field of a stage."""
    if override.option == 'makes':
        return _split(override)
    # a longer text is no number of processes; with thousands of digits it would raise an error
    if override.option == 'processes' and override.value.isdecimal() and len(override.value) < 10:
        return int(override.value)
    return override.value


def _flag(override: Override) -> Value:
    """The value that --set gives a flag: yes, no, nothing, one word or several."""
    if override.value == 'yes':
        return True
    words = [] if override.value == 'no' else _split(override)
    if not words:
        return None
    if len(words) == 1:
        return _from_scores(words[0])
    return words


def _from_scores(text: str) -> str | FromScores:
    """The value from scores that a text stands for, or the text itself."""
    known = {value.value: value for value in FromScores}
    return known.get(text, text)


def _split(override: Override) -> list[str]:
    """The words of a value of --set, split as a shell does."""
    try:
        return shlex.split(override.value)
    except ValueError as error:
        raise UserError(f'--set {override.text}: {error}') from None
