"""Real processes: 2 × batch 4 equal 1 × batch 8 in losses and gradients; the scripts run, stop and
fail as one."""

import functools
import json
import os
import signal
import time

import pytest
import torch
from torch import nn

import aff_train
from launch import agent, context, end, environment, train
from mini import make_voc
from network import resnet38_aff, resnet38_boundary
from network.baselines import BASELINES
from network.baselines.baseline import Baseline, LossOptions
from network.refiners import find_refiner
from network.weights import find_net
from process_ids import wait_until
from recipe import fill, normal, uniform
from tool.method.affinity import affinity_loss, pair_labels
from tool.method.label_aware import LabelAwareOptions
from tool.train import processes
from tool.train.engine import _Losses, _parts, _update
from tool.train.optimiser import make_optimizer, param_groups
from tool.train.precision import grad_scaler
from tool.train.random_numbers import mixed_seed

WIDTH, CPU = 1 / 16, torch.device('cpu')
CASES = ('all', 'label-aware', 'no contrast', 'no consistency', 'classification')


def options_of(case: str, baseline: Baseline) -> LossOptions:
    contrast = baseline.contrast_options(bg_threshold=0.1)
    if case == 'label-aware':
        contrast = baseline.contrast_options(
            LabelAwareOptions, bg_threshold=0.1, bg_certain=0.05, common=torch.arange(20) != 3
        )
    elif case in ('no contrast', 'classification'):
        contrast = None
    consistency = case not in ('no consistency', 'classification')
    return LossOptions(view2_size=64, max_classes=2, consistency=consistency, contrast=contrast)


def contrast_case(name: str, case: str):
    """(net, losses, batch of 8) of a baseline; no dropout, whose masks are a process's own."""
    baseline = BASELINES[name]
    options = options_of(case, baseline)
    net = fill(find_net(baseline.network)(WIDTH))
    for module in net.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0
    label = torch.zeros(8, 20)
    label[torch.arange(8), torch.arange(8) % 5] = label[:, 7] = 1
    batch = {
        'image': normal('image', 8, 3, 96, 96),
        'label': label,
        'saliency': uniform('saliency', 8, 1, 96, 96),
    }
    batch['image'][6:, :, 60:] = 0  # padding
    generator = torch.Generator()

    def losses(batch, step):
        generator.manual_seed(mixed_seed(0, step, 1))
        return baseline.losses(net, batch, options, generator)

    return net, losses, batch


def affinity_case():
    """The same for AffinityNet; the two halves of the batch have very different numbers of pairs of
    each kind."""
    net = fill(resnet38_aff.Net(WIDTH)).requires_grad_(True)
    for module in net.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0
    label = (uniform('label', 8, 12, 12) * 3).to(torch.uint8)
    label[:3, 2:] = 255
    label[4:] //= 2
    return (
        net,
        lambda batch, step: affinity_loss(
            net(batch['image']), *pair_labels(batch['label']), batch['counts']
        ),
        {'image': normal('image', 8, 3, 96, 96), 'label': label},
    )


def boundary_case():
    """The same for IRN's boundary head."""
    refiner = find_refiner('irn')
    net = fill(resnet38_boundary.Net(WIDTH))
    label = (uniform('label', 8, 24, 24) * 3).to(torch.uint8)
    label[:3, 2:] = 255
    label[4:] //= 2
    return (
        net,
        lambda batch, step: refiner.losses(net(batch['image']), batch),
        {'image': normal('image', 8, 3, 96, 96), 'label': label},
    )


REFINED = {'affinity': affinity_case, 'boundary': boundary_case}
COUNTS = {
    'affinity': functools.partial(aff_train.mean_counts, find_refiner('psa')),
    'boundary': functools.partial(aff_train.mean_counts, find_refiner('irn')),
}


def one_step(case, accumulate=1, whole=None):
    """(loss terms, gradients) of one step on this process's part of the batch."""
    net, losses, batch = case
    net.train()
    share = len(batch['image']) // processes.world()
    batch = {key: value[processes.rank() * share :][:share] for key, value in batch.items()}
    model = processes.wrap(_Losses(net, losses), CPU, static=accumulate == 1)
    optimizer = make_optimizer('sgd', param_groups(net, net.new_layers(), 0, 0), 0, 0)
    for step in (0, 1):  # the second step shows what a first one does not: how static_graph goes on
        terms = _update(
            model, optimizer, grad_scaler('off'), _parts(batch, accumulate, CPU, whole), step
        )
    return (
        {
            name: (processes.total(value) / processes.world()).item()
            for name, value in terms.items()
        },
        {name: value.grad for name, value in net.named_parameters() if value.grad is not None},
    )


def all_cases() -> dict:
    made = {
        f'{name}, {case}': one_step(contrast_case(name, case))
        for name in BASELINES
        for case in CASES
    }
    made |= {
        f'{name} in {parts}': one_step(case(), parts, COUNTS[name])
        for name, case in REFINED.items()
        for parts in (1, 2)
    }
    return made


def _process(settings: dict[str, str], path: str) -> None:
    os.environ.update(settings)
    torch.set_num_threads(1)
    processes.start('cpu')
    made = all_cases()
    if processes.is_main():
        torch.save(made, path)
    processes.stop()


@pytest.fixture(scope='module')
def halves(tmp_path_factory):
    """(all cases in one process, in two)."""
    path = str(tmp_path_factory.mktemp('halves') / 'two.pth')
    store = agent()
    children = [
        context.Process(target=_process, args=(environment(rank, store), path)) for rank in (0, 1)
    ]
    for process in children:
        process.start()
    assert [end(process) for process in children] == [0, 0]
    return all_cases(), torch.load(path, weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    'case',
    [f'{name}, {case}' for name in BASELINES for case in CASES]
    + [f'{name} in {parts}' for name in REFINED for parts in (1, 2)],
)
def test_two_processes_of_4_equal_one_of_8(halves, case):
    (terms, gradients), (terms2, gradients2) = (half[case] for half in halves)
    assert set(terms) == set(terms2) and terms['loss'] > 0
    for name, value in terms.items():
        assert terms2[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
    assert set(gradients) == {name for name, value in gradients2.items() if value.any()} | set(
        gradients
    )
    scale = max(value.norm() for value in gradients.values())
    for name, value in gradients.items():
        assert (gradients2[name] - value).norm() <= 1e-5 * max(value.norm(), 1e-2 * scale), name
    if case == 'seam, all':
        assert all(
            terms[name] > 0
            for name in ('loss_cross_prototype', 'loss_cross_cam', 'loss_intra_view')
        )


@pytest.mark.slow
def test_parts_of_a_batch_equal_the_whole(halves):
    whole, parts = halves[0]['affinity in 1'], halves[0]['affinity in 2']
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    for name, value in whole[1].items():
        assert (parts[1][name] - value).norm() <= 1e-5 * value.norm(), name


# ---------------------------------------------------------------- the scripts


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    make_voc(root)
    return root


def start(data, session, *more):
    """(two processes of contrast_train.py, as torchrun starts them, and its store)."""
    store = agent()
    return [
        train(
            data,
            session,
            '--max_steps',
            16,
            *more,
            output=rank,
            environment=environment(rank, store),
        )
        for rank in (0, 1)
    ], store


def outcome(session, started):
    """(exit codes, what the processes printed)."""
    children, _ = started
    return [end(process) for process in children], [
        open(f'{session}.out{rank}').read() for rank in (0, 1)
    ]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_the_run_continues(data, tmp_path):
    whole, run = tmp_path / 'whole', tmp_path / 'run'
    codes, texts = outcome(whole, start(data, whole))
    assert codes == [0, 0], texts
    assert 'batch: 2 (2 × 1)' in texts[0] and texts[1] == ''  # only the main process speaks

    children, _ = started = start(data, run, '--save_every', 3)
    while not run.with_suffix('.state-3.pth').exists():
        assert children[0].is_alive()
        time.sleep(0.01)
    os.kill(children[1].pid, signal.SIGTERM)
    codes, texts = outcome(run, started)
    assert codes == [143, 143], texts
    step = max(int(path.stem.split('-')[1]) for path in tmp_path.glob('run.state-*.pth'))
    assert (
        step >= 3
        and f'stopped by SIGTERM after step {step}; the same command continues' in texts[0]
        and texts[1] == ''
    )
    assert not (tmp_path / 'run.pth').exists()

    codes, texts = outcome(run, start(data, run, '--save_every', 3))
    assert codes == [0, 0] and f'steps: {step} … 16' in texts[0], texts
    weights = [torch.load(f'{session}.pth', weights_only=True) for session in (whole, run)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    records = [[json.loads(line) for line in open(f'{session}.jsonl')] for session in (whole, run)]
    assert records[0] == records[1] and len(records[0]) == 16


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_other_with_one_line(data, tmp_path):
    run = tmp_path / 'run'
    children, _ = started = start(data, run, '--max_steps', 10_000, '--save_every', 3)
    assert wait_until(run.with_suffix('.state-3.pth').exists)
    children[1].kill()
    codes, texts = outcome(run, started)
    assert codes == [2, -signal.SIGKILL], texts
    lines = [line for line in texts[0].splitlines() if 'error' in line.lower()]
    assert len(lines) == 1 and 'Traceback' not in texts[0], texts
    assert 'contrast_train.py: error: lost contact to another process of this run (' in lines[0]
    assert 'the same command continues from the newest training state' in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    'flag, value, part',
    [
        ('--voc12_root', 'nowhere', 'nowhere'),  # checked once, by the main process
        (
            '--batch_size',
            3,
            '--batch_size 3: cannot be split over 2 processes',
        ),  # found by every process
        ('--baseline', 'cam', 'invalid choice'),  # before the processes meet
        ('--voc12_root', 'broken', '2007_000002.jpg: damaged'),
    ],
)  # found by one process, while it trains
def test_mistakes_end_all_processes_with_one_line(data, tmp_path, flag, value, part):
    if value == 'broken':
        make_voc(tmp_path / 'broken')
        path = tmp_path / 'broken' / 'JPEGImages' / '2007_000002.jpg'
        path.write_bytes(path.read_bytes()[:800])
    run = tmp_path / 'run'
    codes, texts = outcome(
        run, start(data, run, flag, tmp_path / value if flag == '--voc12_root' else value)
    )
    assert codes == [2, 2], texts
    lines = [line for text in texts for line in text.splitlines() if 'error' in line.lower()]
    assert len(lines) == 1 and part in lines[0], texts
    assert not any('Traceback' in text for text in texts) and not (tmp_path / 'run.pth').exists()
