"""An experiment's config: checked, completed by the defaults, overridden by the command line."""

import ast
import difflib
import os

import voc12
from tool.files.atomic import need_folder
from tool.files.lists import read_list
from tool.method.class_set import ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from utils.keys import KEYS, Key, describe_keys, with_defaults
from voc12.layout import class_set


def read_config(config: dict, overrides: list[str] = ()) -> dict:
    """A checked copy of an experiment's config with KEY=VALUE overrides and all defaults.

    Raises:
        UserError: an unknown key, a missing one without a default, a value of the wrong type or out
            of range.
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
    classes_are_set = 'MODEL_NUM_CLASSES' in config
    config = with_defaults(config)
    for name in KEYS:
        if name not in config:
            raise UserError(f'config.py: {name} is missing; set it there or with --set')
    config = {name: _check(name, value) for name, value in config.items()}
    if not classes_are_set:
        config['MODEL_NUM_CLASSES'] = class_set(config['DATA_ROOT']).num_classes
    return config


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
    """The value of a key, numbers as a list where they are one.

    Raises:
        UserError: it is not what the key may hold.
    """
    key = KEYS[name]
    if key.or_false and value is False:
        return value
    if key.kind is list and not isinstance(value, list):
        value = list(value) if isinstance(value, tuple) else [value]
    if not _fits(value, key):
        raise UserError(f'{name} = {value!r}: must be {key.allowed()}')
    return value


def _fits(value, key: Key) -> bool:
    if key.choices and value not in key.choices:
        return False
    if key.kind is list:
        right_length = len(value) == key.length if key.length else len(value) > 0
        return right_length and all(_is_number(item, key) for item in value)
    if key.kind is float:
        return _is_number(value, key)
    if key.kind is int:
        return _is_number(value, key) and isinstance(value, int)
    return type(value) is key.kind


def _is_number(value, key: Key) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and (key.low is None or value >= key.low)
        and (key.high is None or value <= key.high)
    )


def classes_of(config: dict) -> ClassSet:
    """The classes of a config's data folder.

    Raises:
        UserError: MODEL_NUM_CLASSES is another number.
    """
    classes = class_set(config['DATA_ROOT'])
    if config['MODEL_NUM_CLASSES'] != classes.num_classes:
        raise UserError(
            f'MODEL_NUM_CLASSES = {config["MODEL_NUM_CLASSES"]}: {config["DATA_ROOT"]} has '
            f'{classes.num_classes} with the background; leave the key out'
        )
    return classes


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
    """The flags train.py and test.py share, --set and --device; --help ends with all keys."""
    parser.epilog = describe_keys()
    parser.method.add_argument(
        '--set',
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY=VALUE',
        help='config keys to override, e.g. TRAIN_ITERATION=200 TEST_MULTISCALE=0.5,1',
    )
    command_line.add_device_flag(parser)
