"""Presets of the pipeline: INI files that list the stages of a run, in order, with every flag of each.

[preset] holds `about`, `core` (classes of an extra mean), `base` (a preset that this one changes) and placeholders of its
own: `lists = {voc}/lists` is {lists} from there on. Every other section is a stage. `script` is a file of the repository or
a module; all other options are that script's flags: `yes` gives a flag without a value, `no` leaves it out, and an option
that is empty once its placeholders are filled is left out too. Options in CAPITALS become `--set KEY=VALUE`, as the
segmentation scripts take it.

These options say something about the stage itself:
    makes  files and folders it writes below {work} (wildcards work): removed before the stage is done anew
    like   a stage above whose flags it shares; options of its own come on top
    row    of a scoring stage (eval.py with json): the title of its row of the ladder
    masks  of a scoring stage: the folder of masks that its score stands for, a candidate for {best_masks}
"""
import configparser
import glob
import os
import shlex
import string
from dataclasses import dataclass, field

from tool.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the repository
FOLDER = os.path.join(ROOT, 'tool', 'presets')
LATE = ('best_t', 'best_masks')  # placeholders that only results fill
_ABOUT_THE_STAGE = ('script', 'makes', 'like', 'row', 'masks')


@dataclass(frozen=True)
class Stage:
    """One stage, its placeholders not filled yet: `flags` {flag: value}, `keys` {KEY: VALUE} for --set."""
    name: str
    script: str
    flags: dict[str, str]
    keys: dict[str, str]
    makes: list[str] = field(default_factory=list)
    row: str = ''
    masks: str = ''

    def command(self, values: dict[str, str]) -> list[str]:
        """The words after `python`; see the module's docstring.

        Raises:
            UserError: a placeholder that `values` does not hold.
        """
        words = [self.script] if self.script.endswith('.py') else ['-m', self.script]
        for flag, text in self.flags.items():
            given = shlex.split(text)
            filled = [fill(word, values, self.name) for word in given]
            if text == 'yes':
                words.append(f'--{flag}')
            elif text != 'no' and (any(filled) or '' in given):  # '' in quotes is an empty value, nothing is none
                words += [f'--{flag}', *filled]
        if self.keys:
            words += ['--set', *(f'{key}={fill(text, values, self.name)}' for key, text in self.keys.items())]
        return words

    def late(self) -> set[str]:
        """Which of the LATE placeholders its command needs."""
        return {name for text in [*self.flags.values(), *self.keys.values()] for name in placeholders(text)} & set(LATE)


@dataclass(frozen=True)
class Preset:
    """`values` are the placeholders that are known before any stage ran."""
    name: str
    about: str
    core: list[str]
    values: dict[str, str]
    stages: list[Stage]


def read_preset(name: str, overrides: list[str], **given: str) -> Preset:
    """The preset of tool/presets/<name>.ini, or of a file of your own.

    Args:
        name: a preset's name, or a path ending in .ini.
        overrides: stage.option=value, on top of what the file says.
        given: placeholders known from the command line; None leaves what the preset says.
    Raises:
        UserError: no such preset or stage, a faulty file, an unknown placeholder; names the section.
    """
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=('#',), default_section='')
    parser.optionxform = str  # keep the case
    _read(parser, name)
    if base := parser.get('preset', 'base', fallback=None):
        parser.clear()
        _read(parser, base)
        _read(parser, name)
    for text in overrides:
        _override(parser, text)
    head = dict(parser['preset']) if parser.has_section('preset') else {}
    about, core = head.pop('about', ''), head.pop('core', '').split()
    head.pop('base', None)
    if given.get('voc') and '{work}' in head.get('voc', ''):
        raise UserError(f'--voc12_root: the preset {name} generates its own pictures; leave the flag out')
    values = {key: value for key, value in given.items() if value is not None}
    for key, text in head.items():
        filled = fill(text, values, 'preset')
        values.setdefault(key, os.path.join(ROOT, filled) if key == 'voc' else filled)
    stages = _stages(parser, values)
    known = {*values, *LATE}
    for stage in stages:
        stage.command(dict.fromkeys(known, '-'))  # every placeholder is known
    return Preset(os.path.basename(name).removesuffix('.ini'), about, core, values, stages)


def _read(parser: configparser.ConfigParser, name: str) -> None:
    """Add what the preset's file says, on top of what is there."""
    path = name if name.endswith('.ini') else os.path.join(FOLDER, f'{name}.ini')
    try:
        with open(path, encoding='utf-8') as file:
            parser.read_file(file)
    except FileNotFoundError:
        known = ', '.join(sorted(os.path.basename(found)[:-4] for found in glob.glob(os.path.join(FOLDER, '*.ini'))))
        raise UserError(f'--preset {name}: no such preset; there are {known}') from None
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise UserError(f'{path}: not a preset ({error})') from None


def _override(parser: configparser.ConfigParser, text: str) -> None:
    target, equals, value = text.partition('=')
    stage, dot, option = target.partition('.')
    if not (equals and dot and option):
        raise UserError(f'--set {text}: STAGE.FLAG=VALUE is expected, e.g. train.max_steps=100')
    if not parser.has_section(stage):
        raise UserError(f'--set {text}: there is no stage {stage}; there are {", ".join(parser.sections())}')
    parser[stage][option] = value


def _stages(parser: configparser.ConfigParser, values: dict[str, str]) -> list[Stage]:
    options: dict[str, dict[str, str]] = {}
    for name in parser.sections():
        if name == 'preset':
            continue
        own = dict(parser[name])
        like = own.pop('like', None)
        if like is not None and like not in options:
            raise UserError(f'[{name}] like = {like}: there is no such stage above it; there are {", ".join(options)}')
        shared = {key: value for key, value in options.get(like, {}).items() if key not in _ABOUT_THE_STAGE}
        if like and own.get('script', options[like]['script']) != options[like]['script']:
            shared = {key: value for key, value in shared.items() if key.isupper()}  # other scripts, other flags
        options[name] = {'script': options[like]['script'] if like else '', **shared, **own}
        if not options[name]['script']:
            raise UserError(f'[{name}]: has no script; name a file or a module')
    return [_stage(name, own, values) for name, own in options.items()]


def _stage(name: str, options: dict[str, str], values: dict[str, str]) -> Stage:
    flags = {key: value for key, value in options.items() if key not in _ABOUT_THE_STAGE}
    return Stage(name, fill(options['script'], values, name), {key: value for key, value in flags.items() if not key.isupper()},
                 {key: value for key, value in flags.items() if key.isupper()}, shlex.split(options.get('makes', '')),
                 options.get('row', ''), options.get('masks', ''))


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
        raise UserError(f'[{where}] {text}: unknown placeholder {error}; there are {", ".join([*values, *LATE])}') from None
