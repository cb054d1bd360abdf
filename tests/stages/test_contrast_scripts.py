"""contrast_train.py, contrast_infer.py and eval.py: a small run of all three, resuming, bad input;
the golden pictures."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import contrast_train
from mini import E2E, ROOT, make_voc
from network import baselines, resnet38_contrast
from network.baselines.baseline import LossOptions
from network.baselines.seam import BASELINE
from network.cam_inference import seeds
from network.resnet38_aff import Net as AffNet
from recipe import fill
from tool.files.checkpoints import save_checkpoint
from tool.files.maps import read_cam
from tool.files.npy import write_npy
from tool.files.pictures import read_mask
from tool.method.contrast import ContrastOptions
from tool.method.label_aware import LabelAwareOptions
from tool.method.metrics import cam_prediction
from voc12.classes import VOC

BASELINES = ['seam', 'eps']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    make_voc(root)
    return root


def train_flags(data, session, *more, weights='scratch'):
    return (
        '--weights',
        weights,
        '--voc12_root',
        data,
        '--train_list',
        data / 'list.txt',
        '--cls_labels',
        data / 'cls_labels.npy',
        '--saliency_root',
        data / 'SALImages',
        '--session_name',
        session,
        '--batch_size',
        2,
        '--crop_size',
        64,
        '--max_steps',
        4,
        '--num_workers',
        0,
        '--device',
        'cpu',
        '--tblog_dir',
        '',
        *more,
        *(['--width', 0.0625] if weights == 'scratch' and '--width' not in more else []),
    )


def infer_flags(data, weights, *more):
    return (
        '--weights',
        weights,
        '--infer_list',
        data / 'list.txt',
        '--voc12_root',
        data,
        '--cls_labels',
        data / 'cls_labels.npy',
        '--num_workers',
        0,
        '--jobs',
        0,
        '--device',
        'cpu',
        '--scales',
        0.5,
        1,
        *more,
    )


def names(data):
    return (data / 'list.txt').read_text().split()


def files(folder):
    return (
        sorted(path.name for path in folder.iterdir() if not path.name.startswith('.'))
        if folder.is_dir()
        else []
    )


@pytest.fixture(scope='module', params=BASELINES)
def trained(request, data, tmp_path_factory):
    """(baseline, session) of a training run started as a user does."""
    session = tmp_path_factory.mktemp(request.param) / 'run'
    command = [
        sys.executable,
        ROOT / 'contrast_train.py',
        *train_flags(
            data,
            session,
            '--baseline',
            request.param,
            '--num_workers',
            1,
            '--tblog_dir',
            session.parent / 'tb',
        ),
    ]
    subprocess.run(list(map(str, command)), check=True)
    return request.param, session


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'seam.pth'
    save_checkpoint(str(path), fill(resnet38_contrast.Net(0.0625)).state_dict())
    return path


# ---------------------------------------------------------------- training


def test_training_writes_weights_and_every_term(trained):
    baseline, session = trained
    state = torch.load(f'{session}.pth', weights_only=True)
    assert ('fc_proj.weight' if baseline == 'seam' else 'proj_fc.weight') in state
    records = [json.loads(line) for line in open(f'{session}.jsonl')]
    terms = {
        'loss_cls',
        'loss_er',
        'loss_ecr',
        'loss_cross_prototype',
        'loss_cross_cam',
        'loss_intra_view',
        'loss_nce',
        'loss',
    }
    assert [record['step'] for record in records] == [0, 1, 2, 3]
    assert set(records[0]) == terms | {'step'} | ({'loss_sal'} if baseline == 'eps' else set())
    summed = [
        value
        for name, value in records[2].items()
        if name in ('loss_cls', 'loss_er', 'loss_ecr', 'loss_sal', 'loss_nce')
    ]
    assert sum(summed) == pytest.approx(records[2]['loss'], rel=1e-5)
    log = open(f'{session}.log').read()
    for part in (
        'command: ',
        'versions: ',
        'commit: ',
        'seed: 0',
        'images: 4',
        'batch: 2',
        'steps: 4',
        'BatchNorm trains',
        f'baseline: {baseline} (--baseline)',
        'loss_nce',
    ):
        assert part in log
    assert os.listdir(session.parent / 'tb') and not list(session.parent.glob('*.state-*'))


def test_training_continues_to_the_same_weights(data, trained, tmp_path, run, refused, monkeypatch):
    baseline, session = trained
    if baseline == 'eps':
        pytest.skip('the same loop as seam')
    from tool.train import engine

    report = engine._report

    def broken(pending, *rest):
        report(pending, *rest)
        if pending[-1][0] >= 2:
            raise KeyboardInterrupt

    flags = train_flags(data, tmp_path / 'run', '--baseline', 'seam', '--save_every', 2)
    monkeypatch.setattr(engine, '_report', broken)
    assert run('contrast_train', *flags)[0] == 130
    assert (tmp_path / 'run.state-2.pth').exists() and not (tmp_path / 'run.pth').exists()
    monkeypatch.setattr(engine, '_report', report)
    refused(
        'contrast_train',
        (*flags, '--long_side', 48, 80),
        'run.state-2.pth',
        'long_side = None, now long_side = [48, 80]',
    )
    code, out, _ = run('contrast_train', *flags)
    assert code == 0 and 'steps: 2 … 4' in out
    whole, continued = (
        torch.load(f'{path}.pth', weights_only=True) for path in (session, tmp_path / 'run')
    )
    assert all(torch.equal(whole[key], continued[key]) for key in whole)
    assert [json.loads(line)['step'] for line in open(tmp_path / 'run.jsonl')] == [0, 1, 2, 3]


def test_fine_tuning_keeps_what_is_frozen(data, weights, tmp_path, run):
    assert run('contrast_train', *train_flags(data, tmp_path / 'run', weights=weights))[0] == 0
    before, after = (
        torch.load(path, weights_only=True) for path in (weights, tmp_path / 'run.pth')
    )
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert {
        'fc8.weight',
        'fc_proj.weight',
        'f9.weight',
        'b3.conv_branch2a.weight',
        'b7.conv_branch1.weight',
    } <= moved
    assert not any('bn' in key or key.startswith(('conv1a', 'b2')) for key in moved)


@pytest.mark.parametrize(
    'flags, terms',
    [
        (['--no_contrast'], {'loss_cls', 'loss_er', 'loss_ecr'}),
        (['--no_seam', '--no_contrast'], {'loss_cls'}),
        (
            ['--no_seam'],
            {'loss_cls', 'loss_cross_prototype', 'loss_cross_cam', 'loss_intra_view', 'loss_nce'},
        ),
    ],
)
def test_switches(data, tmp_path, run, flags, terms):
    assert (
        run('contrast_train', *train_flags(data, tmp_path / 'run', '--max_steps', 1, *flags))[0]
        == 0
    )
    assert set(json.loads((tmp_path / 'run.jsonl').read_text())) == terms | {'step', 'loss'}


@pytest.mark.parametrize(
    'off, term',
    [
        ('cross_prototype', 'loss_cross_prototype'),
        ('cross_cam', 'loss_cross_cam'),
        ('intra_view', 'loss_intra_view'),
        ('semi_hard', None),
        ('hard_pixels', None),
    ],
)
def test_contrast_ablations(data, weights, tmp_path, run, off, term):
    records = []
    for number, flags in enumerate(([], [f'--no_{off}'])):
        run(
            'contrast_train',
            *train_flags(data, tmp_path / str(number), '--max_steps', 1, *flags, weights=weights),
        )
        records.append(json.loads((tmp_path / f'{number}.jsonl').read_text()))
    for name in ('loss_cross_prototype', 'loss_cross_cam', 'loss_intra_view'):
        if name == term:
            assert records[1][name] == 0 != records[0][name]
        elif term is None and name == 'loss_intra_view':
            assert records[1][name] != records[0][name] != 0
        else:
            assert records[1][name] == records[0][name]


def test_training_on_pictures_smaller_than_the_crop(data, tmp_path, run):
    """Sizes in the proportions of the preset coco; its crop of 321 is no multiple of 8 either."""
    flags = ['--baseline', 'eps', '--crop_size', 81, '--long_side', 64, 112]
    assert run('contrast_train', *train_flags(data, tmp_path / 'run', *flags))[0] == 0
    records = [json.loads(line) for line in open(tmp_path / 'run.jsonl')]
    assert len(records) == 4
    for record in records:
        assert np.isfinite(record['loss']) and record['loss_sal'] > 0
    log = (tmp_path / 'run.log').read_text()
    assert 'long_side' in log and '112' in log


def test_options_of_this_project(data, weights, tmp_path, run, refused):
    """Each leads to other weights than the published way and fits into the log's terms; the
    contrast waits for its start."""
    kinds = {
        'published': [],
        'start': ['--contrast_start', 0.5],
        'aware': ['--prototypes', 'label_aware', '--bg_threshold', 0.9],
        'certain': ['--prototypes', 'label_aware', '--bg_threshold', 0.9, '--bg_certain', 0.2],
        'common': ['--prototypes', 'label_aware', '--bg_threshold', 0.9, '--min_class_share', 0.4],
        'weight': ['--contrast_weight', 0.5],
        'grid': ['--loss_size', 16],
        'adamw': ['--optimizer', 'adamw', '--lr', 1e-3, '--lr_new_factor', 4],
        'warm': ['--warmup_steps', 3],
        'dropout': ['--dropout', 0],
        'momentum': ['--momentum', 0.9],
    }
    ends = {}
    for kind, flags in kinds.items():
        assert (
            run('contrast_train', *train_flags(data, tmp_path / kind, *flags, weights=weights))[0]
            == 0
        )
        ends[kind] = torch.load(tmp_path / f'{kind}.pth', weights_only=True)['fc8.weight']
    assert len({value.sum().item() for value in ends.values()}) == len(kinds)
    records = [json.loads(line) for line in open(tmp_path / 'start.jsonl')]
    assert [record['loss_nce'] > 0 for record in records] == [False, False, True, True]
    refused(
        'contrast_train',
        train_flags(data, tmp_path / 'eps', '--loss_size', 16, '--baseline', 'eps'),
        '--loss_size',
        'eps',
    )
    for flag in ('--bg_certain', '--min_class_share'):
        refused(
            'contrast_train', train_flags(data, tmp_path / 'no', flag, 0.2), flag, 'label_aware'
        )
    nobody = ['--prototypes', 'label_aware', '--min_class_share', 1]
    refused(
        'contrast_train',
        train_flags(data, tmp_path / 'no', *nobody),
        '--min_class_share 1',
        'no class would take part',
    )


def options_of(monkeypatch, baseline, *flags):
    """LossOptions that contrast_train.py makes of a command line; class 0 is in all four pictures,
    class 5 in one."""
    argv = ['contrast_train.py', '--weights', 'scratch', '--session_name', 'run', *flags]
    monkeypatch.setattr(sys, 'argv', argv)
    labels = np.zeros((4, 20), np.float32)
    labels[:, 0] = 1
    labels[2, 5] = 1
    args = contrast_train.parse_args()
    return contrast_train.loss_options(
        args, labels, baselines.BASELINES[baseline], torch.device('cpu')
    )


@pytest.mark.parametrize('baseline', ['seam', 'eps'])
def test_without_flags_the_options_are_the_papers(monkeypatch, baseline):
    options = options_of(monkeypatch, baseline)
    assert options == LossOptions(
        max_classes=2, contrast=baselines.BASELINES[baseline].contrast_options()
    )
    assert type(options.contrast) is ContrastOptions


@pytest.mark.parametrize('prototypes', ['published', 'label_aware'])
def test_temperature_and_share_of_prototypes(monkeypatch, prototypes):
    flags = ['--temperature', '0.2', '--prototype_share', '0.25', '--prototypes', prototypes]
    contrast = options_of(monkeypatch, 'eps', *flags).contrast
    assert (contrast.temperature, contrast.top_fraction) == (0.2, 0.25)


def test_options_of_label_aware_prototypes(monkeypatch):
    flags = ['--prototypes', 'label_aware', '--bg_certain', '0.05', '--min_class_share', '0.5']
    contrast = options_of(monkeypatch, 'eps', *flags, '--contrast_weight', '0.3').contrast
    assert isinstance(contrast, LabelAwareOptions)
    assert (contrast.bg_index, contrast.bg_certain, contrast.weight) == (20, 0.05, 0.3)
    assert contrast.common.tolist() == [True] + [False] * 19


def test_the_contrast_before_its_start_is_the_same_with_weight_0(monkeypatch):
    options = options_of(monkeypatch, 'seam', '--no_semi_hard')
    before = contrast_train.with_weightless_contrast(options)
    assert before.contrast.weight == 0 and not before.contrast.semi_hard
    assert dataclasses.replace(before.contrast, weight=0.1) == options.contrast
    without = options_of(monkeypatch, 'seam', '--no_contrast')
    assert without.contrast is None
    assert contrast_train.with_weightless_contrast(without) is without


def test_non_finite_loss_stops_the_run(data, tmp_path, refused):
    net = fill(resnet38_contrast.Net(0.0625))
    net.fc8.weight.data[:] = 3e38  # finite, but no sum with it is
    save_checkpoint(str(tmp_path / 'large.pth'), net.state_dict())
    refused(
        'contrast_train',
        train_flags(data, tmp_path / 'run', weights=tmp_path / 'large.pth'),
        'step 0: loss_cls is',
    )
    assert not (tmp_path / 'run.pth').exists()


def test_training_refuses_bad_input(data, weights, tmp_path, refused):
    session = tmp_path / 'out' / 'run'

    def check(*parts, flags=(), **kwargs):
        refused('contrast_train', train_flags(data, session, *flags, **kwargs), *parts)
        assert not session.parent.exists()  # nothing was written, not even a log

    check('nowhere', '--voc12_root', flags=['--voc12_root', tmp_path / 'nowhere'])
    check('none.txt', 'make_lists', flags=['--train_list', tmp_path / 'none.txt'])
    check('none.npy', 'make_lists', flags=['--cls_labels', tmp_path / 'none.npy'])
    (tmp_path / 'empty.txt').write_text('\n\n')
    check('empty.txt: the list is empty', flags=['--train_list', tmp_path / 'empty.txt'])
    (tmp_path / 'more.txt').write_text('2007_000001\n2007_000099\n')
    check('no label for 2007_000099', flags=['--train_list', tmp_path / 'more.txt'])
    write_npy(
        str(tmp_path / 'all.npy'), {f'2007_{i:06d}': np.ones(20, np.float32) for i in range(100)}
    )
    check(
        '2007_000099.jpg: no such file',
        flags=['--train_list', tmp_path / 'more.txt', '--cls_labels', tmp_path / 'all.npy'],
    )
    check('--batch_size 9 is more than the 4 images', flags=['--batch_size', 9])
    check('none.pth', weights=tmp_path / 'none.pth')
    check('--long_side 96 80: MIN must not be larger than MAX', flags=['--long_side', 96, 80])
    check('--long_side: 31 is out of range: at least 32', flags=['--long_side', 31, 80])
    check('--long_side: expected 2 arguments', flags=['--long_side', 80])
    check('--width 0.3', 'multiple of 1/32', flags=['--width', 0.3])
    check('is of width 0.0625', weights=weights, flags=['--width', 0.5])
    check('--network network.nothing', flags=['--network', 'network.nothing'])
    check(
        'no such folder',
        '--saliency_root',
        flags=['--baseline', 'eps', '--saliency_root', tmp_path / 'nowhere'],
    )
    check('invalid choice', flags=['--baseline', 'cam'])
    check('--device moon', flags=['--device', 'moon'])
    (tmp_path / 'cut.params').write_bytes(b'\x12\x01' + bytes(10))
    check('cut.params', weights=tmp_path / 'cut.params')


def test_truncated_picture_is_named_from_a_worker(data, tmp_path, refused):
    root = tmp_path / 'voc'
    shutil.copytree(data, root)
    path = root / 'JPEGImages' / f'{names(data)[0]}.jpg'
    path.write_bytes(path.read_bytes()[:800])
    for workers in (0, 1):
        refused(
            'contrast_train',
            train_flags(root, tmp_path / 'run', '--num_workers', workers, '--batch_size', 4),
            f'{path}: damaged',
        )
    assert not (tmp_path / 'run.pth').exists()


# ---------------------------------------------------------------- inference


def test_inference_writes_all_outputs_and_resumes(data, weights, tmp_path, run):
    folders = [tmp_path / name for name in ('cam', 'png', 'crf')]
    flags = infer_flags(
        data, weights, *sum(zip(('--out_cam', '--out_cam_pred', '--out_crf'), folders), ())
    )
    assert run('contrast_infer', *flags)[0] == 0
    listed = names(data)
    assert [files(folder) for folder in folders] == [[f'{n}.npy' for n in listed]] + [
        [f'{n}.png' for n in listed]
    ] * 2
    labels = np.load(data / 'cls_labels.npy', allow_pickle=True).item()
    for name in listed:
        size = read_mask(str(data / 'SegmentationClass' / f'{name}.png'), VOC).shape
        cam = read_cam(str(folders[0] / f'{name}.npy'), VOC, size)
        assert sorted(cam) == np.flatnonzero(labels[name]).tolist()
        assert all(abs(value.max() - 1) < 2e-3 for value in cam.values())
        assert (
            read_mask(str(folders[1] / f'{name}.png'), VOC) == cam_prediction(cam, size, 0.26)
        ).all()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('[!.]*.*')}
    (folders[2] / f'{listed[1]}.png').unlink()
    code, out, _ = run('contrast_infer', *flags)
    assert code == 0 and '3 already complete' in out
    assert {
        path for path in tmp_path.rglob('[!.]*.*') if before.get(path) != path.stat().st_mtime_ns
    } == {
        folder / f'{listed[1]}{extension}'
        for folder, extension in zip(folders, ('.npy', '.png', '.png'))
    }


def test_pool_and_workers_write_the_same_bytes(data, weights, tmp_path, run):
    contents = []
    for number, more in enumerate((['--jobs', 0], ['--jobs', 2, '--num_workers', 2])):
        folder = tmp_path / str(number)
        assert (
            run(
                'contrast_infer',
                *infer_flags(
                    data, weights, '--out_cam', folder / 'cam', '--out_crf', folder / 'crf', *more
                ),
            )[0]
            == 0
        )
        contents.append(
            {
                path.relative_to(folder): path.read_bytes()
                for path in folder.rglob('[!.]*.*')
                if path.is_file()
            }
        )
    assert contents[0] == contents[1] and len(contents[0]) == 8


def test_shards_write_the_same_bytes(data, weights, tmp_path, monkeypatch):
    """Two torchrun processes: each picture once, the bytes of a single process; eval sums over
    both."""
    monkeypatch.setenv(
        'OMP_NUM_THREADS', '1'
    )  # as torchrun sets it: the number of threads decides the order of sums

    def start(folder, *launcher):
        for script, flags in (
            ('contrast_infer.py', infer_flags(data, weights, '--out_cam', folder / 'cam')),
            (
                'eval.py',
                eval_flags(
                    data, folder / 'cam', '--type', 'npy', '--curve', '--json', folder / 'r.json'
                ),
            ),
        ):
            subprocess.run(
                [*launcher, str(ROOT / script), *map(str, flags)], check=True, capture_output=True
            )
        result = json.loads((folder / 'r.json').read_text())
        return {path.name: path.read_bytes() for path in (folder / 'cam').glob('[!.]*')}, result[
            'curve_mIoU'
        ]

    single = start(tmp_path / 'one', sys.executable)
    shared = start(
        tmp_path / 'two',
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc_per_node',
        '2',
    )
    assert single == shared and len(single[0]) == 4


def test_folder_of_other_settings_is_refused(data, weights, tmp_path, run, refused):
    cam = tmp_path / 'cam'
    assert run('contrast_infer', *infer_flags(data, weights, '--out_cam', cam))[0] == 0
    before = {path.name: path.read_bytes() for path in cam.glob('[!.]*')}
    other = infer_flags(data, weights, '--out_cam', cam, '--scales', 1)
    refused('contrast_infer', other, cam, 'scales = [0.5, 1.0], now scales = [1.0]', '--overwrite')
    assert {path.name: path.read_bytes() for path in cam.glob('[!.]*')} == before
    assert run('contrast_infer', *other, '--overwrite')[0] == 0
    assert all(path.read_bytes() != before[path.name] for path in cam.glob('[!.]*'))


def test_inference_of_both_baselines(data, trained, tmp_path, run, refused):
    baseline, session = trained
    code, out, _ = run(
        'contrast_infer', *infer_flags(data, f'{session}.pth', '--out_cam_pred', tmp_path / 'png')
    )
    assert code == 0 and f'{baseline} baseline' in out and 'width 0.0625' in out
    assert (
        '0.22' in (tmp_path / 'png' / '.manifest.json').read_text() if baseline == 'eps' else True
    )
    for flag in ('gate_pcm', 'fill_empty'):
        flags = infer_flags(data, f'{session}.pth', '--out_cam_pred', tmp_path / flag, f'--{flag}')
        if baseline == 'eps':
            refused('contrast_infer', flags, f'--{flag}', 'not made by the PCM')
        else:
            assert run('contrast_infer', *flags)[0] == 0
            assert flag in (tmp_path / flag / '.manifest.json').read_text()
    other = 'eps' if baseline == 'seam' else 'seam'
    refused(
        'contrast_infer',
        infer_flags(data, f'{session}.pth', '--out_cam', tmp_path / 'cam', '--baseline', other),
        f'is a checkpoint of the {baseline} baseline',
    )


def test_an_empty_seed_is_filled_and_no_other_changes():
    net = fill(resnet38_contrast.Net(0.0625)).eval()
    with torch.no_grad():
        net.fc8.weight[4] = (
            -net.fc8.weight[4].abs() - 1e-3
        )  # features are ≥ 0: class 3 is positive nowhere
    pictures = [
        torch.randint(
            0,
            256,
            (size, size, 3),
            dtype=torch.uint8,
            generator=torch.Generator().manual_seed(size),
        )
        for size in (64, 96)
    ]
    items = [{'classes': [3, 19], 'size': (80, 80), 'pictures': pictures}]
    [plain] = seeds(net, BASELINE, items, torch.device('cpu'))
    [filled] = seeds(net, BASELINE, items, torch.device('cpu'), fill_empty=True)
    assert plain[3].max() <= 0 < plain[19].max()
    assert filled[3].max() > 0.99 and filled[3].min() <= 0 and np.array_equal(filled[19], plain[19])


def test_inference_refuses_bad_input(data, weights, tmp_path, refused):
    out = tmp_path / 'out'

    def check(*parts, flags=(), weights=weights):
        refused('contrast_infer', infer_flags(data, weights, '--out_cam', out, *flags), *parts)
        assert not out.exists()

    refused('contrast_infer', infer_flags(data, weights), 'nothing to write')
    check('is given for two outputs', flags=['--out_cam_pred', tmp_path / 'other' / '..' / 'out'])
    check('none.pth: no such file', weights=tmp_path / 'none.pth')
    (tmp_path / 'text.pth').write_text('hello')
    check('text.pth: not a PyTorch checkpoint', weights=tmp_path / 'text.pth')
    save_checkpoint(str(tmp_path / 'aff.pth'), AffNet(0.0625).state_dict())
    check('aff.pth: of no known baseline', weights=tmp_path / 'aff.pth')
    check('nowhere', flags=['--voc12_root', tmp_path / 'nowhere'])
    check('out of range', flags=['--scales', 0])


def test_labels_that_carry_code_are_refused(data, weights, tmp_path, refused):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'ran'),)

    np.save(tmp_path / 'labels.npy', {'2007_000000': Bomb()})
    refused(
        'contrast_infer',
        infer_flags(
            data, weights, '--out_cam', tmp_path / 'cam', '--cls_labels', tmp_path / 'labels.npy'
        ),
        'labels.npy: refused',
    )
    assert not (tmp_path / 'ran').exists()


# ---------------------------------------------------------------- eval


@pytest.fixture(scope='module')
def cams(data, tmp_path_factory):
    """CAMs that are the ground truth × 0.5, and masks that are the ground truth."""
    folder = tmp_path_factory.mktemp('cams')
    for name in names(data):
        mask = read_mask(str(data / 'SegmentationClass' / f'{name}.png'), VOC)
        write_npy(
            str(folder / f'{name}.npy'),
            {int(c) - 1: (mask == c) * np.float32(0.5) for c in np.unique(mask) if c},
        )
    return folder


def eval_flags(data, predictions, *more):
    return (
        '--list',
        data / 'list.txt',
        '--predict_dir',
        predictions,
        '--gt_dir',
        data / 'SegmentationClass',
        *more,
    )


def test_eval_of_masks(data, run, tmp_path):
    code, out, _ = run(
        'eval',
        *eval_flags(
            data,
            data / 'SegmentationClass',
            '--json',
            tmp_path / 'r.json',
            '--logfile',
            tmp_path / 'log' / 'eval.txt',
            '--comment',
            'perfect',
        ),
    )
    result = json.loads((tmp_path / 'r.json').read_text())
    assert (
        code == 0 and result['mIoU'] == pytest.approx(400 / 21) and result['images'] == 4
    )  # background and 3 classes occur
    assert (
        str(data / 'list.txt') in out
        and str(data / 'SegmentationClass') in out
        and '4 images' in out
    )
    assert 'perfect' in (tmp_path / 'log' / 'eval.txt').read_text()


@pytest.mark.parametrize('kind', ['npy', 'png'])
def test_a_prediction_of_another_size_is_not_of_its_ground_truth(data, tmp_path, refused, kind):
    """The message names both files: which picture it is of, the ground truth alone tells."""
    for name in names(data):
        if kind == 'npy':
            write_npy(str(tmp_path / f'{name}.npy'), {1: np.zeros((9, 6), np.float32)})
        else:
            Image.fromarray(np.zeros((9, 6), np.uint8)).save(tmp_path / f'{name}.png')
    truth = data / 'SegmentationClass' / f'{names(data)[0]}.png'
    verb = 'maps are' if kind == 'npy' else 'is'
    parts = (f'.{kind}: {verb} 6x9, its ground truth {truth} is', 'make the prediction at the size')
    flags = eval_flags(data, tmp_path, '--type', kind, *(['--curve'] if kind == 'npy' else []))
    refused('eval', flags, *parts)


def test_eval_of_some_classes(data, cams, run, tmp_path, refused):
    def means(*classes):
        code, out, _ = run(
            'eval',
            *eval_flags(
                data,
                data / 'SegmentationClass',
                '--json',
                tmp_path / 'r.json',
                '--classes',
                *classes,
            ),
        )
        assert (
            code == 0
            and f'mean over {len(result()["classes"])} classes: {", ".join(result()["classes"])}'
            in out
        )
        return result()['mIoU']

    def result():
        return json.loads((tmp_path / 'r.json').read_text())

    run('eval', *eval_flags(data, data / 'SegmentationClass', '--json', tmp_path / 'r.json'))
    pixels = result()['pixels']
    counted = sum(
        (read_mask(str(data / 'SegmentationClass' / f'{name}.png'), VOC) == 0).sum()
        for name in names(data)
    )
    assert pixels['background'] == counted and 'classes' not in result()
    found, absent = (
        [name for name, count in pixels.items() if bool(count) == there] for there in (True, False)
    )
    assert means(*found) == 100 and means(*absent) == 0 and means('background', absent[0]) == 50
    assert means('occurring') == 100 and result()['classes'] == [
        name for name in found if pixels[name] > 1000
    ]
    code, out, _ = run(
        'eval', *eval_flags(data, cams, '--type', 'npy', '--curve', '--classes', *found)
    )
    assert 'background score 0.00  mIoU 100.000' in out
    refused(
        'eval',
        eval_flags(data, cams, '--classes', 'dog', 'unicorn'),
        '--classes dog unicorn',
        'aeroplane',
    )


@pytest.mark.parametrize('curve', [['--curve'], ['--curve', 'True']])
def test_eval_curve(data, cams, run, tmp_path, curve):
    code, out, _ = run(
        'eval',
        *eval_flags(
            data,
            cams,
            '--type',
            'npy',
            *curve,
            '--json',
            tmp_path / 'r.json',
            '--plot',
            tmp_path / 'curve.png',
        ),
    )
    result = json.loads((tmp_path / 'r.json').read_text())
    assert code == 0 and out.count('background score') == 61
    assert result['curve_mIoU'][0] == result['curve_mIoU'][49] == pytest.approx(400 / 21)
    assert result['curve_mIoU'][50] < 10
    assert Image.open(tmp_path / 'curve.png').width > 300


def test_eval_without_curve_takes_one_threshold(data, cams, run, tmp_path):
    for threshold, perfect in ((0.3, True), (0.55, False)):
        run(
            'eval',
            *eval_flags(
                data,
                cams,
                '--type',
                'npy',
                '--curve',
                'False',
                '--t',
                threshold,
                '--json',
                tmp_path / 'r.json',
            ),
        )
        assert (
            json.loads((tmp_path / 'r.json').read_text())['mIoU'] == pytest.approx(400 / 21)
        ) == perfect


def test_eval_on_a_pool_gives_the_same(data, cams, run, tmp_path, monkeypatch):
    copies = []  # more than a chunk
    for folder in ('cams', 'truth'):
        (tmp_path / folder).mkdir()
    for number in range(5):
        for name in names(data):
            copies.append(f'{name} {number}')
            shutil.copy(cams / f'{name}.npy', tmp_path / 'cams' / f'{copies[-1]}.npy')
            truth = data / 'SegmentationClass' / f'{name}.png'
            shutil.copy(truth, tmp_path / 'truth' / f'{copies[-1]}.png')
    (tmp_path / 'list.txt').write_text('\n'.join(copies))
    results = []
    for jobs in (0, 2):
        run(
            'eval',
            '--list',
            tmp_path / 'list.txt',
            '--predict_dir',
            tmp_path / 'cams',
            '--gt_dir',
            tmp_path / 'truth',
            '--type',
            'npy',
            '--curve',
            '--json',
            tmp_path / 'r.json',
            '--jobs',
            jobs,
        )
        results.append((tmp_path / 'r.json').read_text())
    assert results[0] == results[1]


def test_eval_refuses_bad_input(data, cams, tmp_path, refused):
    refused('eval', eval_flags(data, tmp_path / 'none'), 'none: no such folder', '--predict_dir')
    refused('eval', eval_flags(data, cams), '2007_000000.png: no such file', '4 have none')
    refused('eval', eval_flags(data, cams, '--type', 'npy'), '--t 0.26')
    refused('eval', eval_flags(data, cams, '--curve'), '--type npy')
    refused(
        'eval',
        eval_flags(data, cams, '--type', 'npy', '--curve', 'maybe'),
        'neither True nor False',
    )
    shutil.copytree(cams, tmp_path / 'cams')
    write_npy(str(tmp_path / 'cams' / '2007_000001.npy'), {3: np.zeros((9, 8), np.float32)})
    refused(
        'eval',
        eval_flags(data, tmp_path / 'cams', '--type', 'npy', '--curve'),
        '2007_000001.npy: maps are 8x9',
    )
    shutil.copytree(data / 'SegmentationClass', tmp_path / 'masks')
    Image.new('L', (8, 9)).save(tmp_path / 'masks' / '2007_000002.png')
    refused('eval', eval_flags(data, tmp_path / 'masks'), '2007_000002.png: is 8x9')
    path = tmp_path / 'masks' / '2007_000001.png'
    path.write_bytes(path.read_bytes()[:60])
    refused(
        'eval',
        eval_flags(data, tmp_path / 'masks', '--json', tmp_path / 'r.json'),
        '2007_000001.png: damaged',
    )
    assert not (tmp_path / 'r.json').exists()


# ---------------------------------------------------------------- the published numbers


@pytest.mark.slow
@pytest.mark.skipif(not E2E.is_dir(), reason=f'{E2E} is not on this machine')
def test_stage_1_agrees_with_the_published_code(tmp_path):
    def script(name, *flags):
        subprocess.run(
            [sys.executable, str(ROOT / name), *map(str, flags)], check=True, capture_output=True
        )

    save_checkpoint(str(tmp_path / 'seam.pth'), fill(resnet38_contrast.Net()).state_dict())
    script(
        'contrast_infer.py',
        '--weights',
        tmp_path / 'seam.pth',
        '--infer_list',
        E2E / 'list.txt',
        '--voc12_root',
        E2E / 'VOC2012',
        '--cls_labels',
        E2E / 'voc12' / 'cls_labels.npy',
        '--out_cam',
        tmp_path / 'cam',
        '--out_cam_pred',
        tmp_path / 'cam_png',
        '--out_crf',
        tmp_path / 'crf',
        '--num_workers',
        1,
    )
    for name in (E2E / 'ids.txt').read_text().split():
        ours, theirs = (
            read_cam(str(folder / 'cam' / f'{name}.npy'), VOC) for folder in (tmp_path, E2E)
        )
        assert sorted(ours) == sorted(theirs)
        for key in ours:
            np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-3, atol=1e-4)
        for kind in ('cam_png', 'crf'):
            ours, theirs = (
                read_mask(str(folder / kind / f'{name}.png'), VOC) for folder in (tmp_path, E2E)
            )
            assert (ours == theirs).mean() >= 0.999
    expected = json.loads((E2E / 'eval.json').read_text())
    common = (
        '--list',
        E2E / 'list.txt',
        '--gt_dir',
        E2E / 'VOC2012' / 'SegmentationClass',
        '--json',
        tmp_path / 'r.json',
    )
    for kind in ('cam_png', 'crf', 'rw'):
        script('eval.py', '--predict_dir', E2E / kind, *common)
        result = json.loads((tmp_path / 'r.json').read_text())
        assert all(
            result[name] == pytest.approx(value, abs=1e-6) for name, value in expected[kind].items()
        )
    script('eval.py', '--predict_dir', E2E / 'cam', '--type', 'npy', '--curve', *common)
    assert json.loads((tmp_path / 'r.json').read_text())['curve_mIoU'] == pytest.approx(
        expected['cam_curve_mIoU'], abs=1e-6
    )
