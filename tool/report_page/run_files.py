"""Files of a work folder that the report reads: ladder, scores, losses and commands."""

import glob
import math
import os
import shlex
from dataclasses import dataclass, field
from typing import Any

from tool.files.reading import open_text, parse_json, read_json
from tool.presets.stages import ROOT
from tool.run.errors import UserError

# The words of a command that start torchrun, in front of the script.
_TORCHRUN = ('-m', 'torch.distributed.run')


@dataclass(frozen=True)
class Command:
    """A stage of pipeline.json.

    Attributes:
        stage: name of the stage.
        words: what follows `python`.
        script: the script or the module, e.g. 'eval.py' or 'tool.seed_masks'; DeepLab's scripts
            without their folder.
        flags: {flag without dashes: its words}, and {KEY: [value]} of `--set`.
        seconds: the time it took.
        done: it has completed.
    """

    stage: str
    words: list[str]
    script: str
    flags: dict[str, list[str]]
    seconds: float
    done: bool

    def flag(self, name: str) -> str:
        """The first word of a flag; '' where the command does not have it."""
        words = self.flags.get(name) or ['']
        return words[0]

    def text(self) -> str:
        """The words as they are typed after `python`."""
        return shlex.join(self.words)


@dataclass(frozen=True)
class Training:
    """The losses of a training.

    Attributes:
        title: name of its .jsonl file, without the ending.
        steps: numbers of the steps.
        losses: {name: values}, a value for every step.
    """

    title: str
    steps: list[float]
    losses: dict[str, list[float]]


@dataclass(frozen=True)
class Run:
    """A work folder. What it does not hold is empty.

    Attributes:
        work: the folder.
        preset: name of the preset.
        ladder: the content of ladder.json.
        commands: the stages of pipeline.json, in their order.
        scores: the results of the scoring stages, in their order.
        trainings: the losses of the trainings, in their order.
        notes: facts from the logs of the trainings, {name: text}.
    """

    work: str
    preset: str = ''
    ladder: dict = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)
    scores: list[dict] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    def rows(self) -> list[dict]:
        """The rows of the ladder."""
        return self.ladder.get('rows', [])

    def locate(self, path: str) -> str:
        """Where a file or a folder that a command or a score names is now.

        A relative path starts at the repository, where the stages run. If there is nothing at a
        path, the work folder may have been moved or copied: then the end of the path is looked for
        in it.

        Returns:
            The path as it is given where nothing is found; '' for ''.
        """
        if not path:
            return ''
        path = os.path.join(ROOT, path)
        if os.path.exists(path):
            return path
        parts = path.split(os.sep)
        for first in range(1, len(parts)):
            moved = os.path.join(self.work, *parts[first:])
            if os.path.exists(moved):
                return moved
        return path

    def first_flag(self, *names: str) -> str:
        """The first value that a command has for one of the flags, located; '' without any."""
        for command in self.commands:
            for name in names:
                if command.flag(name):
                    return self.locate(command.flag(name))
        return ''

    def title_of(self, scores: dict) -> str:
        """The title of the ladder's row that a result belongs to, or else what was scored."""
        for row in self.rows():
            keys = ('predict_dir', 'list')
            if all(row.get(key) == scores.get(key) for key in keys):
                return row['row']
        return os.path.basename(str(scores.get('predict_dir', '')).rstrip('/'))


def read_run(work: str) -> Run:
    """Read a work folder.

    Raises:
        UserError: there is no such folder, it holds nothing of a pipeline, or one of its files is
            damaged.
    """
    if not os.path.isdir(work):
        raise UserError(f'--work_dir {work}: no such folder; give the --work_dir of tool.pipeline')
    ladder_path = os.path.join(work, 'ladder.json')
    pipeline_path = os.path.join(work, 'pipeline.json')
    ladder = _read_json(ladder_path)
    pipeline = _read_json(pipeline_path)
    if not (ladder or pipeline):
        raise UserError(
            f'--work_dir {work}: holds neither ladder.json nor pipeline.json; give the --work_dir '
            'of tool.pipeline, or name folders of masks with --stage TITLE=DIR'
        )
    _check_ladder(ladder_path, ladder)
    commands = _read_commands(pipeline_path, pipeline)
    return Run(
        work=work,
        preset=str(ladder.get('preset') or pipeline.get('preset') or ''),
        ladder=ladder,
        commands=commands,
        scores=_read_scores(work, commands),
        trainings=_read_trainings(work, commands),
        notes=_read_notes(work, commands),
    )


def _damaged(path: str, error: object) -> UserError:
    return UserError(f'{path}: damaged ({error}); delete it, or do its stage again with --from')


def _read_json(path: str) -> dict:
    """The dict in a JSON file; empty where there is no file."""
    try:
        return dict(read_json(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(path, error) from None


def _check_ladder(path: str, ladder: dict) -> None:
    """Check that a ladder has what its table shows."""
    try:
        for row in _list(ladder.get('rows', [])):
            for key in ('row', 'list'):
                _text(row[key])
            for key in ('gt_dir', 'predict_dir'):
                _text(row.get(key, ''))
            for key in ('mIoU', 'core', 'occurring', 'agreement', 't'):
                _number(row.get(key, 0))
            _number(row['images'])
            _number(row['seconds'])
        _list(ladder.get('choices', []))
        _number(ladder.get('seconds', 0))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise _damaged(path, repr(error)) from None


def _number(value: Any) -> float:
    """A finite number; TypeError or ValueError for anything else, such as a text or a bool."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f'{value!r} is no number')
    if not math.isfinite(value):
        raise ValueError(f'{value!r} is not finite')
    return float(value)


def _text(value: Any) -> str:
    """A text; TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f'{value!r} is no text')
    return value


def _list(value: Any) -> list:
    """A list; TypeError for anything else."""
    if not isinstance(value, list):
        raise TypeError(f'{value!r} is no list')
    return value


def _read_commands(path: str, pipeline: dict) -> list[Command]:
    """The stages of pipeline.json."""
    commands = []
    try:
        for stage, record in pipeline.get('stages', {}).items():
            words = [str(word) for word in record['command']]
            script, flags = split_words(words)
            seconds, done = _number(record['seconds']), bool(record['done'])
            commands.append(Command(stage, words, script, flags, seconds, done))
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise _damaged(path, repr(error)) from None
    return commands


def split_words(words: list[str]) -> tuple[str, dict[str, list[str]]]:
    """(script, flags) of a command, as `Command` describes them."""
    if tuple(words[:2]) == _TORCHRUN:
        # torchrun's own flags end where the script begins
        words = words[words.index('--nproc_per_node') + 2 :]
    is_module = words[:1] == ['-m']
    script = words[1] if is_module else os.path.basename(words[0])
    flags: dict[str, list[str]] = {}
    values: list[str] = []
    for word in words[2 if is_module else 1 :]:
        if word.startswith('--'):
            values = flags.setdefault(word[2:], [])
        else:
            values.append(word)
    for setting in flags.get('set', []):
        key, _, value = setting.partition('=')
        flags[key] = [value]
    return script, flags


def _read_scores(work: str, commands: list[Command]) -> list[dict]:
    """The results that the commands have written with --json; the same in scores/ without them."""
    run = Run(work, commands=commands)
    paths = [run.locate(command.flag('json')) for command in commands if command.flag('json')]
    if not paths:
        paths = sorted(glob.glob(os.path.join(glob.escape(work), 'scores', '*.json')))
    results = []
    for path in paths:
        result = _read_json(path)
        try:
            _check_result(result)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise _damaged(path, repr(error)) from None
        results.append(result)
    return results


def _check_result(result: dict) -> None:
    """Check that a result of a scoring stage has what its charts show."""
    for name, count in result.get('pixels', {}).items():
        _number(count)
        _number(result[name])
    for key in ('list', 'predict_dir'):
        _text(result.get(key, ''))
    thresholds = [_number(value) for value in _list(result.get('curve_t', []))]
    if thresholds:
        _number(result['t'])
    for key in ('curve_mIoU', 'histogram'):
        values = [_number(value) for value in _list(result.get(key, []))]
        if key == 'curve_mIoU' and values and len(values) != len(thresholds):
            raise ValueError('the curve has not one mIoU for each threshold')


def _read_trainings(work: str, commands: list[Command]) -> list[Training]:
    """The losses in the .jsonl files of a work folder and the folders directly in it."""
    folder = glob.escape(work)
    paths = glob.glob(os.path.join(folder, '*.jsonl'))
    paths += glob.glob(os.path.join(folder, '*', '*.jsonl'))
    sessions = []
    for command in commands:
        session = command.flag('session_name') or command.flag('EXP_NAME')
        sessions.append(os.path.basename(session))

    def order(path: str) -> tuple[int, str]:
        title = _stem(path)
        return (sessions.index(title) if title in sessions else len(sessions)), path

    trainings = []
    for path in sorted(paths, key=order):
        training = _read_training(path)
        if training.steps and training.losses:
            trainings.append(training)
    return trainings


def _stem(path: str) -> str:
    """The file name without folder and extension."""
    return os.path.splitext(os.path.basename(path))[0]


def _read_training(path: str) -> Training:
    """The losses of a .jsonl file. A half-written last line is left out."""
    records = []
    try:
        with open_text(path) as file:
            for line in file:
                if line.endswith('}\n'):
                    records.append(dict(parse_json(line)))
        names = [name for name in records[0] if name != 'step'] if records else []
        steps = [float(record['step']) for record in records]
        losses = {name: [float(record[name]) for record in records] for name in names}
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise _damaged(path, repr(error)) from None
    for name, values in list(losses.items()):
        if not all(map(math.isfinite, values)):
            del losses[name]
    return Training(_stem(path), steps, losses)


def _read_notes(work: str, commands: list[Command]) -> dict[str, str]:
    """The versions and the device in the log of the first training that has one."""
    for command in commands:
        session = command.flag('session_name')
        path = Run(work).locate(session + '.log') if session else ''
        if not os.path.isfile(path):
            continue
        notes = {}
        with open_text(path, errors='replace') as file:
            for line in file:
                name, colon, text = line.partition(': ')
                if colon and name in ('versions', 'device') and name not in notes:
                    notes[name] = text.strip()
        return notes
    return {}
