"""Presets of the pipeline: INI files that list the stages of a run, in order, with every flag of
each.

[preset] holds `about`, `core` (classes of an extra mean), `stages` (their order; without it that of
the file), `base` (a preset that this one changes) and placeholders of its own: `lists =
{voc}/lists` is {lists} from there on. Every other section is a stage. `script` is a file of the
repository or a module; all other options are that script's flags: `yes` gives a flag without a
value, `no` leaves it out, and an option that is empty once its placeholders are filled is left out
too. Options in CAPITALS become `--set KEY=VALUE`, as the segmentation scripts take it.

These options say something about the stage itself:
    makes  files and folders it writes below {work} (wildcards work): removed before the stage is
    done anew like   another section whose script and flags it shares; options of its own come on
    top row    of a scoring stage (eval.py with json): the title of its row of the ladder
    masks  of a scoring stage: the folder of masks that its score stands for, a candidate for
    {best_masks} processes  how many torchrun starts, but never more than there are GPUs, or cores
    on a CPU
"""

import configparser
import glob
import os
import shlex
import string
from collections.abc import Sequence
from dataclasses import dataclass, field

from tool.run.errors import UserError

FOLDER = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(FOLDER))  # the repository
LATE = ('best_t', 'best_masks')  # placeholders that only results fill
_OWN = ('makes', 'row', 'masks', 'processes')  # options that a section does not share


@dataclass(frozen=True)
class Stage:
    """One stage, its placeholders not filled yet: `flags` {flag: value}, `keys` {KEY: VALUE} for
    --set."""

    name: str
    script: str
    flags: dict[str, str]
    keys: dict[str, str]
    makes: list[str] = field(default_factory=list)
    row: str = ''
    masks: str = ''
    processes: int = 1

    def command(self, values: dict[str, str]) -> list[str]:
        """The words after `python`; see the module's docstring.

        Raises:
            UserError: a placeholder that `values` does not hold.
        """
        words = [self.script] if self.script.endswith('.py') else ['-m', self.script]
        for flag, text in self.flags.items():
            given = _words(text, self.name)
            filled = [
                part
                for word in given
                for part in (  # the one placeholder that is several words
                    values['core'].split() if word == '{core}' else [fill(word, values, self.name)]
                )
            ]
            if text == 'yes':
                words.append(f'--{flag}')
            elif text != 'no' and (
                any(filled) or '' in given
            ):  # '' in quotes is an empty value, nothing is none
                words += [f'--{flag}', *filled]
        if self.keys:
            words += [
                '--set',
                *(f'{key}={fill(text, values, self.name)}' for key, text in self.keys.items()),
            ]
        return words

    def late(self) -> set[str]:
        """Which of the LATE placeholders its command needs."""
        return {
            name
            for text in [*self.flags.values(), *self.keys.values()]
            for name in placeholders(text)
        } & set(LATE)


@dataclass(frozen=True)
class Preset:
    """`values` are the placeholders that are known before any stage ran."""

    name: str
    about: str
    core: list[str]
    values: dict[str, str]
    stages: list[Stage]


def read_preset(name: str, overrides: list[str], classes: Sequence[str], **given: str) -> Preset:
    """The preset of tool/presets/<name>.ini, or of a file of your own.

    Args:
        name: a preset's name, or a path ending in .ini.
        overrides: stage.option=value, on top of what the file says.
        classes: the names that `core` may hold.
        given: placeholders known from the command line; None leaves what the preset says.
    Raises:
        UserError: no such preset or stage, a faulty file, an unknown placeholder; names the
            section.
    """
    parser = configparser.ConfigParser(
        interpolation=None, inline_comment_prefixes=('#',), default_section=''
    )
    parser.optionxform = str  # keep the case
    _read(parser, name)
    sections = parser.sections()
    changed = {_override(parser, text): text for text in overrides}
    head = dict(parser['preset']) if parser.has_section('preset') else {}
    about, core, order = (head.pop(key, '') for key in ('about', 'core', 'stages'))
    names = {'preset', *(order.split() or sections)}
    if unused := set(changed) - names:
        raise UserError(
            f'--set {changed[min(unused)]}: there is no stage {min(unused)}; there are '
            f'{", ".join(sorted(names))}'
        )
    if given.get('voc') and '{work}' in head.get('voc', ''):
        raise UserError(
            f'--voc12_root: the preset {name} generates its own pictures; leave the flag out'
        )
    values = {key: value for key, value in given.items() if value is not None}
    for key, text in head.items():
        filled = fill(text, values, 'preset')
        values.setdefault(
            key, os.path.normpath(os.path.join(ROOT, filled)) if key == 'voc' else filled
        )
    values['core'] = core
    if unknown := set(core.split()) - set(classes):
        raise UserError(
            f'[preset] core = {core}: {min(unknown)} is no class; the classes are '
            f'{", ".join(classes)}'
        )
    stages = _stages(parser, order.split(), values)
    if not stages:
        raise UserError(f'--preset {name}: has no stage')
    known = {*values, *LATE}
    for stage in stages:
        stage.command(dict.fromkeys(known, '-'))  # every placeholder is known
    return Preset(os.path.basename(name).removesuffix('.ini'), about, core.split(), values, stages)


def _read(parser: configparser.ConfigParser, name: str, above: tuple[str, ...] = ()) -> None:
    """Read a preset's file on top of the preset it is based on."""
    path = name if name.endswith('.ini') else os.path.join(FOLDER, f'{name}.ini')
    try:
        with open(path, encoding='utf-8') as file:
            parser.read_file(file)
    except FileNotFoundError:
        known = ', '.join(
            sorted(
                os.path.basename(found)[:-4] for found in glob.glob(os.path.join(FOLDER, '*.ini'))
            )
        )
        raise UserError(f'--preset {name}: no such preset; there are {known}') from None
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise UserError(f'{path}: not a preset ({error})') from None
    base = parser.get('preset', 'base', fallback='')
    if base in above:
        raise UserError(f'{path}: base = {base}: the two are based on each other')
    if base:
        own = {section: dict(parser[section]) for section in parser.sections()}
        del own['preset']['base']
        parser.clear()
        _read(parser, base, (*above, name))
        parser.read_dict(own)


def _override(parser: configparser.ConfigParser, text: str) -> str:
    """Set stage.option=value; returns the stage."""
    target, equals, value = text.partition('=')
    stage, dot, option = target.partition('.')
    if not (equals and dot and stage and option):
        raise UserError(f'--set {text}: STAGE.FLAG=VALUE is expected, e.g. train.max_steps=100')
    parser.read_dict({stage: {option: value}})
    return stage


def _stages(
    parser: configparser.ConfigParser, order: list[str], values: dict[str, str]
) -> list[Stage]:
    sections = {name: dict(parser[name]) for name in parser.sections() if name != 'preset'}
    stages = []
    for name in order or sections:
        if name not in sections:
            raise UserError(
                f'[preset] stages: there is no section {name}; there are {", ".join(sections)}'
            )
        stages.append(_stage(name, _options(name, sections), values))
    return stages


def _options(
    name: str, sections: dict[str, dict[str, str]], asked: tuple[str, ...] = ()
) -> dict[str, str]:
    """A section's options, those of the section that it is `like` included."""
    own = dict(sections[name])
    if (like := own.pop('like', None)) is None:
        if not own.get('script'):
            raise UserError(f'[{name}]: has no script; name a file or a module')
        return own
    if like not in sections or like in asked:
        raise UserError(f'[{name}] like = {like}: there is no such section, or it is like this one')
    shared = _options(like, sections, (*asked, name))
    if own.get('script', shared['script']) != shared['script']:  # other scripts have other flags
        shared = {key: value for key, value in shared.items() if key.isupper()}
    return {**{key: value for key, value in shared.items() if key not in _OWN}, **own}


def _stage(name: str, options: dict[str, str], values: dict[str, str]) -> Stage:
    flags = {key: value for key, value in options.items() if key not in (*_OWN, 'script')}
    processes = options.get('processes', '1')
    if not processes.isdecimal() or int(processes) < 1:
        raise UserError(f'[{name}] processes = {processes}: must be a whole number of at least 1')
    return Stage(
        name,
        fill(options['script'], values, name),
        {key: value for key, value in flags.items() if not key.isupper()},
        {key: value for key, value in flags.items() if key.isupper()},
        _words(options.get('makes', ''), name),
        options.get('row', ''),
        options.get('masks', ''),
        int(processes),
    )


def _words(text: str, where: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f'[{where}] {text}: {error}') from None


def placeholders(text: str) -> list[str]:
    """Names in braces of a text."""
    return [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]


def fill(text: str, values: dict[str, str], where: str) -> str:
    """`text` with its placeholders filled.

    Raises:
        UserError: an unknown placeholder; names the section `where`.
    """
    try:
        return text.format_map(values)
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f'[{where}] {text}: unknown placeholder {error}; there are '
            f'{", ".join([*values, *LATE])}'
        ) from None
