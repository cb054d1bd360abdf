"""The refiners: how a checkpoint tells them, and flags that depend on them."""

from argparse import Namespace

import pytest

from network import resnet38_aff, resnet38_boundary
from network.refiners import NAMES, find_preparation, find_refiner, flags, refiner_of
from tool.run import command_line
from tool.run.errors import UserError

FLAGS = {
    'psa': {'maps': flags.REQUIRED, 'steps': 6, 'rate': 0.1},
    'irn': {'labels': flags.REQUIRED, 'steps': 8, 'rate': 0.1},
}


def given(*words):
    parser = command_line.Parser('')
    parser.data.add_argument('--maps', help='the maps')
    parser.data.add_argument('--labels', help='the labels')
    parser.method.add_argument('--steps', type=int, help='the steps')
    parser.method.add_argument('--rate', type=float, help='the rate')
    flags.set_defaults(parser, FLAGS)
    return parser, parser.parse_args(words)


def test_a_checkpoint_tells_its_refiner():
    assert refiner_of(resnet38_aff.Net(0.0625).state_dict()) is find_refiner('psa')
    assert refiner_of(resnet38_boundary.Net(0.0625).state_dict()) is find_refiner('irn')
    assert refiner_of({}) is find_refiner('psa')


@pytest.mark.parametrize('name', NAMES)
def test_a_refiner_has_its_name_and_every_flag_of_the_walk(name):
    refiner = find_refiner(name)
    assert refiner.name == name
    assert set(refiner.walk_flags) >= {'beta', 'logt', 'bg_score'}
    assert find_preparation(name).flags


def test_a_flag_that_is_not_given_has_the_default_of_the_refiner():
    parser, args = given('--maps', 'a')
    flags.settle(args, FLAGS, 'psa')
    assert args == Namespace(maps='a', labels=None, steps=6, rate=0.1)
    _, args = given('--labels', 'b', '--rate', '0.5')
    flags.settle(args, FLAGS, 'irn')
    assert args == Namespace(maps=None, labels='b', steps=8, rate=0.5)
    text = parser.format_help()
    assert '(default: 6; irn: 8)' in text and '(default: 0.1)' in text


def test_a_flag_of_another_refiner_and_a_missing_one_are_refused():
    _, args = given('--maps', 'a', '--labels', 'b')
    with pytest.raises(UserError, match='--labels: is for the refiner irn only.*leave it out'):
        flags.settle(args, FLAGS, 'psa')
    _, args = given()
    with pytest.raises(UserError, match='--maps: has to be given for the refiner psa'):
        flags.settle(args, FLAGS, 'psa')
