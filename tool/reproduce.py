"""The paper's tables by one command: every row with every seed, and a table of their figures.

    python -m tool.reproduce seam --voc12_root VOC2012 --plan
    python -m tool.reproduce seam --voc12_root VOC2012 --seeds 0 1 2 \\
        --set preset.imagenet=ilsvrc-cls_rna-a1_cls1000_ep-0001.params
    python -m tool.reproduce ablation --scale tiny

    seam      SEAM without and with the contrast: seeds, random walk, DeepLab v1
    eps       EPS without and with the contrast: seeds, pseudo masks, DeepLab v1 and v2
    ablation  seeds of SEAM + contrast without some of its parts and with other constants
    baseline  the rows without the contrast, SEAM alone and EPS alone: what it is added to

Writes into --work_dir: the work folders of the pipeline in runs/<row>/seed<seed>, and after every
run <table>/table.md and <table>/table.json: the paper's figure where it is known, the median, the
lowest and the highest of the seeds, the background score, list and ground truth that they were
scored with, and the commands.

Runs that are complete are skipped, and a run that was interrupted continues, so the same command
goes on after a break. Rows that several tables share are computed once.
"""

import argparse
import os
import shlex
import sys

from tool.presets.stages import ROOT
from tool.reproduce_tables.children import Failure, run_jobs
from tool.reproduce_tables.plan import print_plan
from tool.reproduce_tables.rows import TABLES
from tool.reproduce_tables.runs import (
    PAPER,
    SCALES,
    Campaign,
    Job,
    check_record,
    check_settings,
    check_truth,
    data_jobs,
    is_complete,
    rows_of,
    unique_jobs,
    warmup_file,
    warmup_job,
)
from tool.reproduce_tables.table import measure, write_table
from tool.run import command_line
from tool.run.errors import UserError


def parse_args() -> argparse.Namespace:
    """The flags of the command line."""
    parser = command_line.Parser(__doc__)
    parser.method.add_argument(
        'table',
        choices=list(TABLES),
        help='which table; baseline has the rows without the contrast, SEAM alone and EPS alone',
    )
    parser.method.add_argument(
        '--scale',
        choices=SCALES,
        default=PAPER,
        help="paper: the paper's settings, for GPUs; laptop: a small network on the pictures of "
        'the preset laptop, an hour or so for a run; tiny: generated pictures, a minute or two '
        'for a run, the scores mean nothing',
    )
    parser.method.add_argument(
        '--seeds',
        type=command_line.number(int, 0),
        nargs='+',
        default=[0, 1, 2],
        help='seeds of each row',
    )
    parser.method.add_argument(
        '--set',
        nargs='+',
        action='extend',
        default=[],
        metavar='STAGE.FLAG=VALUE',
        help='as for tool.pipeline, for every run that has the stage, e.g. preset.imagenet=FILE; '
        "a row's own settings come after these",
    )
    parser.data.add_argument(
        '--voc12_root',
        help="the devkit's VOC2012 folder, with masks of train and val (default: VOC2012; at the "
        'scale laptop the folder of the preset laptop, at the scale tiny generated pictures)',
    )
    parser.output.add_argument(
        '--work_dir',
        help='folder of everything that is written; give the tables of a scale the same one, so '
        'that they share their runs (default: runs/reproduce_<scale>)',
    )
    parser.run.add_argument(
        '--gpus',
        type=command_line.number(int, 1),
        default=1,
        help='number of runs at a time, each on a GPU of its own and with its share of the cores; '
        'with 1, a run sees all GPUs, and --set train.processes=4 spreads a stage over them',
    )
    parser.run.add_argument(
        '--on_error',
        choices=('stop', 'skip'),
        default='skip',
        help='after a run has failed: start no further one, or go on with the others. Either way '
        'the failed ones are named at the end, and the exit code is 1',
    )
    parser.run.add_argument(
        '--plan',
        action='store_true',
        help='run nothing but a few steps of training, to time them; print the rows, steps, '
        'pictures, disk and hours',
    )
    parser.run.add_argument(
        '--timed_steps',
        type=command_line.number(int, 0),
        default=4,
        help='with --plan: training steps that are timed; 0 times none',
    )
    command_line.add_device_flag(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    campaign = campaign_of(args)
    slots = gpu_slots(args.gpus)
    check_settings(campaign)
    jobs = unique_jobs(campaign)
    for job in jobs:
        check_record(job)
    if args.plan:
        failures = make_data(campaign, jobs)
        if not failures:
            check_truth(campaign)
            print_plan(campaign, jobs, args.timed_steps, args.gpus)
    else:
        print(f'{campaign.table} at the scale {campaign.scale}: {len(jobs)} runs')
        failures = run_campaign(campaign, jobs, slots, args.on_error == 'stop')
        print(f'table: {write_table(campaign, command(), failures)}')
    if failures:
        sys.stdout.flush()
        for failure in failures:
            print(f'reproduce: {failure.job.title} failed: {failure.reason}', file=sys.stderr)
        sys.exit(1)


def campaign_of(args: argparse.Namespace) -> Campaign:
    """The campaign that the command line asks for.

    Raises:
        UserError: the data folder does not exist.
    """
    work = args.work_dir or os.path.join(ROOT, 'runs', f'reproduce_{args.scale}')
    campaign = Campaign(
        table=args.table,
        rows=TABLES[args.table],
        scale=args.scale,
        work=os.path.abspath(work),
        voc=os.path.abspath(args.voc12_root) if args.voc12_root else None,
        seeds=sorted(set(args.seeds)),
        settings=args.set,
        device=args.device,
    )
    if not campaign.generates_pictures and not os.path.isdir(campaign.root):
        raise UserError(
            f"--voc12_root {campaign.root}: no such folder; give the devkit's VOC2012 folder"
        )
    return campaign


def gpu_slots(count: int) -> list[dict[str, str]]:
    """The environment variables of each of the runs that run at a time: its GPU, and the number of
    cores that are its share.

    Raises:
        UserError: this machine has fewer GPUs.
    """
    if count == 1:
        return [{}]
    import torch  # here: one run at a time does without

    there_are = torch.cuda.device_count()
    if count > there_are:
        raise UserError(f'--gpus {count}: this machine has {there_are}; give at most that many')
    names = [str(number) for number in range(there_are)]
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if visible:
        names = visible.split(',')
    cores = str(max(1, command_line.default_jobs() // count))
    slots = []
    for name in names[:count]:
        slots.append({'CUDA_VISIBLE_DEVICES': name, command_line.CORES: cores})
    return slots


def run_campaign(
    campaign: Campaign, jobs: list[Job], slots: list[dict[str, str]], stop_on_error: bool
) -> list[Failure]:
    """Run what is not complete: the data, the warm-ups, then the runs of the rows.

    The table is written after every run of a row.

    Returns:
        What has failed. Where the data failed, nothing else was run.
    """
    waiting = [job for job in jobs if not is_complete(job)]
    if len(waiting) < len(jobs):
        print(f'{len(jobs) - len(waiting)} of them are complete', flush=True)
    failures = make_data(campaign, waiting)
    if failures:
        return failures
    check_truth(campaign)
    warmups = missing_warmups(campaign, waiting)
    failures = run_jobs(warmups, slots, stop_on_error, no_more_to_say)
    if failures and stop_on_error:
        return failures

    def write_and_describe(job: Job) -> str:
        write_table(campaign, command())
        return first_figure(campaign, job)

    return [*failures, *run_jobs(waiting, slots, stop_on_error, write_and_describe)]


def make_data(campaign: Campaign, jobs: list[Job]) -> list[Failure]:
    """Make the pictures, lists and saliency maps that some runs need, where there are none yet.

    Returns:
        What has failed: the first of them that did.
    """
    methods = {row.method for row, _ in rows_of(campaign, jobs)}
    if not methods:
        return []
    missing = [job for job in data_jobs(campaign, methods) if not is_complete(job)]
    return run_jobs(missing, [{}], True, no_more_to_say)


def missing_warmups(campaign: Campaign, jobs: list[Job]) -> list[Job]:
    """The warm-ups that some runs start from and that are not complete; none at the scale paper."""
    found: dict[str, Job] = {}
    for row, seed in rows_of(campaign, jobs):
        if warmup_file(campaign, row.method, seed) is None:
            continue
        job = warmup_job(campaign, row, seed)
        check_record(job)
        if not is_complete(job):
            found.setdefault(job.folder, job)
    return list(found.values())


def first_figure(campaign: Campaign, job: Job) -> str:
    """The end of the line of a run that is complete: its first figure."""
    ((row, seed),) = rows_of(campaign, [job])
    measured = measure(row.figures[0], {seed: job})
    return f', {measured.figure.title} {measured.values[seed]:.1f}'


def no_more_to_say(job: Job) -> str:
    """The end of the line of a job that has no figures."""
    return ''


def command() -> str:
    """The command line that was given."""
    return shlex.join(['python', '-m', 'tool.reproduce', *sys.argv[1:]])


if __name__ == '__main__':
    command_line.run(main, parse_args)
