"""The cost of the runs of a table: steps, pictures, disk, and hours from a few timed steps."""

import dataclasses
import os
import tempfile
import time
from dataclasses import dataclass

from tool.files.atomic import write_text
from tool.files.lists import labels_of, read_labels, read_list, spaced
from tool.files.pictures import image_size
from tool.presets.child import last_line, run_script
from tool.presets.folders import LABELS, TRAIN_LIST
from tool.presets.ladder import clock, text_table
from tool.presets.stages import FromScores, Preset, Stage
from tool.reproduce_tables.rows import Row
from tool.reproduce_tables.runs import (
    Campaign,
    Job,
    chosen_settings,
    is_complete,
    load_row,
    rows_of,
    warmup_file,
)
from tool.run import command_line
from tool.run.errors import Interrupted
from voc12.layout import class_set, image_path

# Pictures whose sizes and labels stand for those of all.
SAMPLE = 100
# Bytes of a value of a map, and of a mask's PNG for each of its pixels.
VALUE_BYTES = {'float32': 4, 'float16': 2}
MASK_BYTES = 0.03
# The batch of stage 1 and the iterations of DeepLab where the preset does not name them.
DEFAULT_BATCH = 8
DEEPLAB_STEPS = 20_000


@dataclass(frozen=True)
class Picture:
    """An average picture of the data folder.

    Attributes:
        pixels: its number of pixels.
        classes: its number of foreground classes.
    """

    pixels: float
    classes: float


@dataclass(frozen=True)
class RunPlan:
    """The cost of one run.

    Attributes:
        stages: how many stages it has.
        units: what its timed stages do: {'train': steps, 'infer': pictures, 'deeplab_train':
            steps}, the last one only where it has DeepLab; DeepLab v1 and v2 together.
        batch: pictures in a step of stage 1.
        trained_on: pictures that stage 1 is trained on.
        disk: bytes of its maps and masks.
    """

    stages: int
    units: dict[str, int]
    batch: int
    trained_on: int
    disk: float


class NotTimed(Exception):
    """A short run that was to be timed has failed; the message says why."""


def print_plan(campaign: Campaign, jobs: list[Job], timed: int, at_a_time: int) -> None:
    """Print the plan of the runs of a table. The lists of the data have to exist.

    Args:
        jobs: the runs.
        timed: steps and pictures that are timed; 0: none.
        at_a_time: how many runs run at a time.
    """
    picture = average_picture(campaign)
    plans = []
    seconds: list[float | None] = []
    problem = '' if timed else 'because of --timed_steps 0'
    with tempfile.TemporaryDirectory(prefix='reproduce_plan_') as folder:
        timer = Timer(folder, timed)
        for row, seed in rows_of(campaign, jobs):
            preset = preset_of(campaign, row, seed)
            plan = plan_of(preset, picture)
            plans.append(plan)
            if not problem:
                try:
                    seconds.append(timer.seconds_of_run(preset, plan))
                    continue
                except NotTimed as error:
                    problem = str(error)
            seconds.append(None)

    print(text_table(table_lines(jobs, plans, seconds)))
    print(summary(jobs, plans, seconds, at_a_time))
    for line in about_the_time(campaign, problem):
        print(line)


def table_lines(
    jobs: list[Job], plans: list[RunPlan], seconds: list[float | None]
) -> list[list[str]]:
    """The cells of the plan's table: its head, and a line for each run."""
    lines = [['run', 'stages', 'steps', 'batch', 'trained on', 'seeds of', 'disk', 'time']]
    for job, plan, time_of_run in zip(jobs, plans, seconds):
        lines.append(
            [
                job.title + (' (complete)' if is_complete(job) else ''),
                str(plan.stages),
                f'{plan.units["train"]:,}',
                str(plan.batch),
                f'{plan.trained_on:,}',
                f'{plan.units["infer"]:,}',
                gigabytes(plan.disk),
                '–' if time_of_run is None else clock(time_of_run),
            ]
        )
    return lines


def summary(
    jobs: list[Job], plans: list[RunPlan], seconds: list[float | None], at_a_time: int
) -> str:
    """The line below the table: what the runs that are not complete take together."""
    waiting = 0
    disk = 0.0
    hours = 0.0
    all_timed = True
    for job, plan, time_of_run in zip(jobs, plans, seconds):
        if is_complete(job):
            continue
        waiting += 1
        disk += plan.disk
        if time_of_run is None:
            all_timed = False
        else:
            hours += time_of_run / 3600
    line = f'{waiting} of {len(jobs)} runs to do, {gigabytes(disk)} of maps and masks'
    if waiting and all_timed:
        line += f', {hours:.1f} hours'
        if at_a_time > 1:
            line += f', {hours / at_a_time:.1f} with {at_a_time} runs at a time'
    return line


def about_the_time(campaign: Campaign, problem: str) -> list[str]:
    """The meaning of the column of times, or why it is empty."""
    if problem:
        return [f'time: not known, {problem}']
    device = command_line.pick_device(campaign.device)
    if device.type == 'cuda':
        import torch  # here: `pick_device` has loaded it

        machine = f'one {torch.cuda.get_device_name(device)}'
    else:
        machine = f"this machine's {device.type}, not of a GPU"
    return [
        f'time: of {machine}, from a few timed steps of the training of stage 1, the inference of '
        'its seeds and the training of DeepLab',
        'not in it: the start of each stage, AffinityNet, random walk, dense CRF, test of DeepLab',
    ]


# ---------------------------------------------------------------- what a run takes


def preset_of(campaign: Campaign, row: Row, seed: int) -> Preset:
    """The stages of a run up to the row's last one, with the warm-up where there is none yet."""
    warmup = warmup_file(campaign, row.method, seed)
    if warmup is not None and not os.path.exists(warmup):
        warmup = None
    words = [*chosen_settings(campaign, row, warmup), *row.settings]
    preset = load_row(campaign, row, warmup, words)
    names = preset.stages.names()
    preset.stages.drop(*names[names.index(row.last) + 1 :])
    return preset


def average_picture(campaign: Campaign) -> Picture:
    """The mean size and number of classes of some pictures of the training list."""
    names = spaced(read_list(os.path.join(campaign.lists, TRAIN_LIST)), SAMPLE)
    labels = read_labels(os.path.join(campaign.lists, LABELS), class_set(campaign.root))
    pixels = 0
    classes = 0.0
    for name, label in zip(names, labels_of(labels, names)):
        height, width = image_size(image_path(campaign.root, name))
        pixels += height * width
        classes += 0 if label is None else float(label.sum())
    return Picture(pixels / len(names), classes / len(names))


def plan_of(preset: Preset, picture: Picture) -> RunPlan:
    """The cost of a run of a preset, on pictures like the given one."""
    flags = preset.stages['train'].flags
    trained_on = len(read_list(str(flags['train_list'])))
    batch = _number(flags.get('batch_size')) or DEFAULT_BATCH
    steps = training_steps(preset.stages['train'], trained_on, batch)
    pictures = len(read_list(str(preset.stages['infer'].flags['infer_list'])))
    units = {'train': steps, 'infer': pictures}
    deeplab_steps = 0
    for name in ('deeplab_train', 'deeplab_v1_train'):
        if name in preset.stages.names():
            config = preset.stages[name].config
            deeplab_steps += _number(config.get('TRAIN_ITERATION')) or DEEPLAB_STEPS
    if deeplab_steps:
        units['deeplab_train'] = deeplab_steps
    disk = sum(bytes_of(stage, picture) for stage in preset.stages)
    return RunPlan(len(preset.stages), units, batch, trained_on, disk)


def training_steps(train: Stage, images: int, batch: int) -> int:
    """The steps of a training of stage 1, as contrast_train.py counts them."""
    from network.baselines import BASELINES  # both here, because they load torch
    from tool.train.engine import steps_of

    baseline = BASELINES[str(train.flags['baseline'])]
    given = _number(train.flags.get('max_steps')) or _number(train.flags.get('max_iters'))
    if given or baseline.max_steps:
        return given or baseline.max_steps or 0
    epochs = _number(train.flags.get('max_epochs')) or baseline.max_epochs
    return steps_of(images, batch, epochs)


def _number(value: object) -> int | None:
    """A flag's value as a number; None where the flag is left out."""
    return None if value is None else int(str(value))


def bytes_of(stage: Stage, picture: Picture) -> float:
    """The bytes of the maps and masks that a stage writes, of pictures like the given one."""
    flags = stage.flags
    list_path = flags.get('infer_list') or flags.get('list')
    if list_path is None or stage.script in ('eval.py', 'tool.contact_sheet'):
        return 0.0
    pictures = len(read_list(str(list_path)))
    value = VALUE_BYTES[str(flags.get('dtype') or 'float32')]
    if 'out_cam' in flags:
        return pictures * picture.classes * picture.pixels * value
    if stage.script == 'aff_prepare.py':
        alphas = flags['alpha']
        sets_of_maps = len(alphas) if isinstance(alphas, (list, tuple)) else 1
        channels = picture.classes + 1  # and the background
        return pictures * sets_of_maps * channels * picture.pixels * value
    return pictures * len(stage.makes) * picture.pixels * MASK_BYTES


def gigabytes(count: float) -> str:
    """A number of bytes in words."""
    if count < 0.05e9:
        return f'{count / 1e6:.1f} MB'
    return f'{count / 1e9:.1f} GB'


# ---------------------------------------------------------------- timing


class Timer:
    """Times steps of training and pictures of inference in short runs of the stages themselves.

    Args:
        folder: an empty folder for what the short runs write.
        count: how many steps or pictures are timed.
    """

    def __init__(self, folder: str, count: int):
        self.folder = folder
        self.count = count
        # seconds of a step or picture, {(stage, what decides its time): seconds}
        self._known: dict[tuple, float] = {}
        # of each baseline, the session of the last short training and the weights of the warm-up
        self._sessions: dict[str, str] = {}
        self._warmups: dict[str, str] = {}
        self._trainings = 0

    def seconds_of_run(self, preset: Preset, plan: RunPlan) -> float:
        """Seconds of the timed stages of a run.

        Raises:
            NotTimed: one of the short runs failed.
        """
        seconds = 0.0
        for stage, count in plan.units.items():
            seconds += count * self._seconds_of_one(preset, stage)
        return seconds

    def _seconds_of_one(self, preset: Preset, name: str) -> float:
        """Seconds of a step or picture of a stage; stages of one kind are timed once."""
        flags = preset.stages['train'].flags
        kind: tuple = (name, flags['baseline'])
        if name == 'train':
            kind = (*kind, flags.get('batch_size'), flags.get('no_contrast'))
        if kind not in self._known:
            print(f'timing {name}: {_describe(kind)}', flush=True)
            first = run_stage(self._short(preset, name, 1), self.folder)
            second = run_stage(self._short(preset, name, 1 + self.count), self.folder)
            self._known[kind] = max(0.0, second - first) / self.count
        return self._known[kind]

    def _short(self, preset: Preset, name: str, count: int) -> Stage:
        """A stage with few steps or pictures."""
        baseline = str(preset.stages['train'].flags['baseline'])
        if name == 'train':
            warmup = self._warmup(preset)
            session = self._new_session(baseline)
            return short_training(preset.stages['train'], session, count, warmup)
        weights = f'{self._sessions[baseline]}.pth'
        if name == 'infer':
            return short_inference(preset.stages['infer'], self.folder, weights, count)
        return short_deeplab(preset, self.folder, weights, count)

    def _new_session(self, baseline: str) -> str:
        """A session of its own for a short training: a session of other settings is refused."""
        self._trainings += 1
        self._sessions[baseline] = os.path.join(self.folder, f'train_{self._trainings}')
        return self._sessions[baseline]

    def _warmup(self, preset: Preset) -> str:
        """The weights of a warm-up of one step; '' for a preset that trains from other ones."""
        if 'warmup' not in preset.stages.names():
            return ''
        stage = preset.stages['warmup']
        baseline = str(stage.flags['baseline'])
        if baseline not in self._warmups:
            session = os.path.join(self.folder, f'warmup_{baseline}')
            run_stage(short_training(stage, session, 1, ''), self.folder)
            self._warmups[baseline] = f'{session}.pth'
        return self._warmups[baseline]


def _describe(kind: tuple) -> str:
    """A line on what is timed, for the user."""
    _, baseline, *more = kind
    if not more:
        return baseline
    batch, no_contrast = more
    contrast = 'without the contrast' if no_contrast else 'with the contrast'
    return f'{baseline} {contrast}, batch {batch or DEFAULT_BATCH}'


def run_stage(stage: Stage, folder: str) -> float:
    """Run a stage and return how many seconds it took.

    Args:
        folder: a folder for its output.
    Raises:
        NotTimed: it failed.
        Interrupted: a signal ended it.
    """
    unknown = {value: value.value for value in FromScores}
    log = os.path.join(folder, 'log.txt')
    start = time.monotonic()
    code, stopped_by = run_script(stage.command(unknown), folder, log, goes_on=False)
    seconds = time.monotonic() - start
    if stopped_by:
        raise Interrupted(stopped_by, 'stopped')
    if code:
        raise NotTimed(last_line(log))
    return seconds


def short_training(stage: Stage, session: str, steps: int, weights: str) -> Stage:
    """A training of stage 1 with few steps, which writes <session>.pth.

    Args:
        weights: what it starts from; '' for the weights that its flags name.
    """
    changes: dict = {'session_name': session, 'max_steps': steps, 'save_every': 0, 'tblog_dir': ''}
    if weights:
        changes['weights'] = weights
    return dataclasses.replace(stage, flags={**stage.flags, **changes})


def short_inference(stage: Stage, folder: str, weights: str, pictures: int) -> Stage:
    """An inference of few pictures with the weights of a short training."""
    names = read_list(str(stage.flags['infer_list']))[:pictures]
    list_path = os.path.join(folder, f'{pictures}.txt')
    write_text(list_path, '\n'.join(names))
    cams = f'{weights}.cam{pictures}'
    changes = {'weights': weights, 'infer_list': list_path, 'out_cam': cams}
    return dataclasses.replace(stage, flags={**stage.flags, **changes})


def short_deeplab(preset: Preset, folder: str, weights: str, steps: int) -> Stage:
    """A training of DeepLab with few steps, on ground truth in place of pseudo masks.

    Args:
        weights: those of a short training, in place of the stage-1 weights it starts from.
    """
    stage = preset.stages['deeplab_train']
    scored = preset.stages['score_seeds'].flags
    changes = {
        'DATA_TRAIN_LIST': scored['list'],
        'DATA_PSEUDO_GT': scored['gt_dir'],
        'MODEL_SAVE_DIR': os.path.join(folder, f'deeplab_{os.path.basename(weights)}_{steps}'),
        'TRAIN_ITERATION': steps,
        'TRAIN_TBLOG': False,
    }
    own_weights = preset.stages['infer'].flags['weights']
    if stage.config['MODEL_BACKBONE_PRETRAIN'] == own_weights:
        changes['MODEL_BACKBONE_PRETRAIN'] = weights
    return dataclasses.replace(stage, config={**stage.config, **changes})
