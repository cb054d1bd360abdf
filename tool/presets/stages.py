"""The parts of a preset: stages, which are commands, and the settings of the run they are for.

A preset is a function in a Python file:

    def preset(run: RunSettings) -> Preset:
        base = quickstart.preset(run)
        base.stages.set_flags('train', max_steps=500)
        return Preset('the quickstart with a longer training', base.stages)

docs/options.md shows a longer one, and tool/presets/seam.py lists all stages of the paper.
"""

import dataclasses
import enum
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tool.run.errors import UserError

# The repository: the folder that the stages run in.
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class FromScores(enum.Enum):
    """A value that is only known once earlier stages have been scored.

    The pipeline puts the value in its place when the stage's turn comes. The text is what `--show`
    prints instead, and `--set` takes it too. Only scoring stages that decide (`Stage.decides`)
    count.
    """

    BEST_THRESHOLD = '{best_t}'
    BEST_MASKS = '{best_masks}'


# The background score that the last curve of a scoring stage found best.
BEST_THRESHOLD = FromScores.BEST_THRESHOLD
# The folder of masks (`Stage.masks`) whose score is the highest of all stages before.
BEST_MASKS = FromScores.BEST_MASKS

# What the best threshold and the best masks may be chosen by, the values of --choose.
BY_LABELS = 'labels'  # image labels and pictures alone
BY_MASKS = 'masks'  # ground-truth masks
CHOICES = (BY_LABELS, BY_MASKS)

# What turns seeds into pseudo masks: AffinityNet, or IRN's class boundaries.
PSA = 'psa'
IRN = 'irn'
REFINERS = (PSA, IRN)

Word = str | int | float | FromScores
Value = Word | bool | None | Sequence[Word]


@dataclass(frozen=True)
class RunSettings:
    """The settings that a user asks for. A preset reads them to make its stages.

    None means that the user asked for nothing there, so the preset decides.

    Attributes:
        work: absolute path of the folder that everything is written to.
        seed: number that decides every random choice of the stages.
        device: where networks run, e.g. 'cuda'; None leaves the choice to the stages.
        voc: folder with the layout of the devkit's VOC2012.
        classes: names of all classes of that folder; None where the user named no folder.
        lists: folder of the image lists and of the image-level labels.
        makes_lists: the run makes `lists`; otherwise they are there before it.
        mask_list: list of the pictures that get masks, which AffinityNet and DeepLab learn from.
        score_list: list of the pictures whose seeds and masks are scored.
        val_list: list of the pictures that DeepLab is tested on.
        gt: folder of the ground-truth masks that scores are computed against.
        has_truth: `gt` has a mask of every picture of `score_list` and `val_list`; otherwise
            nothing is scored against ground truth.
        choose: one of CHOICES, what the best threshold and the best masks are chosen by.
        core: classes that the ladder of scores shows an extra mean over.
        experiment: folder of the scripts that train and test DeepLab.
        refiner: one of REFINERS, what turns seeds into pseudo masks.
    """

    work: str
    seed: int = 0
    device: str | None = None
    voc: str | None = None
    classes: Sequence[str] | None = None
    lists: str | None = None
    makes_lists: bool | None = None
    mask_list: str | None = None
    score_list: str | None = None
    val_list: str | None = None
    gt: str | None = None
    has_truth: bool | None = None
    choose: str | None = None
    core: Sequence[str] | None = None
    experiment: str | None = None
    refiner: str | None = None

    def defaults(self, **values: Any) -> 'RunSettings':
        """These settings, with the given values where nothing was asked for."""
        missing = {name: value for name, value in values.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)


# flags, and keys of DeepLab's config, that change no result of any stage
WORKER_FLAGS = ('jobs', 'num_workers')
WORKER_KEYS = ('DATA_WORKERS',)


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline: a script and what it is started with.

    A flag's value may be: True for a flag without a value; None or False to leave the flag out; a
    list for several words; otherwise one word, which is written as Python prints it (text stays as
    it is). The same holds for `config`, except that a list is one text with commas, and True and
    False are values.

    Attributes:
        name: name of the stage for `--from`, `--to` and `--set`.
        script: a file of the repository, 'eval.py', or a module, 'tool.seed_masks'. A stage that
            is like another may leave it out.
        flags: {flag without dashes: value} for the script.
        config: {KEY: value} for `--set KEY=VALUE`, as the scripts of DeepLab take it.
        makes: files and folders that the stage writes, relative to the work folder; wildcards are
            allowed. They are removed before a changed stage is done anew, and a stage whose files
            are missing is not complete.
        row: title of the row that a scoring stage has in the ladder. It is eval.py or
            tool.agreement, with json; two stages may share a row.
        masks: folder of the masks that a scoring stage scores, a candidate for BEST_MASKS.
        decides: the score of a scoring stage counts for BEST_THRESHOLD and BEST_MASKS.
        enabled: False leaves the stage out of the run. Presets that build on this one may still
            change it, so they need not know whether it is part of the run.
        processes: number of processes that torchrun starts, but never more than there are GPUs, or
            cores of the processor on a machine without a GPU.
        like: name of another stage, whose flags and config this one has too unless it sets its
            own. What a later preset or `--set` changes there changes here as well, so DeepLab is
            tested with the network it was trained with. Only the config is shared where the two
            scripts differ.
    """

    name: str
    script: str = ''
    flags: Mapping[str, Value] = field(default_factory=dict)
    config: Mapping[str, Value] = field(default_factory=dict)
    makes: Sequence[str] = ()
    row: str = ''
    masks: str = ''
    decides: bool = True
    enabled: bool = True
    processes: int = 1
    like: str = ''

    def __post_init__(self):
        if isinstance(self.makes, str):
            raise UserError(f'stage {self.name}: makes = {self.makes!r} must be a list of texts')
        if isinstance(self.processes, bool) or not isinstance(self.processes, int):
            raise self._bad_processes()
        if self.processes < 1:
            raise self._bad_processes()
        for name, value in [*self.flags.items(), *self.config.items()]:
            if value is None:
                continue
            parts = value if isinstance(value, (list, tuple)) else [value]
            for part in parts:
                if not isinstance(part, (str, int, float, FromScores)):
                    raise UserError(
                        f'stage {self.name}: {name} = {value!r} is not a value of a command '
                        'line; give a text, a number, True, None or a list of texts and numbers'
                    )

    def _bad_processes(self) -> UserError:
        return UserError(
            f'stage {self.name}: processes = {self.processes}: must be a whole number of at least 1'
        )

    @property
    def trains(self) -> bool:
        """Whether its script trains a network: contrast_train.py, aff_train.py, DeepLab's train.py.

        A training cannot make again only what is stale.
        """
        return self.script.endswith('train.py')

    def from_scores(self) -> set[FromScores]:
        """The values of its command that only the scores of earlier stages decide."""
        found = set()
        for value in [*self.flags.values(), *self.config.values()]:
            for part in _parts(value):
                if isinstance(part, FromScores):
                    found.add(part)
        return found

    def deciding_words(self, known: Mapping[FromScores, str]) -> list[str]:
        """The words of `command` that decide the result.

        Numbers of workers do not: they are what a machine has room for, and a work folder may go on
        on another one.
        """
        flags = {flag: value for flag, value in self.flags.items() if flag not in WORKER_FLAGS}
        config = {key: value for key, value in self.config.items() if key not in WORKER_KEYS}
        return dataclasses.replace(self, flags=flags, config=config).command(known)

    def command(self, known: Mapping[FromScores, str]) -> list[str]:
        """The words that follow `python`.

        Args:
            known: the values that the scores of earlier stages have decided.
        """
        words = [self.script] if self.script.endswith('.py') else ['-m', self.script]
        for flag, value in self.flags.items():
            if value is None or value is False:
                continue
            words.append(f'--{flag}')
            if value is not True:
                words += [_text(part, known) for part in _parts(value)]
        settings = []
        for key, value in self.config.items():
            if value is not None:
                text = ','.join(_text(part, known) for part in _parts(value))
                settings.append(f'{key}={text}')
        if settings:
            words += ['--set', *settings]
        return words


def _parts(value: Value) -> list[Word]:
    """The words of a value; None has none."""
    if value is None:
        return []
    if isinstance(value, (str, int, float, FromScores)):
        return [value]
    return list(value)


def _text(part: Word, known: Mapping[FromScores, str]) -> str:
    """A word as it stands on the command line."""
    return known[part] if isinstance(part, FromScores) else str(part)


class Stages:
    """The stages of a preset in their order, and the ways in which another preset changes them.

    Every method raises UserError, which names the stages that exist, for a stage that does not.
    """

    def __init__(self, stages: Iterable[Stage]):
        self._stages: list[Stage] = []
        self._insert(0, stages)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._stages)

    def __len__(self) -> int:
        return len(self._stages)

    def __getitem__(self, name: str) -> Stage:
        return self._stages[self._index(name)]

    def names(self) -> list[str]:
        """The names of the stages in their order."""
        return [stage.name for stage in self._stages]

    def set_flags(self, stage: str, /, **flags: Value) -> None:
        """Change or add flags of a stage; None leaves a flag out."""
        self.set_fields(stage, flags={**self[stage].flags, **flags})

    def set_config(self, stage: str, /, **config: Value) -> None:
        """Change the config of a DeepLab stage: `set_config('deeplab_train', TRAIN_LR=0.01)`."""
        self.set_fields(stage, config={**self[stage].config, **config})

    def set_fields(self, stage: str, /, **fields: Any) -> None:
        """Change other fields of a stage: `set_fields('train', processes=2)`."""
        self.replace(dataclasses.replace(self[stage], **fields))

    def replace(self, stage: Stage) -> None:
        """Put a stage in the place of the one that has its name."""
        self._stages[self._index(stage.name)] = stage

    def insert_before(self, name: str, /, *stages: Stage) -> None:
        """Add stages directly before the stage `name`."""
        self._insert(self._index(name), stages)

    def insert_after(self, name: str, /, *stages: Stage) -> None:
        """Add stages directly after the stage `name`."""
        self._insert(self._index(name) + 1, stages)

    def drop(self, *names: str) -> None:
        """Leave stages out. A stage that was like one of them keeps the flags it had from there."""
        for name in names:
            dropped = self[name]
            for index, stage in enumerate(self._stages):
                if stage.like == name:
                    whole = _with_shared(stage, dropped)
                    self._stages[index] = dataclasses.replace(whole, like=dropped.like)
            self._stages.remove(dropped)

    def resolved(self) -> list[Stage]:
        """The enabled stages, each with the flags and the config of the stage it is like.

        Raises:
            UserError: a stage has no script, or it is like a stage that does not exist or that is
                like itself.
        """
        return [self._resolve(stage, ()) for stage in self._stages if stage.enabled]

    def _resolve(self, stage: Stage, asked: tuple[str, ...]) -> Stage:
        if stage.like:
            if stage.like not in self.names() or stage.like in asked:
                raise UserError(
                    f'stage {stage.name}: like = {stage.like}: there is no such stage, or it is '
                    'like this one'
                )
            shared = self._resolve(self[stage.like], (*asked, stage.name))
            stage = _with_shared(stage, shared)
        if not stage.script:
            raise UserError(f'stage {stage.name}: has no script; name a file or a module')
        return stage

    def _index(self, name: str) -> int:
        names = self.names()
        if name not in names:
            raise UserError(f'there is no stage {name}; there are {", ".join(names)}')
        return names.index(name)

    def _insert(self, index: int, stages: Iterable[Stage]) -> None:
        for stage in stages:
            if stage.name in self.names():
                raise UserError(f'there are two stages of the name {stage.name}')
            self._stages.insert(index, stage)
            index += 1


def _with_shared(stage: Stage, shared: Stage) -> Stage:
    """`stage` with the flags and the config that it has from the stage it is like."""
    script = stage.script or shared.script
    flags = {**shared.flags, **stage.flags} if script == shared.script else stage.flags
    config = {**shared.config, **stage.config}
    return dataclasses.replace(stage, script=script, flags=flags, config=config)


@dataclass(frozen=True)
class Preset:
    """The result of a preset's function.

    Attributes:
        about: one line that the pipeline prints when it starts.
        stages: the stages in their order.
        core: classes that the ladder of scores shows an extra mean over; without them there is
            none.
        next_steps: lines that the pipeline prints once the last stage has ended: what to do now.
        name: name of the preset; the pipeline fills it in.
    """

    about: str
    stages: Stages
    core: Sequence[str] = ()
    next_steps: Sequence[str] = ()
    name: str = ''
