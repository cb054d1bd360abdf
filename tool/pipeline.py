"""All stages of a preset one after the other, and the ladder of their scores at the end.

    python -m tool.pipeline --preset quickstart
    python -m tool.pipeline --preset seam --voc12_root VOC2012 \\
        --set train.weights=ilsvrc-cls_rna-a1_cls1000_ep-0001.params

Reads the preset: tool/presets/<preset>.py, or a Python file of your own, which is executed. It
holds the stages in their order and the flags of their scripts.

Writes everything into --work_dir: the files that the stages make, the output of each stage in
logs/<stage>.log, the commands and their times in pipeline.json, the scores in ladder.json, and a
page with all of it and pictures in report.html (tool.report).

Stages that are complete are skipped, so the same command continues a run that was interrupted.
After a change of flags, the first stage that it changes and all stages after it are done anew.
"""

import argparse
import os
import shlex
import sys

from tool.files.places import keep_apart
from tool.presets.known_flags import check_overrides
from tool.presets.load import NAMES, load_preset, parse_override, preset_name
from tool.presets.lock import exclusive
from tool.presets.processes import launched, process_count
from tool.presets.runner import Runner
from tool.presets.stages import CHOICES, ROOT, FromScores, Preset, RunSettings
from tool.run import command_line
from tool.run.errors import UserError
from voc12.classes import VOC
from voc12.layout import class_set


def parse_args() -> argparse.Namespace:
    """The flags of the command line."""
    parser = command_line.Parser(__doc__)
    parser.method.add_argument(
        '--preset',
        required=True,
        help=f'{", ".join(NAMES)}, or the path of a Python file that defines preset(run); the file '
        'is executed',
    )
    parser.method.add_argument(
        '--set',
        nargs='+',
        action='extend',
        default=[],
        metavar='STAGE.FLAG=VALUE',
        help='change a flag of a stage, e.g. train.max_steps=100 train.no_contrast=yes, or an '
        'option of the preset, e.g. preset.imagenet=FILE',
    )
    parser.data.add_argument(
        '--voc12_root',
        help="the devkit's VOC2012 folder, or a data folder of your own pictures (default: the "
        "preset's choice)",
    )
    parser.method.add_argument(
        '--choose',
        choices=CHOICES,
        help='what chooses the background score and the masks that DeepLab learns from: labels, '
        'no ground truth (tool.cam_threshold and tool.agreement), or masks, the scores against '
        'ground truth (default: masks where the pictures to score have them, else labels; in the '
        'preset own always labels)',
    )
    parser.output.add_argument(
        '--work_dir', help='folder of everything the run writes (default: runs/<preset>)'
    )
    parser.run.add_argument(
        '--from',
        dest='first',
        metavar='STAGE',
        help='do this stage and all after it anew; the stages before it must be complete',
    )
    parser.run.add_argument('--to', dest='last', metavar='STAGE', help='end after this stage')
    parser.run.add_argument('--show', action='store_true', help='print the commands and do nothing')
    parser.run.add_argument(
        '--seed',
        type=command_line.number(int, 0),
        default=0,
        help='seed of every random choice of the stages',
    )
    command_line.add_device_flag(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    run = run_settings(args)
    keep_apart([('--work_dir', run.work)], [('--voc12_root', run.voc)])
    overrides = [parse_override(text) for text in args.set]
    preset = load_preset(args.preset, overrides, run, run.classes or VOC.names)
    chosen = chosen_stages(preset, args.first, args.last)
    if args.show:
        show_commands(preset, chosen, run.device)
        return
    check_overrides(preset, overrides)
    print(f'{preset.name}: {preset.about}\nin {run.work}', flush=True)
    with exclusive(run.work):
        runner = Runner(preset, run.work, run.device)
        if args.first:
            runner.start_at(chosen.start)
        for index in chosen:
            runner.run_stage(index)
        runner.show_ladder(args.seed)
        write_report(run.work)
        if chosen.stop == len(preset.stages):
            for line in preset.next_steps:
                print(line)


def run_settings(args: argparse.Namespace) -> RunSettings:
    """The settings that the command line gives the preset."""
    default_work = os.path.join(ROOT, 'runs', preset_name(args.preset))
    root = os.path.abspath(args.voc12_root) if args.voc12_root else None
    return RunSettings(
        work=os.path.abspath(args.work_dir or default_work),
        seed=args.seed,
        device=args.device or None,
        voc=root,
        classes=class_set(root).names if root else None,
        choose=args.choose,
    )


def chosen_stages(preset: Preset, first: str | None, last: str | None) -> range:
    """The numbers of the stages that --from and --to choose.

    Raises:
        UserError: there is no such stage, or the last one comes before the first.
    """
    names = preset.stages.names()
    for flag, stage in (('--from', first), ('--to', last)):
        if stage and stage not in names:
            raise UserError(f'{flag} {stage}: there is no such stage; there are {", ".join(names)}')
    start = names.index(first or names[0])
    end = names.index(last or names[-1])
    if start > end:
        raise UserError(f'--from {first} --to {last}: they are the other way round in the preset')
    return range(start, end + 1)


def write_report(work: str) -> None:
    """Write report.html into the work folder and print its path.

    The run is complete even where this fails; then one line says why.
    """
    try:
        # imported here, so that whatever is wrong with the report cannot end the run
        from tool.report import write_run_report

        write_run_report(work)
    except UserError as error:
        print(f'pipeline: no report: {error}', file=sys.stderr)
    except Exception as error:
        reason = ' '.join(str(error).split())
        print(f'pipeline: no report: {type(error).__name__}: {reason}', file=sys.stderr)


def show_commands(preset: Preset, chosen: range, device: str | None) -> None:
    """Print the commands of stages; values that depend on scores are in braces."""
    unknown = {value: value.value for value in FromScores}
    stages = list(preset.stages)
    for index in chosen:
        words = stages[index].command(unknown)
        print('python', shlex.join(launched(words, process_count(stages[index], device))))


if __name__ == '__main__':
    command_line.run(main, parse_args)
