"""tool/train/engine.py: a continued run equals an uninterrupted one bit by bit, and a run that
breaks leaves no weights."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch
from torch import nn

from process_ids import wait_until
from tool.run.errors import Interrupted, UserError
from tool.run.workers import TIMEOUT_VARIABLE
from tool.train.engine import LOG_EVERY, TrainingRun, TrainOptions, fit, steps_of
from tool.train.log import RunLog
from tool.train.optimiser import make_optimizer, param_groups, poly
from tool.train.random_numbers import sample_rng
from tool.train.states import States, run_settings

STEPS, LR = 23, 0.002


class Noise(torch.utils.data.Dataset):
    """Ten noisy vectors, different in every epoch."""

    def __len__(self):
        return 10

    def __getitem__(self, key):
        x = sample_rng(7, *key).standard_normal(6, dtype='float32')
        return {
            'x': torch.from_numpy(x),
            'y': torch.tensor(key[1] % 2.0),
            'name': f'image {key[1]}',
        }


def make():
    """A net with dropout and BatchNorm, and its optimiser (momentum 0.9, so that its state
    matters)."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 1))
    return net, make_optimizer(
        'sgd', param_groups(net, [net[3]], LR, 5e-4, norm_affine=True), LR, 0.9
    )


def train(
    session,
    states=None,
    max_steps=STEPS,
    start=0,
    net=None,
    optimizer=None,
    stop=None,
    bad_step=None,
    workers=0,
    dataset=None,
):
    """Run `fit`; `stop` breaks off like a kill after that many steps, `bad_step` makes a loss term
    infinite."""
    if net is None:
        net, optimizer = make()
    log = RunLog(str(session), first_step=start)

    def losses(batch, step):
        error = ((net(batch['x'])[:, 0] - batch['y']) ** 2).mean()
        regular = net[0].weight.abs().mean() / (0.0 if step == bad_step else 1.0)
        return {
            'loss_fit': error,
            'loss_regular': regular,
            'loss': error + 0.1 * regular,
            'draw': torch.rand(()),
        }

    def lr_factor(step):
        if step == stop:
            raise KeyboardInterrupt
        return poly(step, STEPS)

    try:
        run = TrainingRun(
            net,
            optimizer,
            losses,
            dataset or Noise(),
            lr_factor=lr_factor,
            device=torch.device('cpu'),
            options=TrainOptions(
                str(session), batch_size=4, max_steps=max_steps, seed=3, num_workers=workers
            ),
        )
        fit(run, start, states, log)
    finally:
        log.close()
    return net


def records(session):
    return [json.loads(line) for line in open(f'{session}.jsonl')]


def states_of(folder):
    return sorted(path.name for path in folder.iterdir() if '.state-' in path.name)


@pytest.mark.parametrize('stop, newest', [(5, 5), (9, 5), (10, 10), (22, 20)])
def test_continued_run_is_bit_identical(tmp_path, stop, newest):
    whole = train(tmp_path / 'whole')
    states = States(str(tmp_path / 'run'), {'lr': 0.1}, every=5)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / 'run', states, stop=stop)
    net, optimizer = make()
    for parameter in net.parameters():
        nn.init.constant_(parameter, 9)  # all of it must come out of the state
    start = States(str(tmp_path / 'run'), {'lr': 0.1}, every=5).resume(net, optimizer)
    assert start == newest
    train(tmp_path / 'run', states, start=start, net=net, optimizer=optimizer)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, net.state_dict()[key]), key
    assert records(tmp_path / 'run') == records(tmp_path / 'whole')
    assert [record['step'] for record in records(tmp_path / 'run')] == list(range(STEPS))


def test_every_step_draws_its_own_random_numbers(tmp_path):
    train(tmp_path / 'run')
    assert len({record['draw'] for record in records(tmp_path / 'run')}) == STEPS


def test_loader_processes_change_nothing(tmp_path):
    plain, parallel = (
        train(tmp_path / 'a', max_steps=6),
        train(tmp_path / 'b', max_steps=6, workers=2),
    )
    assert all(
        torch.equal(value, parallel.state_dict()[key]) for key, value in plain.state_dict().items()
    )


@pytest.mark.parametrize('how', [{'stop': 2}, {'max_steps': 3}])
def test_no_loader_process_is_left(tmp_path, how):
    """They would keep Python from exiting; the traceback held here is what used to keep them."""
    caught = None
    try:
        train(tmp_path / 'run', workers=2, **how)
    except KeyboardInterrupt as error:
        caught = error
    assert multiprocessing.active_children() == [] and (caught is None) == ('stop' not in how)


def test_a_loader_process_that_fails_leaves_none(tmp_path, monkeypatch):
    def broken(self, key):
        raise UserError('a.jpg: damaged')

    monkeypatch.setattr(Noise, '__getitem__', broken)
    with pytest.raises(UserError, match='a.jpg') as caught:
        train(tmp_path / 'run', workers=2)
    assert multiprocessing.active_children() == [] and caught.traceback


class Failing(Noise):
    """`Noise` whose loading goes wrong after some steps, e.g. its process never answers.

    Args:
        kind: 'stuck', 'killed' or 'damaged'.
        mark: a file to make before that.
    """

    def __init__(self, kind, mark):
        self.kind = kind
        self.mark = mark

    def __getitem__(self, key):
        if key == (2, 9):  # a picture of the third epoch, steps 4 and 5
            self.mark.touch()
            if self.kind == 'stuck':
                time.sleep(600)
            elif self.kind == 'killed':
                os.kill(os.getpid(), signal.SIGKILL)
            raise UserError('a.jpg: damaged')
        return super().__getitem__(key)


@pytest.mark.parametrize(
    'kind, message',
    [
        ('stuck', r'has not answered for 2 s .* PPC_TIMEOUT=<seconds> waits longer'),
        ('killed', r'was killed by SIGKILL \(out of memory\?\); use fewer --num_workers'),
        ('damaged', r'a\.jpg: damaged'),
    ],
)
def test_loading_that_fails_leaves_the_state_after_the_last_step(
    tmp_path, monkeypatch, kind, message
):
    monkeypatch.setenv(TIMEOUT_VARIABLE, '2')
    whole = train(tmp_path / 'whole')
    states = States(str(tmp_path / 'run'), {}, every=100)
    with pytest.raises(UserError, match=message) as caught:
        train(tmp_path / 'run', states, workers=1, dataset=Failing(kind, tmp_path / 'mark'))
    (state,) = states_of(tmp_path)
    step = int(state.split('-')[1].split('.')[0])
    assert step in (4, 5)
    assert f'; the state after step {step} is saved, the same command continues from there' in str(
        caught.value
    )
    assert multiprocessing.active_children() == []
    net, optimizer = make()
    assert states.resume(net, optimizer) == step
    train(tmp_path / 'run', states, start=step, net=net, optimizer=optimizer)
    assert all(
        torch.equal(value, net.state_dict()[key]) for key, value in whole.state_dict().items()
    )
    assert records(tmp_path / 'run') == records(tmp_path / 'whole')


def test_a_signal_while_loading_is_stuck_ends_the_run(tmp_path):
    """A network mount that is dead: the loader's process never answers."""
    states = States(str(tmp_path / 'run'), {}, every=100)
    mark = tmp_path / 'mark'

    def end():
        wait_until(mark.exists)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(Interrupted, match='stopped by SIGTERM after step [2345]; the same command'):
        train(tmp_path / 'run', states, workers=1, dataset=Failing('stuck', mark))
    thread.join()
    assert len(states_of(tmp_path)) == 1 and multiprocessing.active_children() == []


def test_training_does_what_sgd_does(tmp_path):
    """One step by hand: w − lr·g with the factor of step 0, here 1."""
    net, optimizer = make()
    before = net[3].bias.item()
    train(tmp_path / 'a', max_steps=1, net=net, optimizer=optimizer)
    assert net[3].bias.item() == pytest.approx(before - 20 * LR * net[3].bias.grad.item(), abs=1e-6)
    (record,) = records(tmp_path / 'a')
    assert record['loss'] == pytest.approx(
        record['loss_fit'] + 0.1 * record['loss_regular'], rel=1e-6
    )


@pytest.mark.parametrize('bad_step', [0, 7, LOG_EVERY + 1, STEPS - 1])
def test_non_finite_loss_stops_and_leaves_no_weights_of_it(tmp_path, bad_step):
    states = States(str(tmp_path / 'run'), {}, every=10)
    with pytest.raises(
        UserError,
        match=f'step {bad_step}: loss_regular is inf; the run stops here and writes no weights',
    ):
        train(tmp_path / 'run', states, bad_step=bad_step)
    assert states_of(tmp_path) == [f'run.state-{step}.pth' for step in (10, 20) if step <= bad_step]
    assert all(
        torch.isfinite(value).all() for value in (states.load() or {'net': {}})['net'].values()
    )
    assert all(record['step'] < bad_step for record in records(tmp_path / 'run'))


def test_last_two_states_are_kept(tmp_path):
    states = States(str(tmp_path / 'run'), {}, every=4)
    other = States(str(tmp_path / 'run2'), {}, every=1)
    net, optimizer = make()
    other.save(99, net, optimizer)
    train(tmp_path / 'run', states)
    assert states_of(tmp_path) == ['run.state-16.pth', 'run.state-20.pth', 'run2.state-99.pth']
    assert states.load()['step'] == 20
    states.clear()
    assert states_of(tmp_path) == ['run2.state-99.pth'] and states.load() is None


def test_no_states_where_none_are_asked_for(tmp_path):
    train(tmp_path / 'run', States(str(tmp_path / 'run'), {}, every=0))
    assert states_of(tmp_path) == []


def test_start_over_removes_the_states(tmp_path):
    states = States(str(tmp_path / 'run'), {'lr': 0.1}, every=4)
    net, optimizer = make()
    states.save(4, net, optimizer)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert (
        States(str(tmp_path / 'run'), {'lr': 0.2}, every=4).resume(net, optimizer, start_over=True)
        == 0
    )
    assert states_of(tmp_path) == [] and all(
        torch.equal(before[key], value) for key, value in net.state_dict().items()
    )


@pytest.mark.parametrize(
    'settings, difference',
    [
        ({'lr': 0.2, 'crop': 448}, 'lr = 0.1, now lr = 0.2'),
        ({'lr': 0.1}, 'crop = 448, now crop = None'),
        ({'lr': 0.1, 'crop': 448, 'width': 0.5}, 'width = None, now width = 0.5'),
    ],
)
def test_states_of_other_settings_are_refused(tmp_path, settings, difference):
    net, optimizer = make()
    States(str(tmp_path / 'run'), {'lr': 0.1, 'crop': 448}, 4).save(4, net, optimizer)
    with pytest.raises(
        UserError, match=f'run.state-4.pth: is of a run with {difference}; use --no_resume'
    ):
        States(str(tmp_path / 'run'), settings, 4).resume(net, optimizer)


def test_damaged_state(tmp_path):
    net, optimizer = make()
    states = States(str(tmp_path / 'run'), {}, 4)
    states.save(4, net, optimizer)
    path = tmp_path / 'run.state-4.pth'
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(
        UserError, match='run.state-4.pth: damaged training state .* use --no_resume'
    ):
        states.load()
    torch.save({'net': {}}, path)
    with pytest.raises(UserError, match='damaged training state'):
        states.load()


def test_state_that_carries_code_is_refused(tmp_path):
    class Call:
        def __reduce__(self):
            return open, (str(tmp_path / 'was run'), 'w')

    torch.save({'step': 1, 'settings': {}, 'net': Call()}, tmp_path / 'run.state-1.pth')
    with pytest.raises(UserError, match='damaged training state'):
        States(str(tmp_path / 'run'), {}, 4).load()
    assert not (tmp_path / 'was run').exists()


def test_steps():
    assert steps_of(10582, 8, 8) == 1322 * 8 and steps_of(10582, 8, 15) == 1322 * 15
    assert steps_of(100, 8, 15, max_steps=7) == 7
    with pytest.raises(UserError, match='--batch_size 8 is more than the 7 images'):
        steps_of(7, 8, 1)


def test_settings_are_the_flags_that_decide():
    class Args:
        def __init__(self):
            self.lr, self.seed, self.device, self.num_workers, self.voc12_root = (
                0.1,
                0,
                'cpu',
                4,
                '/data',
            )

    assert run_settings(Args(), weights_hash='ab') == {'lr': 0.1, 'seed': 0, 'weights_hash': 'ab'}


# ---------------------------------------------------------------- parts of a batch, signals,
# weights that are not finite


def quiet_net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))


def fitted(session, losses, net, states=None, accumulate=1, batch_facts=None):
    """`fit` of a net without dropout on `Noise`, `losses` given the net's outputs too."""
    optimizer = make_optimizer('sgd', param_groups(net, [net[2]], LR, 5e-4), LR, 0.9)
    log = RunLog(str(session))
    try:
        run = TrainingRun(
            net,
            optimizer,
            lambda batch, step: losses(net(batch['x'])[:, 0], batch, step),
            Noise(),
            lr_factor=lambda step: 1,
            device=torch.device('cpu'),
            options=TrainOptions(
                str(session), batch_size=4, max_steps=STEPS, seed=3, accumulate=accumulate
            ),
            batch_facts=batch_facts,
        )
        fit(run, states=states, log=log)
    finally:
        log.close()
    return net.state_dict()


def test_parts_of_a_batch_equal_the_whole(tmp_path):
    """A mean over the images of class 1, of which every part has another number."""

    def losses(x, batch, step):
        return {
            'loss': (x**2 * batch['y']).sum() / batch['count'],
            'images': batch['y'].new_tensor(len(x)),
        }

    weights = [
        fitted(
            tmp_path / str(parts),
            losses,
            quiet_net(),
            accumulate=parts,
            batch_facts=lambda batch: {'count': batch['y'].sum() + 1},
        )
        for parts in (1, 2, 4)
    ]
    for other in weights[1:]:
        for key, value in weights[0].items():
            torch.testing.assert_close(other[key], value, rtol=1e-5, atol=1e-7)
    assert [
        [record['images'] for record in records(tmp_path / str(parts))] for parts in (1, 4)
    ] == [[4] * STEPS] * 2
    for one, four in zip(records(tmp_path / '1'), records(tmp_path / '4')):
        assert four['loss'] == pytest.approx(
            one['loss'], rel=1e-5, abs=1e-7
        )  # which falls to 1e-5: weights differ by 1e-7
    with pytest.raises(
        UserError, match='--batch_size 4: cannot be split over 1 processes and 3 parts each'
    ):
        fitted(tmp_path / '3', losses, quiet_net(), accumulate=3)


@pytest.mark.parametrize('bad_step, kept', [(4, []), (5, [5]), (STEPS - 1, [15, 20])])
def test_gradients_that_are_not_finite_leave_no_state_and_no_weights(tmp_path, bad_step, kept):
    """The loss √(x − x) is 0, its gradient is not a number; the next step's loss is not looked at
    before the state is."""

    def losses(x, batch, step):
        return {'loss': (x - x).abs().sum().sqrt() if step == bad_step else (x**2).mean()}

    with pytest.raises(
        UserError,
        match=f'step {bad_step}: 0.weight has values that are not finite; the run stops here|'
        f'step {bad_step + 1}: loss is nan',
    ):
        fitted(
            tmp_path / 'run', losses, quiet_net(), states=States(str(tmp_path / 'run'), {}, every=5)
        )
    assert states_of(tmp_path) == [f'run.state-{step}.pth' for step in kept]


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('every', [0, 5])
def test_a_signal_ends_the_run_after_the_step(tmp_path, number, every):
    states = States(str(tmp_path / 'run'), {}, every)
    before = signal.getsignal(number)

    def losses(x, batch, step):
        if step == 7:
            os.kill(os.getpid(), number)
        return {'loss': (x**2).mean()}

    with pytest.raises(Interrupted, match=f'stopped by {number.name} after step 8; ') as stop:
        fitted(tmp_path / 'run', losses, quiet_net(), states=states)
    assert stop.value.code == 128 + number and ('continues from there' in str(stop.value)) == bool(
        every
    )
    assert states_of(tmp_path) == (['run.state-5.pth', 'run.state-8.pth'] if every else [])
    assert [record['step'] for record in records(tmp_path / 'run')] == list(range(8))
    assert signal.getsignal(number) == before


def test_a_signal_in_the_last_step_lets_the_run_complete(tmp_path):
    def losses(x, batch, step):
        if step == STEPS - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return {'loss': (x**2).mean()}

    fitted(tmp_path / 'run', losses, quiet_net())
    assert len(records(tmp_path / 'run')) == STEPS


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    for name in (
        '.run.state-5.pth.ab12.tmp',
        '.run.pth.ab12.tmp',
        '.run2.pth.ab12.tmp',
        '.run.npy.ab12.tmp',
    ):
        (tmp_path / name).write_bytes(b'half')
    assert States(str(tmp_path / 'run'), {}, 5).resume(*make()) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        '.run.npy.ab12.tmp',
        '.run2.pth.ab12.tmp',
    ]


def test_more_than_network_and_optimiser_comes_back(tmp_path):
    net, optimizer = make()
    scaler = torch.amp.GradScaler('cpu', init_scale=8.0)
    scaler.scale(net[3].bias.sum()).backward()
    scaler.step(optimizer)
    scaler.update(2.0)
    States(str(tmp_path / 'run'), {}, 4, scaler=scaler).save(4, net, optimizer)
    fresh = torch.amp.GradScaler('cpu', init_scale=8.0)
    assert States(str(tmp_path / 'run'), {}, 4, scaler=fresh).resume(net, optimizer) == 4
    assert fresh.get_scale() == 2.0
