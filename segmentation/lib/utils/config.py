"""Reads an experiment's config: applies --set, fills in the defaults and checks every value."""

import argparse
import ast
import difflib
import math
import os
from collections.abc import Sequence
from typing import Any

import voc12
from tool.files.atomic import need_file, need_folder
from tool.files.lists import read_list
from tool.files.reading import open_text
from tool.method.class_set import ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from utils.keys import KEYS, PREDICTION_KEYS, Key, describe_keys, with_defaults
from voc12.layout import class_set

# Characters of a value of --set that are read as Python; no number or list of them has more.
_LONGEST_VALUE = 1000


def read_config(config: dict, overrides: Sequence[str] = ()) -> dict:
    """A complete and checked copy of an experiment's config.

    Args:
        config: the config_dict of config.py.
        overrides: the values KEY=VALUE of --set, which replace those of config.py.
    Raises:
        UserError: a key is unknown, a key without a default is missing, or a value has the wrong
            type or is out of range.
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


def prediction_config(path: str, carried: dict | None, words: Sequence[str] = ()) -> dict:
    """The config that the network of a checkpoint predicts with, complete but for its paths.

    Args:
        path: the checkpoint, for messages.
        carried: the config that it carries; None where it carries none.
        words: what replaces values of the carried config, the words of --config: KEY=VALUE, or the
            path of an experiment's config.py.
    Raises:
        UserError: the checkpoint carries no config, and the words do not name the network; a key is
            unknown or a value is wrong; or a config.py cannot be read.
    """
    config = {}
    for name, value in (carried or {}).items():
        if name in PREDICTION_KEYS:
            try:
                config[name] = _check(name, value)
            except UserError as error:
                raise UserError(f'{path}: damaged: its config has {error}') from None
    for word in words:
        name, equals, text = word.partition('=')
        if not equals:
            values = read_config_file(word)
        else:
            _known(name)
            values = {name: _parse(name, text)}
        for name, value in values.items():
            config[name] = _check(name, value)
    lacking = [name for name in ('MODEL_NAME', 'MODEL_BACKBONE') if name not in config]
    if lacking:
        raise UserError(
            f'{path}: carries no config, as the checkpoints of DeepLab from before they had one; '
            f'give --config {" ".join(f"{name}=…" for name in lacking)}, or the config.py of its '
            'experiment, and the other MODEL_ keys that were set in its training (its log has them)'
        )
    return with_defaults(config)


def read_config_file(path: str) -> dict[str, Any]:
    """The keys of PREDICTION_KEYS in the `config_dict` of a config.py, which is not run.

    Raises:
        UserError: the file is missing or no config.py, or the value of such a key is not written
            out in it.
    """
    need_file(path, 'give --config a config.py, or KEY=VALUE')
    try:
        with open_text(path) as file:
            tree = ast.parse(file.read())
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise UserError(f'{path}: not a readable config.py ({error})') from None
    for statement in tree.body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Dict):
            continue
        target = statement.targets[0]
        if isinstance(target, ast.Name) and target.id == 'config_dict':
            return _written_out(path, statement.value)
    raise UserError(f'{path}: not a config.py, it has no config_dict = {{…}}')


def _written_out(path: str, written: ast.Dict) -> dict[str, Any]:
    """The values of PREDICTION_KEYS in the source of a dict."""
    values = {}
    for key, value in zip(written.keys, written.values):
        if not isinstance(key, ast.Constant) or key.value not in PREDICTION_KEYS:
            continue
        try:
            values[key.value] = ast.literal_eval(value)
        except (ValueError, RecursionError):
            raise UserError(
                f'{path}: {key.value} is computed there, and the file is not run; give --config '
                f'{key.value}=VALUE behind it'
            ) from None
    return values


def _known(name: str) -> None:
    """Check that a config key exists.

    Raises:
        UserError: it does not; the message suggests keys with similar names.
    """
    if name not in KEYS:
        close = difflib.get_close_matches(name.upper(), KEYS) or KEYS
        raise UserError(f'{name}: no such config key; did you mean {", ".join(close)}?')


def _parse(name: str, text: str) -> Any:
    """The Python value of a text on the command line.

    A text that does not fit the key is returned as it is; `_check` then refuses it.
    """
    key = KEYS[name]
    if key.kind is str:
        if key.or_false and text.lower() in ('false', 'none', ''):
            return False
        return text
    if len(text) > _LONGEST_VALUE:
        return text
    try:
        if key.kind is bool:
            return command_line.boolean(text)
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, argparse.ArgumentTypeError):
        # Python raises the third and the fourth for too many brackets or signs
        return text


def _check(name: str, value: Any) -> Any:
    """The checked value of a key. For a key that holds a list, a tuple or a number becomes a list.

    Raises:
        UserError: the key may not hold this value.
    """
    key = KEYS[name]
    if key.or_false and value is False:
        return value
    if key.kind is list:
        if isinstance(value, tuple):
            value = list(value)
        elif not isinstance(value, list):
            value = [value]
    if not _fits(value, key):
        raise UserError(f'{name} = {value!r}: must be {key.allowed()}')
    return value


def _fits(value: Any, key: Key) -> bool:
    """Whether a key may hold a value."""
    if key.choices and value not in key.choices:
        return False
    if key.kind is list:
        if key.length is None:
            right_length = len(value) > 0
        else:
            right_length = len(value) == key.length
        if not right_length or not all(_is_number(item, key) for item in value):
            return False
        return not key.is_range or value[0] <= value[1]
    if key.kind is float:
        return _is_number(value, key)
    if key.kind is int:
        return _is_number(value, key) and isinstance(value, int)
    if value == '' and not key.may_be_empty:
        return False
    return type(value) is key.kind


def _is_number(value: Any, key: Key) -> bool:
    """Whether a value is a number in the range of a key."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    not_below = key.low is None or value >= key.low
    not_above = key.high is None or value <= key.high
    return not_below and not_above


def classes_of(config: dict) -> ClassSet:
    """The classes of a config's data folder.

    Raises:
        UserError: MODEL_NUM_CLASSES is not their number.
    """
    classes = class_set(config['DATA_ROOT'])
    if config['MODEL_NUM_CLASSES'] != classes.num_classes:
        raise UserError(
            f'MODEL_NUM_CLASSES = {config["MODEL_NUM_CLASSES"]}: {config["DATA_ROOT"]} has '
            f'{classes.num_classes} with the background; leave the key out'
        )
    return classes


def names_of(config: dict, split: str) -> list[str]:
    """Names of the pictures of a split.

    Args:
        split: the path of a list (*.txt), or the name of a list in
            DATA_ROOT/ImageSets/Segmentation or else in voc12/.
    Raises:
        UserError: there is no such list; the message names the folders.
    """
    if split.endswith('.txt'):
        return read_list(split)
    root = need_folder(config['DATA_ROOT'], "set DATA_ROOT to the devkit's VOC2012 folder")
    devkit_lists = os.path.join(root, 'ImageSets', 'Segmentation')
    own_lists = os.path.dirname(voc12.__file__)
    for folder in (devkit_lists, own_lists):
        path = os.path.join(folder, split + '.txt')
        if os.path.exists(path):
            return read_list(path)
    raise UserError(
        f'{split}: no such list in {root}/ImageSets/Segmentation or voc12/; make it with '
        'python -m voc12.make_lists, or give the path of a list (.txt)'
    )


def add_config_flags(parser: command_line.Parser) -> None:
    """Add the flags that train.py and test.py share, --set and --device, and list all config keys
    at the end of --help."""
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
