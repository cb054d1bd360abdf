"""An experiment's config: every key with its type and range, and overrides from the command
line."""

import ast
import difflib
import os
from dataclasses import dataclass

import voc12
from tool.files.atomic import need_folder
from tool.files.lists import read_list
from tool.method.crf import BACKENDS, TEST_CRFS
from tool.run import command_line
from tool.run.errors import UserError
from voc12.classes import NUM_CLASSES


@dataclass(frozen=True)
class Key:
    """What a config key may hold: a `kind` (list of floats for list), its range, its choices, the
    length of a list.

    `or_false`: False is allowed too, for 'none'.
    `default`: of a config that was written before the key came up; None: every config must have it.
    """

    kind: type
    low: float = None
    high: float = None
    choices: tuple = ()
    length: int = None
    or_false: bool = False
    default: str = None


KEYS = {
    'EXP_NAME': Key(str),
    'DATA_NAME': Key(str),
    'DATA_ROOT': Key(str),
    'DATA_PSEUDO_GT': Key(str),
    'DATA_TRAIN_LIST': Key(str),
    'DATA_WORKERS': Key(int, 0),
    'DATA_MEAN': Key(list, 0, 1, length=3),
    'DATA_STD': Key(list, 1e-6, 1, length=3),
    'DATA_RANDOMCROP': Key(int, 16),
    'DATA_RANDOMSCALE': Key(list, 0.05, 10, length=2),
    'DATA_RANDOM_H': Key(int, 0, 90),
    'DATA_RANDOM_S': Key(int, 0, 255),
    'DATA_RANDOM_V': Key(int, 0, 255),
    'DATA_RANDOMFLIP': Key(float, 0, 1),
    'MODEL_NAME': Key(str),
    'MODEL_BACKBONE': Key(str),
    'MODEL_BACKBONE_PRETRAIN': Key(str, or_false=True),
    'MODEL_BACKBONE_DILATED': Key(bool),
    'MODEL_BACKBONE_DEEPBASE': Key(bool),
    'MODEL_BACKBONE_WIDTH': Key(float, 1 / 32, 4),
    'MODEL_OUTPUT_STRIDE': Key(int, choices=(8, 16)),
    'MODEL_NUM_CLASSES': Key(int, NUM_CLASSES, 255),
    'MODEL_ASPP_OUTDIM': Key(int, 1),
    'MODEL_SHORTCUT_DIM': Key(int, 1),
    'MODEL_FREEZEBN': Key(bool),
    'MODEL_CLS_STD': Key(float, 0, 1, or_false=True),
    'MODEL_SAVE_DIR': Key(str),
    'TRAIN_LR': Key(float, 0),
    'TRAIN_MOMENTUM': Key(float, 0, 1),
    'TRAIN_WEIGHT_DECAY': Key(float, 0),
    'TRAIN_BN_MOM': Key(float, 0, 1),
    'TRAIN_POWER': Key(float, 0),
    'TRAIN_BATCHES': Key(int, 1),
    'TRAIN_ITERATION': Key(int, 1),
    'TRAIN_ACCUMULATE': Key(int, 1),
    'TRAIN_AMP': Key(str, choices=command_line.AMP),
    'TRAIN_CHANNELS_LAST': Key(bool),
    'TRAIN_COMPILE': Key(bool),
    'TRAIN_SAVE_ITERS': Key(int, 0),
    'TRAIN_TBLOG': Key(bool),
    'TRAIN_SEED': Key(int, 0),
    'TEST_MULTISCALE': Key(list, 0.05, 10),
    'TEST_FLIP': Key(bool),
    'TEST_CRF': Key(str, choices=tuple(TEST_CRFS)),
    'TEST_CRF_BACKEND': Key(str, choices=BACKENDS, default=BACKENDS[0]),
    'TEST_SAVE_DIR': Key(str),
}
# keys that decide how fast, where and what is shown, but not the trained weights
NO_DECISION = ('DATA_ROOT', 'DATA_WORKERS', 'MODEL_SAVE_DIR', 'TRAIN_SAVE_ITERS', 'TRAIN_TBLOG')


def read_config(config: dict, overrides: list[str] = ()) -> dict:
    """A checked copy of an experiment's config with KEY=VALUE overrides.

    Raises:
        UserError: an unknown or missing key, a value of the wrong type or out of range.
    """
    config = dict(config)
    for override in overrides:
        name, equals, text = override.partition('=')
        if not equals:
            raise UserError(f'--set {override}: KEY=VALUE is expected')
        _known(name)
        config[name] = _parse(name, text)
    for name in config:
        _known(name)
    for name, key in KEYS.items():
        if name not in config and key.default is not None:
            config[name] = key.default
        if name not in config:
            raise UserError(f'config.py: {name} is missing; copy it from another experiment')
    return {name: _check(name, value) for name, value in config.items()}


def _known(name: str) -> None:
    if name not in KEYS:
        close = difflib.get_close_matches(name.upper(), KEYS) or KEYS
        raise UserError(f'{name}: no such config key; did you mean {", ".join(close)}?')


def _parse(name: str, text: str):
    """The Python value that a command line's text stands for; a text that does not fit the key is
    left for `_check`."""
    key = KEYS[name]
    if key.kind is str:
        return False if key.or_false and text.lower() in ('false', 'none', '') else text
    try:
        return command_line.boolean(text) if key.kind is bool else ast.literal_eval(text)
    except (ValueError, SyntaxError, command_line.argparse.ArgumentTypeError):
        return text


def _check(name: str, value):
    key = KEYS[name]
    if key.or_false and value is False:
        return value
    if key.kind is list:
        value = list(value) if isinstance(value, (list, tuple)) else [value]
        wrong = (
            not value
            or not all(_is_number(item, key) for item in value)
            or len(value) != (key.length or len(value))
        )
        what = f'{key.length or "one or more"} numbers'
    elif key.kind is float:
        wrong, what = not _is_number(value, key), 'a number'
    elif key.kind is int:
        wrong, what = not _is_number(value, key) or not isinstance(value, int), 'a whole number'
    else:
        wrong, what = type(value) is not key.kind, 'True or False' if key.kind is bool else 'a text'
    if key.choices:
        wrong, what = (
            wrong or value not in key.choices,
            'one of ' + ', '.join(map(str, key.choices)),
        )
    elif key.low is not None:
        what += (
            f' of at least {key.low:.6g}'
            if key.high is None
            else f' between {key.low:.6g} and {key.high:.6g}'
        )
    if wrong:
        raise UserError(f'{name} = {value!r}: must be {what}{" or False" if key.or_false else ""}')
    return value


def _is_number(value, key: Key) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and (key.low is None or value >= key.low)
        and (key.high is None or value <= key.high)
    )


def names_of(config: dict, split: str) -> list[str]:
    """Image names of a split (its list is in DATA_ROOT/ImageSets/Segmentation, else in voc12/) or
    of a list file (*.txt).

    Raises:
        UserError: no such list; names where it was looked for.
    """
    if split.endswith('.txt'):
        return read_list(split)
    root = need_folder(config['DATA_ROOT'], "set DATA_ROOT to the devkit's VOC2012 folder")
    for folder in (
        os.path.join(root, 'ImageSets', 'Segmentation'),
        os.path.dirname(voc12.__file__),
    ):
        path = os.path.join(folder, split + '.txt')
        if os.path.exists(path):
            return read_list(path)
    raise UserError(
        f'{split}: no such list in {root}/ImageSets/Segmentation or voc12/; make it with '
        'python -m voc12.make_lists, or give the path of a list (.txt)'
    )


def add_config_flags(parser: command_line.Parser) -> None:
    """The flags train.py and test.py share: --set and --device."""
    parser.method.add_argument(
        '--set',
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY=VALUE',
        help='config keys to override, e.g. TRAIN_ITERATION=200 TEST_MULTISCALE=0.5,1',
    )
    command_line.add_device_flag(parser)
