"""Running the stages of a preset in a work folder.

A stage that is complete is skipped, one that was interrupted is continued, and one whose command
has changed is done anew, with all stages after it.
"""

import glob
import json
import math
import os
import shutil
import signal
import sys
import time
from typing import Any, NoReturn

from tool.files.atomic import write_text
from tool.files.picture_files import lies_in
from tool.files.reading import read_json
from tool.presets.child import last_line, run_script
from tool.presets.choices import (
    HISTOGRAM,
    Scored,
    best_masks,
    best_threshold,
    describe_choices,
    measure_of,
)
from tool.presets.ladder import clock, ladder_row, ladder_table, read_scores, write_ladder
from tool.presets.path_states import PathStates, possible_paths
from tool.presets.processes import launched, process_count
from tool.presets.stages import BEST_MASKS, BEST_THRESHOLD, ROOT, FromScores, Preset, Stage
from tool.run import command_line
from tool.run.errors import Interrupted, UserError
from tool.train.log import commit


class Runner:
    """Runs the stages of a preset in a work folder.

    Args:
        preset: the preset, whose stages are resolved.
        work: the work folder.
        device: the value of --device; None if it was not given.
    Attributes:
        records: {stage: {'command': words, 'decides': those that decide the result, 'seconds': time
            it took, 'done': bool, 'paths': states of the files and folders that it has read and
            made}}, the content of pipeline.json.
    """

    def __init__(self, preset: Preset, work: str, device: str | None):
        self.preset = preset
        self.stages = list(preset.stages)
        self.work = work
        self.device = device
        self.path = os.path.join(work, 'pipeline.json')
        self.records = self._read_records()
        self.states = PathStates(ROOT)

    def _read_records(self) -> dict[str, dict]:
        """The records of an earlier run; UserError if pipeline.json is damaged."""
        try:
            records = dict(read_json(self.path)['stages'])
            for name, record in records.items():
                _check_record(name, record)
            return records
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f'{self.path}: unreadable ({error}); delete it to do all stages anew'
            ) from None

    def save(self) -> None:
        """Write pipeline.json."""
        content = {'preset': self.preset.name, 'stages': self.records}
        write_text(self.path, json.dumps(content, indent=1) + '\n')

    def start_at(self, first: int) -> None:
        """Prepare for --from: the stages before are complete, this one and the following ones are
        not.

        Raises:
            UserError: an earlier stage has not completed.
        """
        start = self.stages[first]
        for stage in self.stages[:first]:
            if not self._is_done(stage):
                raise UserError(
                    f'--from {start.name}: the stage {stage.name} before it has not completed in '
                    f'{self.work}; leave --from out'
                )
        if self._is_done(start):
            self.forget(first)

    def _is_done(self, stage: Stage) -> bool:
        """Whether pipeline.json says that a stage has completed."""
        return self.records.get(stage.name, {}).get('done', False)

    def forget(self, first: int) -> None:
        """Drop the records of a stage and all after it."""
        for stage in self.stages[first:]:
            self.records.pop(stage.name, None)

    def run_stage(self, index: int) -> None:
        """Skip, continue or do one stage.

        A stage of another command than before is done anew, and so are all after it; numbers of
        workers do not count (`Stage.deciding_words`), and those of processes only in a training,
        whose processes draw Dropout each for itself. A stage that was not complete is continued,
        and one whose inputs or outputs have changed since it was complete is run again; it makes
        what is stale. A training is then done anew, and so are all stages after it, because they
        use its weights.

        Raises:
            SystemExit: the stage failed; its last line has been printed, its exit code is passed
                on.
            Interrupted: a signal ended it.
        """
        stage = self.stages[index]
        count = process_count(stage, self.device)
        known = self.known_from_scores(index)
        command = launched(stage.command(known), count)
        decides = stage.deciding_words(known)
        if stage.trains:
            decides = launched(decides, count)
        before = self.records.get(stage.name, {})
        was_done = self._is_done(stage)
        same = before.get('decides') == decides
        if 'decides' not in before:  # pipeline.json is of an earlier version
            same = before.get('command') == command
        if was_done and not self.is_there(stage):  # somebody has removed what it made
            same = False
        label = f'[{index + 1:2}/{len(self.stages)}] {stage.name:20}'
        changed = ''
        if same and (was_done or stage.trains):
            changed = self.changed_path(stage, command, was_done)
        if same and was_done and not changed:
            print(f'{label} complete ({clock(before["seconds"])})', flush=True)
            return
        if changed and stage.trains:
            same = False

        already = before['seconds'] if same else 0.0
        record: dict[str, Any] = {
            'command': command,
            'decides': decides,
            'seconds': already,
            'done': False,
        }
        if not same:
            self.forget(index)
            # no command is like this one: if the pipeline is killed while old output is removed,
            # the next run removes the rest
            self.records[stage.name] = {**record, 'command': [], 'decides': []}
            self.save()
            self.clean(stage)
        if stage.trains:  # broken off, it may only continue on the data that there are now
            record['paths'] = self.states.of_all(self.input_paths(stage, command))
        self.records[stage.name] = record
        self.save()
        what = 'runs'
        if changed and stage.trains:
            what = f'trains anew, {changed} has changed'
        elif changed:
            what = f'runs again, {changed} has changed'
        elif same:
            what = 'continued'
        print(f'{label} {what}', end='', flush=True)

        log = os.path.join(self.work, 'logs', f'{stage.name}.log')
        threads = None
        if count > 1 or os.environ.get(command_line.CORES):
            threads = max(1, command_line.default_jobs() // count)
        start = time.monotonic()
        code = None
        try:
            code, stopped_by = run_script(command, self.work, log, goes_on=same, threads=threads)
        finally:
            record['seconds'] = round(already + time.monotonic() - start, 2)
            record['done'] = code == 0
            self.states.forget()
            if record['done']:
                record['paths'] = self.path_states(stage, command)
            self.save()

        print(f', {clock(record["seconds"])}{self._score_of(stage)}', flush=True)
        if stopped_by:
            name = signal.Signals(stopped_by).name
            raise Interrupted(
                stopped_by, f'stopped by {name}; the same command continues from there'
            )
        if code:
            _fail(stage, code, count, log)

    def _score_of(self, stage: Stage) -> str:
        """The end of a stage's line: the score, if it is a scoring stage and has completed."""
        if not (stage.row and self._is_done(stage)):
            return ''
        scores = self.read_scores(stage)
        measure = measure_of(scores)
        if measure == HISTOGRAM:
            return f', background score {scores["t"]:.2f}'
        return f', {measure} {scores[measure]:.2f}'

    def path_states(self, stage: Stage, command: list[str]) -> dict[str, str]:
        """The states of what a stage reads and makes, {path: state}."""
        return self.states.of_all([*self.input_paths(stage, command), *self.output_paths(stage)])

    def input_paths(self, stage: Stage, command: list[str]) -> list[str]:
        """The words of a stage's command that may be paths of what it reads."""
        work = os.path.realpath(self.work)
        made = self.output_paths(stage)
        paths = []
        for path in possible_paths(command):
            # the work folder itself, or one around it, changes with every stage
            if path not in made and not lies_in(work, os.path.join(ROOT, path)):
                paths.append(path)
        return paths

    def output_paths(self, stage: Stage) -> list[str]:
        """The paths that exist of what a stage makes."""
        paths = []
        for made in self.outputs(stage):
            paths += made
        return paths

    def changed_path(self, stage: Stage, command: list[str], was_done: bool) -> str:
        """A file or folder that has changed since a stage was complete; '' where none has.

        Of a training that was broken off: one that it reads, since it was begun.
        """
        before = self.records[stage.name].get('paths')
        if before is None:  # pipeline.json is of an earlier version
            return ''
        now = self.path_states(stage, command)
        if not was_done:
            made = self.output_paths(stage)
            before = {path: state for path, state in before.items() if path not in made}
            now = {path: state for path, state in now.items() if path not in made}
        for path in sorted({**before, **now}):
            if before.get(path) != now.get(path):
                return path
        return ''

    def outputs(self, stage: Stage) -> list[list[str]]:
        """The paths that exist of each of the things a stage makes."""
        found = []
        for pattern in stage.makes:
            if pattern.startswith(self.work + os.sep):
                pattern = os.path.relpath(pattern, self.work)
            paths = glob.glob(pattern, root_dir=self.work)
            found.append([os.path.join(self.work, path) for path in paths])
        return found

    def is_there(self, stage: Stage) -> bool:
        """Whether nobody has removed what the stage made."""
        return all(self.outputs(stage))

    def clean(self, stage: Stage) -> None:
        """Remove what an earlier version of the stage has written.

        Raises:
            UserError: it is not in the work folder.
        """
        inside = os.path.realpath(self.work) + os.sep
        for paths in self.outputs(stage):
            for path in paths:
                if not os.path.realpath(path).startswith(inside):
                    raise UserError(
                        f'stage {stage.name} makes {path}: that is not in {self.work}, it is not '
                        'removed'
                    )
                if os.path.isdir(path):
                    shutil.rmtree(path)
                else:
                    os.unlink(path)

    def scores_path(self, stage: Stage) -> str:
        """The JSON file of a scoring stage."""
        path = stage.flags.get('json')
        if not isinstance(path, str):
            raise UserError(
                f'stage {stage.name}: has a row of the ladder, so it needs the flag json, the file '
                'of its scores'
            )
        return path

    def read_scores(self, stage: Stage) -> dict:
        """The scores of a scoring stage; UserError if they cannot be read."""
        return read_scores(self.scores_path(stage), self.preset.core)

    def known_from_scores(self, index: int) -> dict[FromScores, str]:
        """The values that a stage needs of the scores of the stages before it.

        Raises:
            UserError: no stage before it gives one of them.
        """
        stage = self.stages[index]
        wanted = stage.from_scores()
        if not wanted:
            return {}
        known: dict[FromScores, str] = {}
        deciding = [earlier for earlier in self.scored(index) if earlier.stage.decides]
        threshold = best_threshold(deciding)
        if threshold is not None:
            known[BEST_THRESHOLD] = f'{threshold:.2f}'
        best = best_masks(deciding)
        if best is not None:
            known[BEST_MASKS] = best.stage.masks
        for value in FromScores:
            if value in wanted and value not in known:
                raise UserError(
                    f'stage {stage.name}: no scoring stage before it gives {value.name}'
                )
        return known

    def scored(self, end: int | None = None) -> list[Scored]:
        """The complete scoring stages among the first `end`, in their order, with their scores."""
        found = []
        for stage in self.stages[:end]:
            if stage.row and self._is_done(stage):
                found.append(Scored(stage, self.read_scores(stage)))
        return found

    def show_ladder(self, seed: int) -> None:
        """Print the rows whose stages are complete and write ladder.json.

        The time of a row is that of all stages since the row before. Stages of the same row share
        one.
        """
        scored = self.scored()
        scores_of = {item.stage.name: item.scores for item in scored}
        rows: dict[str, dict] = {}
        since_last_row = 0.0
        total = 0.0
        for stage in self.stages:
            seconds = self.records.get(stage.name, {}).get('seconds', 0.0)
            since_last_row += seconds
            total += seconds
            if stage.name in scores_of:
                scores = scores_of[stage.name]
                core = list(self.preset.core)
                before = rows.get(stage.row, {})
                rows[stage.row] = ladder_row(stage.row, scores, core, since_last_row, before)
                since_last_row = 0.0
        if rows:
            path = os.path.join(self.work, 'ladder.json')
            choices = describe_choices(scored)
            write_ladder(
                path,
                list(rows.values()),
                total,
                preset=self.preset.name,
                seed=seed,
                commit=commit(),
                choices=choices,
            )
            print(f'\n{ladder_table(list(rows.values()), total)}\n')
            for line in choices:
                print(line)
            print(f'ladder: {path}')
        sheet = os.path.join(self.work, 'contact_sheet.png')
        if os.path.exists(sheet):
            print(f'pictures: {sheet}')


def _check_record(name: str, record: Any) -> None:
    """Check what pipeline.json says of a stage, which somebody may have edited.

    Raises:
        ValueError: it is not what `Runner.save` writes.
    """
    if not isinstance(record, dict):
        raise ValueError(f'the stage {name} is no object')
    if not isinstance(record.get('command'), list):
        raise ValueError(f'the stage {name} has no command')
    if not isinstance(record.get('decides', []), list):
        raise ValueError(f'the words that decide the stage {name} are no list')
    seconds = record.get('seconds')
    if type(seconds) not in (int, float) or not 0 <= seconds < math.inf:
        raise ValueError(f'the stage {name} has no seconds')
    if type(record.get('done')) is not bool:
        raise ValueError(f'the stage {name} does not say whether it is done')
    if not isinstance(record.get('paths', {}), dict):
        raise ValueError(f'the paths of the stage {name} are no object')


def _signal_name(number: int) -> str:
    """The name of a signal, for a message."""
    if number == signal.SIGKILL:
        return 'SIGKILL (out of memory?)'
    try:
        return signal.Signals(number).name
    except ValueError:
        return f'signal {number}'


def _fail(stage: Stage, code: int, count: int, log: str) -> NoReturn:
    """End the pipeline because a stage has failed.

    Args:
        stage: the stage.
        code: exit code of its command.
        count: number of processes that shared it.
        log: file of its output.
    """
    line = last_line(log)
    if code > 128 and 'stopped by' not in line:  # the stage could not say so itself
        line = f'ended by {_signal_name(code - 128)}'
    print(f'pipeline: stage {stage.name} failed: {line}', file=sys.stderr)
    print(f'pipeline: its output is in {log}', file=sys.stderr)
    if count > 1 and ': error: ' in line:
        code = 2  # of the script; torchrun itself exits with 1
    sys.exit(code)
