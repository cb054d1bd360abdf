"""All stages of a preset one after the other, and the ladder of their scores at the end.

    python -m tool.pipeline --preset quickstart
    python -m tool.pipeline --preset seam --voc12_root VOC2012 \\
        --set train.weights=ilsvrc-cls_rna-a1_cls1000_ep-0001.params

Reads  tool/presets/<preset>.ini (or your own .ini): the stages in order and the flags of their
       scripts.
Writes everything into --work_dir: <stage>.log in logs/, pipeline.json (the commands and their
       times), ladder.json, and what the stages write. What is complete is skipped: the same command
       continues a run that was broken off, and after a change of flags it does the changed stage
       and all after it anew.
"""

import argparse
import functools
import glob
import json
import os
import shlex
import shutil
import subprocess
import sys
import time

from tool.files.atomic import write_text
from tool.presets.child import alone, last_line, run_script
from tool.presets.ladder import clock, ladder_row, ladder_table, read_scores, write_ladder
from tool.presets.preset import LATE, ROOT, Preset, Stage, fill, read_preset
from tool.run import command_line
from tool.run.errors import Interrupted, UserError
from tool.train.log import commit
from voc12.classes import CLASSES


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.method.add_argument(
        '--preset',
        required=True,
        help='smoke, quickstart, laptop, seam, eps, or the path of an .ini',
    )
    parser.data.add_argument(
        '--voc12_root', help="the devkit's VOC2012 folder (default: what the preset says)"
    )
    parser.output.add_argument(
        '--work_dir', help='folder of everything the run writes (default: runs/<preset>)'
    )
    parser.run.add_argument(
        '--from',
        dest='first',
        metavar='STAGE',
        help='do this stage and all after it anew; those before it are taken as they are',
    )
    parser.run.add_argument('--to', dest='last', metavar='STAGE', help='end after this stage')
    parser.run.add_argument(
        '--seed',
        type=command_line.number(int, 0),
        default=0,
        help='decides every random choice of the stages',
    )
    parser.method.add_argument(
        '--set',
        nargs='+',
        action='extend',
        default=[],
        metavar='STAGE.FLAG=VALUE',
        help='change a flag of the preset, e.g. train.max_steps=100 train.no_contrast=yes',
    )
    parser.run.add_argument('--show', action='store_true', help='print the commands and do nothing')
    command_line.add_device_flag(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    name = os.path.basename(args.preset).removesuffix('.ini')
    work = os.path.abspath(args.work_dir or os.path.join(ROOT, 'runs', name))
    preset = read_preset(
        args.preset,
        args.set,
        CLASSES,
        work=work,
        voc=args.voc12_root and os.path.abspath(args.voc12_root),
        seed=str(args.seed),
        device=args.device or '',
    )
    names = [stage.name for stage in preset.stages]
    for flag, stage in (('--from', args.first), ('--to', args.last)):
        if stage and stage not in names:
            raise UserError(f'{flag} {stage}: there is no such stage; there are {", ".join(names)}')
    first, last = names.index(args.first or names[0]), names.index(args.last or names[-1])
    if first > last:
        raise UserError(
            f'--from {args.first} --to {args.last}: they are the other way round in the preset'
        )
    if args.show:
        for stage in preset.stages[first : last + 1]:
            words = stage.command({**{late: f'{{{late}}}' for late in LATE}, **preset.values})
            print('python', shlex.join(launched(words, processes(stage, preset))))
        return
    check_flags(preset, args.set)
    print(f'{preset.name}: {preset.about}\nin {work}', flush=True)
    with alone(work):
        run = Run(preset, work)
        if args.first:
            run.start_at(first)
        for index in range(first, last + 1):
            run.stage(index)
        run.show_ladder(args.seed)


def processes(stage: Stage, preset: Preset) -> int:
    """How many processes share a stage on this machine."""
    return (
        min(stage.processes, most_processes(preset.values['device'])) if stage.processes > 1 else 1
    )


@functools.lru_cache
def most_processes(device: str) -> int:
    """GPUs that there are for a --device ('' if it was not given), or cores of the CPU."""
    kind = command_line.pick_device(device or None).type
    if kind == 'cpu':
        return command_line.default_jobs()
    import torch  # here: most runs of the pipeline do without

    return torch.cuda.device_count() if device in ('', 'cuda') and kind == 'cuda' else 1


def launched(words: list[str], count: int) -> list[str]:
    """What follows `python` to run a script (its words in front) in `count` processes."""
    return (
        words
        if count == 1
        else ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(count), *words]
    )


def check_flags(preset: Preset, overrides: list[str]) -> None:
    """UserError for an override whose flag its script does not know (asked now, not when its turn
    comes)."""
    stages = {stage.name: stage for stage in preset.stages}
    for text in overrides:
        name, _, option = text.partition('=')[0].partition('.')
        script = stages[name].script if name in stages else ''
        if (
            name in stages
            and option in stages[name].flags
            and f'--{option}' not in known_flags(script)
        ):
            raise UserError(f'--set {text}: {script} has no flag --{option}')
        if name in stages and option in stages[name].keys and option not in known_keys(script):
            raise UserError(
                f'--set {text}: {os.path.dirname(script)}/config.py has no key {option}'
            )


@functools.lru_cache
def known_flags(script: str) -> set[str]:
    """The flags that a script's --help names."""
    words = [script] if script.endswith('.py') else ['-m', script]
    text = subprocess.run(
        [sys.executable, *words, '--help'], cwd=ROOT, capture_output=True, text=True
    ).stdout
    return {word.strip('[],') for word in text.split() if word.strip('[],').startswith('--')}


def known_keys(script: str) -> str:
    """The text of the config that lies beside a segmentation script; '' for other scripts."""
    path = os.path.join(ROOT, os.path.dirname(script), 'config.py')
    if not os.path.exists(path):
        return ''
    with open(path, encoding='utf-8') as file:
        return file.read()


class Run:
    """The stages of a preset in a work folder, and what is known of them: pipeline.json, stage →
    command, seconds, done."""

    def __init__(self, preset: Preset, work: str):
        self.preset, self.work = preset, work
        self.path, self.records = os.path.join(work, 'pipeline.json'), {}
        try:
            with open(self.path, encoding='utf-8') as file:
                self.records = dict(json.load(file)['stages'])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f'{self.path}: unreadable ({error}); delete it to do all stages anew'
            ) from None

    def start_at(self, first: int) -> None:
        """Prepare for --from: the stages before are complete, this one and the following ones are
        not.

        Raises:
            UserError: an earlier stage has not completed.
        """
        for stage in self.preset.stages[:first]:
            if not self.records.get(stage.name, {}).get('done'):
                raise UserError(
                    f'--from {self.preset.stages[first].name}: the stage {stage.name} before it '
                    f'has not completed in {self.work}; leave --from out'
                )
        if self.records.get(self.preset.stages[first].name, {}).get('done'):
            self.forget(first)

    def forget(self, first: int) -> None:
        """Drop the records of a stage and all after it."""
        for stage in self.preset.stages[first:]:
            self.records.pop(stage.name, None)

    def stage(self, index: int) -> None:
        """Skip, continue or do one stage; what follows a stage that was not skipped has to be done
        anew.

        Raises:
            SystemExit: the stage failed; its last line has been printed, its exit code is passed
                on.
            Interrupted: a signal ended it.
        """
        stage = self.preset.stages[index]
        count = processes(stage, self.preset)
        command = launched(stage.command(self.values(index)), count)
        before = self.records.get(stage.name, {})
        same = before.get('command') == command and (not before['done'] or self.is_there(stage))
        label = f'[{index + 1:2}/{len(self.preset.stages)}] {stage.name:20}'
        if same and before['done']:
            print(f'{label} complete ({clock(before["seconds"])})', flush=True)
            return
        self.forget(index)
        record = self.records[stage.name] = {
            'command': command,
            'seconds': before['seconds'] if same else 0.0,
            'done': False,
        }
        if not same:
            self.clean(stage)
        self.save()
        print(f'{label} {"continued" if same else "runs"}', end='', flush=True)
        log = os.path.join(self.work, 'logs', f'{stage.name}.log')
        start, already, code = time.monotonic(), record['seconds'], None
        try:
            threads = max(1, command_line.default_jobs() // count) if count > 1 else None
            code, stopped = run_script(command, log, 'a' if same else 'w', threads)
            if code and count > 1 and ': error: ' in last_line(log):
                code = 2  # torchrun's own is 1
        finally:
            record['seconds'] = round(already + time.monotonic() - start, 2)
            record['done'] = code == 0
            self.save()
        scores = (
            f', mIoU {read_scores(self.scores_path(stage))["mIoU"]:.2f}'
            if stage.row and record['done']
            else ''
        )
        print(f', {clock(record["seconds"])}{scores}', flush=True)
        if stopped:
            raise Interrupted(stopped, 'stopped; the same command continues from there')
        if code:
            print(
                f'pipeline: stage {stage.name} failed: {last_line(log)}\npipeline: its output is '
                f'in {log}',
                file=sys.stderr,
            )
            sys.exit(code)

    def outputs(self, stage: Stage) -> list[list[str]]:
        """What lies there of each of the things a stage makes."""
        values = {**self.preset.values, 'work': glob.escape(self.work)}
        return [glob.glob(fill(text, values, stage.name)) for text in stage.makes]

    def is_there(self, stage: Stage) -> bool:
        """Nobody has removed what the stage made."""
        return all(self.outputs(stage))

    def clean(self, stage: Stage) -> None:
        """Remove what an earlier version of the stage has written."""
        for path in (path for paths in self.outputs(stage) for path in paths):
            if not os.path.realpath(path).startswith(os.path.realpath(self.work) + os.sep):
                raise UserError(
                    f'[{stage.name}] makes {path}: that is not in {self.work}, it is not removed'
                )
            if os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)

    def save(self) -> None:
        write_text(
            self.path,
            json.dumps({'preset': self.preset.name, 'stages': self.records}, indent=1) + '\n',
        )

    def scores_path(self, stage: Stage) -> str:
        """The JSON file of a scoring stage."""
        return fill(stage.flags['json'], self.preset.values, stage.name)

    def values(self, index: int) -> dict[str, str]:
        """All placeholders of a stage; {best_t} and {best_masks}, where it needs them, from the
        scores before it."""
        values, stage = dict(self.preset.values), self.preset.stages[index]
        wanted = stage.late()
        if not wanted:
            return values
        scored = [
            (earlier, read_scores(self.scores_path(earlier)))
            for earlier in self.preset.stages[:index]
            if earlier.row
        ]
        curves = [scores for _, scores in scored if 'curve_t' in scores]
        masks = {scores['mIoU']: earlier.masks for earlier, scores in scored if earlier.masks}
        for name, found in (('best_t', curves), ('best_masks', masks)):
            if name in wanted and not found:
                raise UserError(f'[{stage.name}]: no scoring stage before it gives {{{name}}}')
        if 'best_t' in wanted:
            values['best_t'] = f'{curves[-1]["t"]:.2f}'
        if 'best_masks' in wanted:
            values['best_masks'] = fill(masks[max(masks)], values, stage.name)
        return values

    def show_ladder(self, seed: int) -> None:
        """Print the rows whose stages are complete and write ladder.json; a row's time is all since
        the row before."""
        rows, since, total = [], 0.0, 0.0
        for stage in self.preset.stages:
            record = self.records.get(stage.name, {})
            since += record.get('seconds', 0.0)
            total += record.get('seconds', 0.0)
            if stage.row and record.get('done'):
                rows.append(
                    ladder_row(
                        stage.row, read_scores(self.scores_path(stage)), self.preset.core, since
                    )
                )
                since = 0.0
        if rows:
            path = os.path.join(self.work, 'ladder.json')
            write_ladder(path, rows, total, preset=self.preset.name, seed=seed, commit=commit())
            print(f'\n{ladder_table(rows, total)}\n\nladder: {path}')
        sheet = os.path.join(self.work, 'contact_sheet.png')
        if os.path.exists(sheet):
            print(f'pictures: {sheet}')


if __name__ == '__main__':
    command_line.run(main, parse_args)
