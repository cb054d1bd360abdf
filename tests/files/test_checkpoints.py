"""tool/files/checkpoints.py: state dicts, written and read back, damaged and wrong."""

import os
from collections import OrderedDict

import pytest
import torch

from tool.files.checkpoints import (
    check_finite,
    check_state,
    class_set_of,
    config_of,
    fitting,
    load_checkpoint,
    save_checkpoint,
    training_of,
)
from tool.method.class_set import ClassSet
from tool.run.errors import UserError


def test_checkpoint_round_trip_and_module_prefix(tmp_path):
    path = str(tmp_path / 'net.pth')
    state = {'a.weight': torch.arange(6.0).view(2, 3).T, 'a.num': torch.tensor(3)}
    save_checkpoint(path, state)
    assert all(torch.equal(value, state[key]) for key, value in load_checkpoint(path).items())
    save_checkpoint(path, {'module.' + key: value for key, value in state.items()})
    assert list(load_checkpoint(path)) == ['a.weight', 'a.num']
    save_checkpoint(path, {'module.a': torch.ones(1), 'b': torch.ones(1)})
    assert list(load_checkpoint(path)) == ['module.a', 'b']
    assert [p.name for p in tmp_path.iterdir()] == ['net.pth']


def test_checkpoint_with_code_is_refused(tmp_path):
    path, mark = str(tmp_path / 'net.pth'), tmp_path / 'was run'

    class Call:
        def __reduce__(self):
            return os.system, (f'touch {mark}',)

    for legacy in (False, True):
        torch.save(
            {'a': torch.ones(1), 'b': Call()}, path, _use_new_zipfile_serialization=not legacy
        )
        with pytest.raises(UserError, match='net.pth: not a PyTorch checkpoint of plain weights'):
            load_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    'value',
    [
        {},
        [torch.ones(1)],
        torch.ones(1),
        {'net': {'a': torch.ones(1)}},
        {'a': 1},
        {3: torch.ones(1)},
        torch.nn.Linear(1, 1),
    ],
    ids=['empty', 'list', 'tensor', 'nested', 'number', 'int key', 'module'],
)
def test_what_is_no_state_dict_is_refused(tmp_path, value):
    torch.save(value, tmp_path / 'net.pth')
    with pytest.raises(UserError, match='net.pth: not a'):
        load_checkpoint(str(tmp_path / 'net.pth'))


def test_weights_in_a_wrapper_are_pointed_at(tmp_path):
    weights = {'a': torch.ones(1), 'b': torch.ones(1)}
    wrapped = {'optimizer': {}, 'stats': {'mean': torch.ones(3)}, 'state_dict': weights}
    torch.save(wrapped, tmp_path / 'net.pth')
    with pytest.raises(UserError, match="its weights are under 'state_dict': save these alone"):
        load_checkpoint(str(tmp_path / 'net.pth'))


def test_truncated_checkpoint(tmp_path):
    path = tmp_path / 'net.pth'
    save_checkpoint(str(path), {'a': torch.ones(100)})
    data = path.read_bytes()
    for end in (0, 1, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(UserError, match='net.pth: not a PyTorch checkpoint .*get it again'):
            load_checkpoint(str(path))


@pytest.mark.parametrize(
    'state, difference',
    [
        ({'b': (3,)}, r'a is missing'),
        ({}, r'a is missing \(and 1 more differences\)'),
        ({'a': (2,), 'b': (4,)}, r'b is \(4,\), expected \(3,\)'),
        ({'a': (2,), 'b': (3,), 'c': (1,)}, r'c is left over'),
    ],
)
def test_a_difference_from_the_network_is_named(state, difference):
    expected = {'a': torch.zeros(2), 'b': torch.zeros(3)}
    state = {key: torch.zeros(shape) for key, shape in state.items()}
    with pytest.raises(UserError, match=f'^w.pth: not a net: {difference}; check it$'):
        check_state('w.pth', 'a net', expected, state, 'check it')


def test_what_fits_may_be_a_part():
    expected = {'a': torch.zeros(2), 'b': torch.zeros(3)}
    state = {'c': torch.ones(1), 'b': torch.ones(4), 'a': torch.ones(2)}
    check_state('w.pth', 'a net', expected, expected | {'c': state['c']}, 'check it', exact=False)
    assert list(fitting(expected, state)) == ['a']


def test_class_names_travel_with_a_bare_state_dict(tmp_path):
    path, classes = str(tmp_path / 'net.pth'), ClassSet.of(['cat', 'Käse'])
    net = torch.nn.Linear(2, 3)
    save_checkpoint(path, net.state_dict(), classes)
    state = load_checkpoint(path)
    assert class_set_of(state, path) == classes
    # other code sees nothing of them
    assert list(state) == ['weight', 'bias']
    torch.nn.Linear(2, 3).load_state_dict(torch.load(path, weights_only=True), strict=True)
    # nor is anything lost where the keys have a prefix
    save_checkpoint(path, {f'module.{key}': value for key, value in state.items()}, classes)
    assert class_set_of(load_checkpoint(path), path) == classes
    # a published one carries none
    torch.save(net.state_dict(), path)
    assert class_set_of(load_checkpoint(path), path) is None


@pytest.mark.parametrize('names', [5, ['background'], ['background', 3], 'cat and cat'])
def test_damaged_class_names(tmp_path, names):
    state = OrderedDict(a=torch.ones(1))
    state.class_names = names
    torch.save(state, tmp_path / 'net.pth')
    state = load_checkpoint(str(tmp_path / 'net.pth'))
    with pytest.raises(UserError, match='net.pth: damaged: its class names are none'):
        class_set_of(state, 'net.pth')


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_not_finite(value):
    state = {'good': torch.ones(3), 'count': torch.tensor(4), 'bad': torch.ones(2, 2)}
    check_finite('net.pth', state)
    state['bad'][1, 0] = value
    with pytest.raises(UserError, match='^net.pth: bad holds values that are not finite'):
        check_finite('net.pth', state)


def test_a_config_travels_with_the_weights(tmp_path):
    path = str(tmp_path / 'net.pth')
    config = {'MODEL_NAME': 'deeplabv1', 'TEST_MULTISCALE': [0.5, 1], 'TEST_FLIP': True}
    net = torch.nn.Linear(2, 3)
    classes = ClassSet.of(['cat'])
    save_checkpoint(path, net.state_dict(), classes, config)
    state = load_checkpoint(path)
    assert config_of(state, path) == config and class_set_of(state, path) == classes
    # other code loads it as the bare state dict that it is
    torch.nn.Linear(2, 3).load_state_dict(torch.load(path, weights_only=True), strict=True)

    in_module = {'module.' + key: value for key, value in net.state_dict().items()}
    save_checkpoint(path, in_module, classes, config)
    state = load_checkpoint(path)
    assert list(state) == ['weight', 'bias'] and config_of(state, path) == config
    save_checkpoint(path, net.state_dict())
    assert config_of(load_checkpoint(path), path) is None


@pytest.mark.parametrize('config', ['deeplabv1', [1], {3: 1}])
def test_a_damaged_config_is_refused(config):
    state = OrderedDict(a=torch.ones(1))
    state.config = config
    with pytest.raises(UserError, match='net.pth: damaged: its config'):
        config_of(state, 'net.pth')


@pytest.mark.parametrize(
    'value, what',
    [
        (torch.empty(2, device='meta'), 'has no values'),
        (torch.ones(2, 2).to_sparse(), 'sparse or nested'),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), 'torch.qint8'),
        (torch.ones(2, dtype=torch.complex64), 'torch.complex64'),
        (torch.ones(2).to(torch.float8_e4m3fn), 'torch.float8_e4m3fn'),
    ],
    ids=['meta', 'sparse', 'quantised', 'complex', '8 bits'],
)
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path, value, what):
    torch.save({'a.weight': torch.ones(2), 'b.weight': value}, tmp_path / 'net.pth')
    with pytest.raises(UserError, match=f'net.pth: b.weight .*{what}.*; save the network as plain'):
        load_checkpoint(str(tmp_path / 'net.pth'))


def test_the_same_weights_are_the_same_file(tmp_path):
    net, record = torch.nn.Linear(2, 3), {'settings': {'lr': 0.1, 'stage': 'x'}, 'inputs': {}}
    for name in ('a.pth', 'other name.pth'):
        save_checkpoint(str(tmp_path / name), net.state_dict(), training=record)
    first, second = (path.read_bytes() for path in tmp_path.iterdir())
    assert first == second
    state = load_checkpoint(str(tmp_path / 'a.pth'))
    assert training_of(state) == record and list(state) == ['weight', 'bias']
    torch.nn.Linear(2, 3).load_state_dict(torch.load(tmp_path / 'a.pth', weights_only=True))


@pytest.mark.parametrize('record', [None, 5, {3: 4}])
def test_a_checkpoint_without_a_record_of_its_training(record):
    state = OrderedDict(a=torch.ones(1))
    if record is not None:
        state.training = record
    assert training_of(state) is None
