"""The runs of a table: their folders and commands, and which of them are complete.

A run is one call of tool.pipeline: a row with one seed. What several runs need is made once before
them: the generated pictures or the lists, the saliency maps, and at the small scales the warm-up of
each baseline and seed.

    <work>/runs/<folder of the row>/seed<seed>/    a work folder of the pipeline
        reproduce.json                             its settings, and whether it is complete
        reproduce.log                              what the pipeline printed
    <work>/runs/warmup_<method>/seed<seed>/        the same, for a warm-up
    <work>/voc, lists, SALImages                   what all runs read, where it is not given
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from tool.files.atomic import write_text
from tool.files.manifest import first_difference
from tool.files.reading import read_json
from tool.presets.folders import LISTS, TRAIN_LIST, has_lists, lacking_truth, with_folders
from tool.presets.known_flags import check_overrides
from tool.presets.load import load_preset, parse_override
from tool.presets.stages import BY_MASKS, ROOT, Preset, RunSettings
from tool.reproduce_tables.rows import Row
from tool.run.errors import UserError
from voc12.classes import VOC
from voc12.layout import class_set

PAPER, LAPTOP, TINY = 'paper', 'laptop', 'tiny'
SCALES = (PAPER, LAPTOP, TINY)
# Options of the preset that the rows decide, so that --set may not.
OURS = ('method', 'scale', 'only_seeds', 'warmup')
# Generated pictures of the scale tiny. A batch of 16 needs as many for training.
TINY_PICTURES = {'images': 16, 'val': 4}
# The words that follow `python` to run the pipeline.
PIPELINE = ('-m', 'tool.pipeline')
RECORD = 'reproduce.json'
LOG = 'reproduce.log'


@dataclass(frozen=True)
class Campaign:
    """The choices of the command line.

    Attributes:
        table: name of the table, one of rows.TABLES.
        rows: its rows.
        scale: one of SCALES.
        work: absolute path of the work folder.
        voc: absolute path of the data folder; None: that of the scale.
        seeds: the seeds of every row.
        settings: words for --set that hold for every run that has their stage.
        device: the value of --device; None if it was not given.
    """

    table: str
    rows: Sequence[Row]
    scale: str
    work: str
    voc: str | None = None
    seeds: Sequence[int] = (0,)
    settings: Sequence[str] = ()
    device: str | None = None

    @property
    def root(self) -> str:
        """The data folder."""
        if self.voc is not None:
            return self.voc
        if self.scale == TINY:
            return os.path.join(self.work, 'voc')
        if self.scale == LAPTOP:
            return os.path.join(os.path.dirname(ROOT), 'shared', 'data', 'VOC2012_animals')
        return os.path.join(ROOT, 'VOC2012')

    @property
    def lists(self) -> str:
        """The folder of the image lists and labels."""
        for override in map(parse_override, self.settings):
            if (override.stage, override.option) == ('preset', 'lists'):
                return override.value
        if has_lists(os.path.join(self.root, LISTS)) or self.generates_pictures:
            return os.path.join(self.root, LISTS)
        return os.path.join(self.work, LISTS)

    @property
    def generates_pictures(self) -> bool:
        """Whether the pictures are generated ones, which the first step makes."""
        return self.scale == TINY and self.voc is None

    @property
    def saliency(self) -> str | None:
        """The folder of saliency maps at the small scales; None where the preset or --set decides.

        Where the data folder has none, they are made from its masks.
        """
        given = any(word.startswith('preset.saliency=') for word in self.settings)
        if given or self.scale == PAPER:
            return None
        of_data = os.path.join(self.root, 'SALImages')
        if self.generates_pictures or os.path.isdir(of_data):
            return of_data
        return os.path.join(self.work, 'SALImages')


@dataclass(frozen=True)
class Job:
    """One command to run.

    Attributes:
        title: its name for the user.
        folder: the folder of its log, and of its record.
        words: the words that follow `python`.
        settings: {name: value} that decide what it computes.
        files: files that it makes; it is not complete without them.
        ladder: rows of the pipeline's ladder that it makes; likewise.
        needs: a file of an earlier job that it reads; '' for none.
    """

    title: str
    folder: str
    words: Sequence[str]
    settings: dict[str, str] = field(default_factory=dict)
    files: Sequence[str] = ()
    ladder: Sequence[str] = ()
    needs: str = ''

    @property
    def log(self) -> str:
        """The file of its output."""
        return os.path.join(self.folder, LOG)


# ---------------------------------------------------------------- jobs


def row_job(campaign: Campaign, row: Row, seed: int) -> Job:
    """The run of a row with a seed."""
    warmup = warmup_file(campaign, row.method, seed)
    own = []
    decide = []
    if warmup is not None:
        own.append(f'preset.warmup={warmup}')
        decide = chosen_settings(campaign, row, None)
    settings = [*chosen_settings(campaign, row, warmup), *row.settings]
    ladder = [figure.ladder for figure in row.figures]
    return _pipeline_job(
        campaign,
        row,
        seed,
        title=f'{row.title}, seed {seed}',
        folder=run_folder(campaign, row.folder, seed),
        last=row.last,
        own=own,
        settings=settings,
        decide=decide,
        ladder=ladder,
        needs=warmup or '',
    )


def warmup_job(campaign: Campaign, row: Row, seed: int) -> Job:
    """The warm-up that the runs of a row and a seed start from, at the small scales."""
    file = warmup_file(campaign, row.method, seed)
    assert file is not None
    return _pipeline_job(
        campaign,
        row,
        seed,
        title=f'warm-up of {row.method}, seed {seed}',
        folder=os.path.dirname(file),
        last='warmup',
        own=[],
        settings=chosen_settings(campaign, row, None),
        files=[file],
    )


def _pipeline_job(
    campaign: Campaign,
    row: Row,
    seed: int,
    *,
    title: str,
    folder: str,
    last: str,
    own: list[str],
    settings: list[str],
    decide: Sequence[str] = (),
    files: Sequence[str] = (),
    ladder: Sequence[str] = (),
    needs: str = '',
) -> Job:
    """A job that runs the pipeline.

    Args:
        own: words for --set that name files in the work folder; they decide nothing.
        settings: words for --set that decide what is computed.
        decide: words for --set of the warm-up that it starts from, which decide that too.
    """
    common = [f'preset.method={row.method}', f'preset.scale={campaign.scale}']
    places = place_settings(campaign, row)
    words = [*PIPELINE, '--preset', row.preset]
    words += ['--voc12_root', campaign.root, '--work_dir', folder, '--seed', str(seed)]
    if campaign.device is not None:
        words += ['--device', campaign.device]
    words += ['--choose', BY_MASKS, '--to', last, '--set', *common, *places, *own, *settings]

    decides = {'preset': row.preset, 'voc12_root': campaign.root, 'seed': str(seed)}
    for word in [*common, *decide, *settings]:
        name, _, value = word.partition('=')
        decides[name] = value
    return Job(title, folder, words, decides, files, ladder, needs)


def place_settings(campaign: Campaign, row: Row) -> list[str]:
    """Words for --set that say where the data are that the runs of a row read."""
    places = [f'preset.lists={campaign.lists}']
    if row.method == 'eps' and campaign.saliency is not None:
        places.append(f'preset.saliency={campaign.saliency}')
    return places


def run_folder(campaign: Campaign, folder: str, seed: int) -> str:
    """The work folder of a run."""
    return os.path.join(campaign.work, 'runs', folder, f'seed{seed}')


def warmup_file(campaign: Campaign, method: str, seed: int) -> str | None:
    """The checkpoint of the warm-up; None at the scale paper, which has no warm-up."""
    if campaign.scale == PAPER:
        return None
    return os.path.join(run_folder(campaign, f'warmup_{method}', seed), 'warmup.pth')


def data_jobs(campaign: Campaign, methods: set[str]) -> list[Job]:
    """The commands, in their order, that make the data of all runs, where it is not there yet."""
    log_folder = os.path.join(campaign.work, 'runs', 'data')
    root = campaign.root
    lists = campaign.lists
    files = [os.path.join(lists, 'train_aug.txt'), os.path.join(lists, 'cls_labels.npy')]
    jobs = []
    if campaign.generates_pictures:
        counts = []
        for flag, value in TINY_PICTURES.items():
            counts += [f'--{flag}', str(value)]
        words = ['-m', 'voc12.synth', '--out', root, '--seed', '1', *counts]
        jobs.append(Job('generated pictures', log_folder, words, files=files))
    else:
        words = ['-m', 'voc12.make_lists', '--voc12_root', root, '--out_dir', lists]
        jobs.append(Job('lists and labels', log_folder, words, files=files))
    makes_saliency = campaign.saliency == os.path.join(campaign.work, 'SALImages')
    if 'eps' in methods and makes_saliency:
        saliency = os.path.join(campaign.work, 'SALImages')
        train_list = os.path.join(lists, TRAIN_LIST)
        masks = os.path.join(root, 'SegmentationClassAug')
        words = ['-m', 'voc12.make_saliency', '--mask_dir', masks, '--out_dir', saliency]
        words += ['--list', train_list]
        done = {'saliency': f'of {masks}'}
        folder = os.path.join(campaign.work, 'runs', 'saliency')
        jobs.append(Job('saliency maps, from masks', folder, words, done))
    return jobs


def unique_jobs(campaign: Campaign) -> list[Job]:
    """The runs of all rows and seeds; of rows that share their runs, one. Seed by seed."""
    jobs: dict[str, Job] = {}
    for seed in campaign.seeds:
        for row in campaign.rows:
            job = row_job(campaign, row, seed)
            jobs.setdefault(job.folder, job)
    return list(jobs.values())


def rows_of(campaign: Campaign, jobs: list[Job]) -> list[tuple[Row, int]]:
    """The row and the seed of each job; of rows that share it, the first."""
    found: dict[str, tuple[Row, int]] = {}
    for seed in campaign.seeds:
        for row in campaign.rows:
            found.setdefault(row_job(campaign, row, seed).folder, (row, seed))
    return [found[job.folder] for job in jobs]


# ---------------------------------------------------------------- what --set gives


def load_row(campaign: Campaign, row: Row, warmup: str | None, words: Sequence[str]) -> Preset:
    """The preset of a row with some of the words of --set."""
    places = place_settings(campaign, row)
    if warmup is not None:
        places.append(f'preset.warmup={warmup}')
    own = [f'preset.method={row.method}', f'preset.scale={campaign.scale}']
    overrides = [parse_override(word) for word in [*own, *places, *words]]
    classes = class_set(campaign.root).names if os.path.isdir(campaign.root) else VOC.names
    run = RunSettings(
        work=run_folder(campaign, row.folder, campaign.seeds[0]),
        seed=campaign.seeds[0],
        device=campaign.device,
        voc=campaign.root,
        classes=classes,
    )
    return load_preset(row.preset, overrides, run, classes)


def chosen_settings(campaign: Campaign, row: Row, warmup: str | None) -> list[str]:
    """The user's words of --set that concern a row: of the preset, and of stages that it has."""
    if not campaign.settings:
        return []
    options = [word for word in row.settings if word.startswith('preset.')]
    stages = load_row(campaign, row, warmup, options).stages.names()
    chosen = []
    for word in campaign.settings:
        if parse_override(word).stage in ('preset', *stages):
            chosen.append(word)
    return chosen


def check_settings(campaign: Campaign) -> None:
    """Check the words of --set before anything runs.

    Raises:
        UserError: a word is not of the form STAGE.FLAG=VALUE, names a stage that no row has, an
            option that the rows decide, or a flag that the stage's script does not know.
    """
    unused = list(campaign.settings)
    for override in map(parse_override, campaign.settings):
        if override.stage == 'preset' and override.option in OURS:
            raise UserError(
                f'--set {override.text}: the rows of the table decide that; leave it out'
            )
    stages: set[str] = set()
    for row, warmup in _kinds_of_runs(campaign):
        words = chosen_settings(campaign, row, warmup)
        preset = load_row(campaign, row, warmup, [*words, *row.settings])
        check_overrides(preset, [parse_override(word) for word in words])
        stages |= set(preset.stages.names())
        unused = [word for word in unused if word not in words]
    if unused:
        stage = parse_override(unused[0]).stage
        raise UserError(
            f'--set {unused[0]}: no row has a stage {stage}; there are '
            f'{", ".join(sorted(["preset", *stages]))}'
        )


def check_truth(campaign: Campaign) -> None:
    """Check that all pictures to score have ground truth. The lists have to exist.

    Raises:
        UserError: one has none.
    """
    given = {}
    for override in map(parse_override, campaign.settings):
        if override.stage == 'preset' and override.option in ('gt', 'score_list', 'val_list'):
            given[override.option] = override.value
    run = RunSettings(campaign.work, voc=campaign.root, lists=campaign.lists)
    lack = lacking_truth(with_folders(run.defaults(**given)))
    if lack:
        raise UserError(f'{lack}; the figures of a table are scores against ground truth')


def _kinds_of_runs(campaign: Campaign) -> list[tuple[Row, str | None]]:
    """Every row with its warm-up, and at the small scales every row whose run is the warm-up."""
    kinds = []
    for row in campaign.rows:
        warmup = warmup_file(campaign, row.method, campaign.seeds[0])
        kinds.append((row, warmup))
    methods = set()
    for row, warmup in list(kinds):
        if warmup is not None and row.method not in methods:
            methods.add(row.method)
            kinds.append((row, None))
    return kinds


# ---------------------------------------------------------------- records


def read_record(job: Job) -> dict | None:
    """The record of a job; None where it has never been started.

    Raises:
        UserError: the record is damaged.
    """
    path = os.path.join(job.folder, RECORD)
    try:
        record = dict(read_json(path))
        return {'settings': dict(record['settings']), 'done': bool(record['done'])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f'{path}: unreadable ({error}); delete it, and the run continues from its stages'
        ) from None


def write_record(job: Job, done: bool) -> None:
    """Write the record of a job that starts, or that has ended well."""
    content = {'settings': job.settings, 'done': done}
    write_text(os.path.join(job.folder, RECORD), json.dumps(content, indent=1) + '\n')


def check_record(job: Job) -> None:
    """Refuse a folder that holds a run with other settings, so that no result is lost.

    Raises:
        UserError: its record has other settings.
    """
    record = read_record(job)
    if record is None:
        return
    difference = first_difference(record['settings'], job.settings)
    if difference is not None:
        raise UserError(
            f'{job.folder}: was made with {difference}; choose another --work_dir, or delete that '
            'folder'
        )


def is_complete(job: Job) -> bool:
    """Whether a job has nothing left to do."""
    if not all(map(os.path.exists, job.files)):
        return False
    if job.files and not job.settings:  # of data, only the files count
        return True
    record = read_record(job)
    if record is None or not record['done'] or record['settings'] != job.settings:
        return False
    titles = [entry['row'] for entry in read_ladder(job)]
    return set(job.ladder) <= set(titles)


def read_ladder(job: Job) -> list[dict]:
    """The rows of the ladder that a run has written; none where it has not."""
    return list(ladder_file(job).get('rows', []))


def ladder_file(job: Job) -> dict:
    """The content of a run's ladder.json; empty where there is none or it is damaged."""
    try:
        return dict(read_json(os.path.join(job.folder, 'ladder.json')))
    except (OSError, ValueError, TypeError):
        return {}
