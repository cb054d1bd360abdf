"""tool/train/states.py: damaged and edited states, and what the next run does with them."""

import pytest
import torch
from torch import nn

from tool.files.torch_files import read_torch, write_torch
from tool.run import command_line
from tool.run.errors import UserError
from tool.train.states import States, load_optimizer, run_settings


def make():
    """A small network and an optimiser with a momentum, after one step."""
    net = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return net, optimizer


def saved(tmp_path, *steps):
    states = States(str(tmp_path / 'run'), {'lr': 0.1}, 1)
    for step in steps:
        states.save(step, *make())
    return states


@pytest.mark.parametrize('damage', ['empty', 'short', 'one bit', 'another file'])
def test_a_damaged_newest_state_is_passed_over_with_a_note(tmp_path, damage):
    states = saved(tmp_path, 4, 8)
    path = tmp_path / 'run.state-8.pth'
    content = bytearray(path.read_bytes())
    content[content.index(b'settings')] ^= 1
    damaged = {'empty': b'', 'short': content[:500], 'one bit': content, 'another file': b'x' * 99}
    path.write_bytes(damaged[damage])
    net, optimizer = make()
    assert states.resume(net, optimizer) == 4
    (note,) = states.notes
    assert note.startswith(f'{path}: damaged training state (')
    assert note.endswith(f'); continuing from {tmp_path}/run.state-4.pth')
    assert path.exists()


def test_a_run_never_starts_from_zero_because_all_its_states_are_damaged(tmp_path):
    states = saved(tmp_path, 4, 8)
    for step in (4, 8):
        (tmp_path / f'run.state-{step}.pth').write_bytes(b'')
    with pytest.raises(
        UserError, match='run.state-8.pth: damaged .* no other state is left .*--no'
    ):
        states.resume(*make())
    assert states.resume(*make(), start_over=True) == 0


def edited(tmp_path, **changes):
    """The error of resuming from a state in which entries have been changed."""
    saved(tmp_path, 4)
    path = str(tmp_path / 'run.state-4.pth')
    state = {**read_torch(path), **changes}
    write_torch(path, {key: value for key, value in state.items() if value != 'gone'})
    with pytest.raises(UserError) as error:
        States(str(tmp_path / 'run'), {'lr': 0.1}, 1).resume(*make())
    return str(error.value)


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'step': 5}, 'damaged training state (it is of step 5)'),
        ({'step': 'four'}, 'damaged training state (it is of step four)'),
        ({'step': 'gone'}, 'damaged training state (it has no step)'),
        ({'net': 'gone'}, 'damaged training state (it has no net)'),
        ({'optimizer': 3}, 'damaged training state (its optimizer is no dict)'),
        ({'settings': {'lr': torch.ones(2)}}, 'damaged training state (its settings are'),
        ({'net': {'weight': torch.ones(2, 3)}}, 'does not fit this network'),
        ({'net': {'weight': torch.ones(7), 'bias': torch.ones(2)}}, 'does not fit this network'),
        ({'optimizer': {}}, 'does not fit this network'),
        ({'optimizer': {'state': {0: 5}}}, 'does not fit this network'),
        (
            {'optimizer': {'state': {0: {'momentum_buffer': torch.ones(5)}}}},
            'does not fit this network (momentum_buffer is (5,), expected (2, 3))',
        ),
        ({'inputs': 'gone'}, 'does not say what it learned from'),
        ({'inputs': 5}, 'does not say what it learned from'),
    ],
)
def test_an_edited_state_is_one_line(tmp_path, changes, message):
    error = edited(tmp_path, **changes)
    assert error.startswith(f'{tmp_path}/run.state-4.pth: {message}') and '--no_resume' in error


@pytest.mark.parametrize(
    'flags',
    [
        ['--dry_run'],
        ['--no_resume'],
        ['--num_workers', '3'],
        ['--save_every', '7'],
        ['--session_name', 'elsewhere'],
        ['--voc12_root', 'elsewhere'],
        ['--device', 'cpu'],
    ],
)
def test_flags_that_do_not_decide_the_weights_are_no_settings(flags):
    parser = command_line.Parser('A training.')
    command_line.add_train_flags(parser, width='of the network')
    needed = ['--weights', 'scratch', '--session_name', 'run']
    before = run_settings(parser.parse_args(needed))
    assert run_settings(parser.parse_args([*needed, *flags])) == before
    assert run_settings(parser.parse_args([*needed, '--lr', '0.5'])) != before


def test_the_momentum_is_loaded_and_the_learning_rate_stays_that_of_the_run():
    _, before = make()
    net, now = make()
    state = before.state_dict()
    state['param_groups'][0]['lr'] = 'edited'
    load_optimizer(now, state)
    assert now.param_groups[0]['lr'] == 0.1
    weight = net.weight
    assert torch.equal(now.state[weight]['momentum_buffer'], state['state'][0]['momentum_buffer'])


def test_adamw_continues_too():
    net = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    fresh = torch.optim.AdamW(net.parameters(), lr=0.1)
    load_optimizer(fresh, optimizer.state_dict())
    assert fresh.state[net.weight]['step'] == 1


def test_what_a_run_that_has_to_end_will_do(tmp_path):
    states = saved(tmp_path, 4, 8)
    assert states.how_to_go_on() == 'the same command continues after step 8'
    states.clear()
    assert 'starts from the beginning' in states.how_to_go_on()
