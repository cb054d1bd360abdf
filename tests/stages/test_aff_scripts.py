"""aff_prepare.py, aff_train.py and aff_infer.py: a small run of all three, resuming, bad input;
golden e2e pictures."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mini import E2E, ROOT
from network.resnet38_aff import Net
from network.resnet38_contrast import Net as CamNet
from recipe import fill, uniform
from tool.files.checkpoints import save_checkpoint
from tool.files.maps import read_maps
from tool.files.npy import write_npy
from tool.files.pictures import read_image, read_mask
from tool.method.crf import refine_mask
from voc12.classes import VOC

NAMES = ['2007_000001', '2007_000002', '2007_000003']
CLASSES = [[3], [3, 11], []]
needs_e2e = pytest.mark.skipif(not E2E.is_dir(), reason=f'{E2E} is not on this machine')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Three pictures, 80 × 96 and odd sizes, their CAMs, and their image list."""
    root = tmp_path_factory.mktemp('data')
    (root / 'JPEGImages').mkdir()
    for name, classes, size in zip(NAMES, CLASSES, [(80, 96), (75, 101), (64, 64)]):
        pixels = (uniform(name, *size, 3).numpy() * 120).astype(np.uint8)
        pixels[20:50, 30:60] += 100
        Image.fromarray(pixels).save(root / 'JPEGImages' / f'{name}.jpg')
        cam = {}
        for number, class_id in enumerate(classes):
            cam[class_id] = np.full(size, 0.1, np.float32)
            cam[class_id][20:50, 30 + 15 * number : 45 + 15 * number] = 0.9
        write_npy(str(root / 'cam' / f'{name}.npy'), cam)
    (root / 'list.txt').write_text('\n'.join(NAMES))
    return root


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    path = str(tmp_path_factory.mktemp('weights') / 'aff.pth')
    save_checkpoint(path, fill(Net(0.0625)).state_dict())
    return path


def files(folder):
    """The files below a folder, but for those that a stage keeps for itself (.manifest.json, …)."""
    paths = [path for path in Path(folder).rglob('*') if path.is_file()]
    return sorted(str(path.relative_to(folder)) for path in paths if not path.name.startswith('.'))


def prepare_flags(data, out, *more):
    return (
        '--infer_list',
        data / 'list.txt',
        '--voc12_root',
        data,
        '--cam_dir',
        data / 'cam',
        '--out_crf',
        out,
        '--jobs',
        0,
        *more,
    )


def train_flags(data, maps, session, *more):
    return (
        '--weights',
        'scratch',
        '--width',
        0.0625,
        '--train_list',
        data / 'list.txt',
        '--voc12_root',
        data,
        '--la_crf_dir',
        Path(maps) / '4.00',
        '--ha_crf_dir',
        Path(maps) / '24.00',
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
        *more,
    )


def infer_flags(data, weights, *more):
    return (
        '--weights',
        weights,
        '--infer_list',
        data / 'list.txt',
        '--voc12_root',
        data,
        '--cam_dir',
        data / 'cam',
        '--jobs',
        0,
        '--num_workers',
        0,
        '--device',
        'cpu',
        *more,
    )


@pytest.fixture(scope='module')
def maps(data, tmp_path_factory):
    """Output of aff_prepare.py, run as a user does, with a process pool."""
    out = tmp_path_factory.mktemp('maps')
    command = [
        sys.executable,
        ROOT / 'aff_prepare.py',
        *prepare_flags(data, out, '--alpha', 4, 24, '--jobs', 2),
    ]
    subprocess.run(list(map(str, command)), check=True)
    return out


# ---------------------------------------------------------------- aff_prepare


def test_prepare_writes_background_and_present_classes(data, maps):
    assert files(maps) == sorted(
        f'{alpha}/{name}'
        for alpha in ('4.00', '24.00')
        for name in [f'{name}.npy' for name in NAMES]
    )
    for alpha in ('4.00', '24.00'):
        for name, classes in zip(NAMES, CLASSES):
            read = read_maps(str(maps / alpha / f'{name}.npy'), VOC)
            assert list(read) == [0, *(class_id + 1 for class_id in classes)]
            assert 0.9 < sum(read.values()).mean() <= 1.00001
    la, ha = (read_maps(str(maps / alpha / f'{NAMES[0]}.npy'), VOC) for alpha in ('4.00', '24.00'))
    assert la[0].mean() > ha[0].mean()  # 0.9^4 is above the CAM's 0.1, 0.9^24 below


def test_prepare_continues_and_refuses_other_settings(data, tmp_path, run, refused):
    code, out, _ = run(
        'aff_prepare', *prepare_flags(data, tmp_path, '--alpha', 4, '--crf_iters', 2)
    )
    assert code == 0 and '3 made, 0 were there' in out
    before = {path: (tmp_path / path).read_bytes() for path in files(tmp_path)}
    (tmp_path / '4.00' / f'{NAMES[1]}.npy').unlink()
    code, out, _ = run(
        'aff_prepare', *prepare_flags(data, tmp_path, '--alpha', 4, 8, '--crf_iters', 2)
    )
    assert code == 0 and '3 made' in out  # all of them lack α 8
    assert {path: (tmp_path / path).read_bytes() for path in before} == before
    code, out, _ = run(
        'aff_prepare', *prepare_flags(data, tmp_path, '--alpha', 4, 8, '--crf_iters', 2)
    )
    assert code == 0 and '0 made, 3 were there' in out
    refused(
        'aff_prepare',
        prepare_flags(data, tmp_path, '--alpha', 4, '--crf_iters', 3),
        'crf_iters = 2, now crf_iters = 3',
        '--overwrite',
    )
    assert {path: (tmp_path / path).read_bytes() for path in before} == before
    code, out, _ = run(
        'aff_prepare', *prepare_flags(data, tmp_path, '--alpha', 4, '--crf_iters', 3, '--overwrite')
    )
    assert code == 0 and '3 made' in out


def test_prepare_float16_halves_the_files(data, maps, tmp_path, run):
    code, *_ = run(
        'aff_prepare', *prepare_flags(data, tmp_path, '--alpha', 4, '--dtype', 'float16')
    )
    assert code == 0
    small, large = (folder / '4.00' / f'{NAMES[1]}.npy' for folder in (tmp_path, maps))
    assert small.stat().st_size < 0.52 * large.stat().st_size
    read, expected = read_maps(str(small), VOC), read_maps(str(large), VOC)
    for label in expected:
        assert read[label].dtype == np.float32
        np.testing.assert_allclose(read[label], expected[label], atol=1e-3)


def test_prepare_probs(data, tmp_path, run):
    assert (
        run(
            'aff_prepare',
            *prepare_flags(data, tmp_path, '--alpha', 8, '--unary', 'probs', '--crf_iters', 5),
        )[0]
        == 0
    )
    for name in NAMES:
        np.testing.assert_allclose(
            sum(read_maps(str(tmp_path / '8.00' / f'{name}.npy'), VOC).values()), 1, atol=1e-5
        )


def test_prepare_bad_input(data, tmp_path, refused):
    out, cams = tmp_path / 'out', tmp_path / 'cam'
    write_npy(str(cams / f'{NAMES[0]}.npy'), {3: np.zeros((80, 96), np.float32)})

    def with_cams(*parts):
        refused('aff_prepare', prepare_flags(data, out, '--cam_dir', cams), *parts)

    with_cams(cams / f'{NAMES[1]}.npy', 'no such file', '2 have none', 'contrast_infer.py')
    write_npy(str(cams / f'{NAMES[1]}.npy'), {3: np.zeros((80, 96), np.float32)})
    write_npy(str(cams / f'{NAMES[2]}.npy'), {})
    with_cams(cams / f'{NAMES[1]}.npy', 'maps are 96x80, the picture is 101x75')
    refused(
        'aff_prepare',
        prepare_flags(data, out, '--cam_dir', tmp_path / 'none'),
        'none: no such folder',
    )
    refused(
        'aff_prepare',
        prepare_flags(data, out, '--voc12_root', tmp_path),
        'JPEGImages',
        '--voc12_root',
    )
    refused('aff_prepare', prepare_flags(data, out, '--alpha', 4.125), 'at most two decimals')
    assert not out.exists()
    (cams / f'{NAMES[1]}.npy').write_bytes((data / 'cam' / f'{NAMES[1]}.npy').read_bytes()[:2000])
    with_cams(cams / f'{NAMES[1]}.npy')  # its head is right; found when its turn comes
    assert not [path for path in files(out) if NAMES[1] in path or path.endswith('.tmp')]


# ---------------------------------------------------------------- aff_train


@pytest.fixture(scope='module')
def trained(data, maps, tmp_path_factory):
    """Session of aff_train.py, run as a user does."""
    session = tmp_path_factory.mktemp('run') / 'aff'
    command = [
        sys.executable,
        ROOT / 'aff_train.py',
        *train_flags(data, maps, session, '--save_every', 3),
    ]
    subprocess.run(list(map(str, command)), check=True)
    return session


def test_train_writes_a_checkpoint_and_logs_every_term(trained):
    state = torch.load(f'{trained}.pth', weights_only=True)
    assert list(state) == list(Net(0.0625).state_dict())
    records = [json.loads(line) for line in Path(f'{trained}.jsonl').read_text().splitlines()]
    assert [record['step'] for record in records] == [0, 1, 2, 3]
    for record in records:
        expected = record['loss_bg'] / 4 + record['loss_fg'] / 4 + record['loss_neg'] / 2
        assert record['loss'] == pytest.approx(expected, rel=1e-5)
    log = Path(f'{trained}.log').read_text()
    assert log.count('3 dicts of background and present classes') == 2
    assert files(trained.parent) == [
        'aff.jsonl',
        'aff.log',
        'aff.pth',
    ]  # the training states are gone


def test_train_continues_to_the_same_weights(data, maps, trained, tmp_path, run, monkeypatch):
    from network.refiners import psa

    real, calls = psa.affinity_loss, []

    def broken(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(psa, 'affinity_loss', broken)
    flags = train_flags(data, maps, tmp_path / 'aff', '--save_every', 3)
    assert run('aff_train', *flags)[0] == 130
    assert [name for name in files(tmp_path) if name.endswith('.pth')] == ['aff.state-3.pth']
    assert run('aff_train', *flags)[0] == 0 and len(calls) == 5  # one step was left
    state, expected = (
        torch.load(f'{path}.pth', weights_only=True) for path in (tmp_path / 'aff', trained)
    )
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value, rtol=1e-5, atol=1e-6)


def test_train_reads_the_21_map_layout_and_says_so(data, maps, tmp_path, run):
    for alpha in ('4.00', '24.00'):
        for name in NAMES:
            read = read_maps(str(maps / alpha / f'{name}.npy'), VOC)
            array = np.zeros((21, *read[0].shape), np.float32)
            for label, values in read.items():
                array[label] = values
            write_npy(str(tmp_path / alpha / f'{name}.npy'), array)
    code, out, _ = run(
        'aff_train', *train_flags(data, tmp_path, tmp_path / 'aff', '--max_steps', 2)
    )
    assert code == 0 and out.count('3 arrays of all 21 maps') == 2
    assert Path(tmp_path / 'aff.pth').exists()


def test_train_starts_from_a_stage_1_checkpoint(data, maps, tmp_path, run):
    save_checkpoint(str(tmp_path / 'seam.pth'), fill(CamNet(0.0625)).state_dict())
    flags = train_flags(data, maps, tmp_path / 'aff', '--max_steps', 1, '--lr', 0)
    code, out, _ = run('aff_train', *flags, '--weights', tmp_path / 'seam.pth')
    assert (
        code == 0
        and 'initialised anew: f8_3, f8_4, f8_5, f9' in out
        and 'not used:' in out
        and 'fc8' in out
    )
    state, before = (
        torch.load(tmp_path / name, weights_only=True) for name in ('aff.pth', 'seam.pth')
    )
    for key in ('conv1a.weight', 'b5_1.conv_branch2a.weight', 'bn7.running_mean'):
        assert torch.equal(state[key], before[key])


def test_train_bad_input(data, maps, tmp_path, refused):
    session, other = tmp_path / 'run' / 'aff', tmp_path / 'maps'

    def bad(flag, value, *parts):
        refused('aff_train', train_flags(data, maps, session, flag, value), *parts)

    for name in NAMES[:2]:
        path = other / f'{name}.npy'
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((maps / '4.00' / f'{name}.npy').read_bytes())
    bad('--la_crf_dir', other, other / f'{NAMES[2]}.npy', 'no such file', 'aff_prepare.py')
    write_npy(str(other / f'{NAMES[2]}.npy'), {0: np.zeros((64, 65), np.float32)})
    bad('--ha_crf_dir', other, other / f'{NAMES[2]}.npy', '65x64, the picture is 64x64')
    write_npy(str(other / f'{NAMES[2]}.npy'), np.zeros((20, 64, 64), np.float32))
    bad('--ha_crf_dir', other, other / f'{NAMES[2]}.npy', '(20, 64, 64)')
    exchanged = ('--la_crf_dir', maps / '24.00', '--ha_crf_dir', maps / '4.00')
    message = 'has the maps of α = 24.0 and --ha_crf_dir'
    refused('aff_train', train_flags(data, maps, session, *exchanged), message, 'α = 4.0')
    bad('--crop_size', 100, '--crop_size 100', 'multiple of 8')
    bad('--batch_size', 4, '--batch_size 4')
    bad('--train_list', tmp_path / 'none.txt', 'none.txt')
    bad('--weights', tmp_path / 'none.pth', 'none.pth')
    assert not session.parent.exists()


# ---------------------------------------------------------------- aff_infer


def test_infer_masks_probabilities_and_resume(data, weights, tmp_path, run, refused):
    masks, probs = tmp_path / 'rw', tmp_path / 'prob'
    flags = infer_flags(data, weights, '--out_rw', masks, '--out_rw_prob', probs, '--alpha', 16)
    code, out, _ = run('aff_infer', *flags)
    assert code == 0 and '--alpha 16 is unused' in out and '3 made' in out
    for name, classes in zip(NAMES, CLASSES):
        mask = read_mask(str(masks / f'{name}.png'), VOC)
        read = read_maps(str(probs / f'{name}.npy'), VOC, mask.shape)
        labels = [0, *(class_id + 1 for class_id in classes)]
        assert list(read) == labels and set(np.unique(mask)) <= set(labels)
        stack = np.stack(list(read.values()))
        np.testing.assert_allclose(stack.sum(0), 1, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(labels)[stack.argmax(0)], mask)
        assert Image.open(masks / f'{name}.png').mode == 'P'
    before = (masks / f'{NAMES[0]}.png').read_bytes()
    (masks / f'{NAMES[0]}.png').unlink()
    code, out, _ = run('aff_infer', *flags)
    assert (
        code == 0
        and '1 made, 2 were there' in out
        and (masks / f'{NAMES[0]}.png').read_bytes() == before
    )
    refused('aff_infer', [*flags, '--beta', 4], 'beta = 8, now beta = 4', '--overwrite')
    refused(
        'aff_infer',
        infer_flags(data, weights, '--out_rw', masks, '--crf'),
        'crf = False, now crf = True',
    )


def test_infer_crf_changes_the_masks(data, weights, tmp_path, run, refused):
    for name, size in zip(
        NAMES, [(80, 96), (75, 101), (64, 64)]
    ):  # noise, half of it above the background
        write_npy(
            str(tmp_path / 'cam' / f'{name}.npy'), {3: uniform(f'noise {name}', *size).numpy()}
        )
    flags = infer_flags(
        data, weights, '--cam_dir', tmp_path / 'cam', '--logt', 0, '--beta', 32, '--bg_score', 0.5
    )
    assert run('aff_infer', *flags, '--out_rw', tmp_path / 'plain')[0] == 0
    assert run('aff_infer', *flags, '--out_rw', tmp_path / 'crf', '--crf')[0] == 0
    assert (
        run(
            'aff_infer', *flags, '--out_rw', tmp_path / 'plain2', '--out_rw_crf', tmp_path / 'crf2'
        )[0]
        == 0
    )
    for kind in ('plain', 'crf'):
        assert all(
            (tmp_path / kind / f'{name}.png').read_bytes()
            == (tmp_path / f'{kind}2' / f'{name}.png').read_bytes()
            for name in NAMES
        )
    refused(
        'aff_infer',
        [*flags, '--out_rw_crf', tmp_path / 'crf3', '--crf'],
        '--crf refines the masks of --out_rw',
    )

    changed = 0
    for name in NAMES:  # from the walk's labels, with the seeds' kernels
        picture = np.asarray(read_image(str(data / 'JPEGImages' / f'{name}.jpg')))
        plain, refined = (
            read_mask(str(tmp_path / kind / f'{name}.png'), VOC) for kind in ('plain', 'crf')
        )
        np.testing.assert_array_equal(refine_mask(picture, plain, [4], num_labels=21), refined)
        assert {0, 4} >= set(np.unique(refined).tolist())
        changed += int((plain != refined).sum())
    assert changed > 100


def test_infer_bad_input(data, weights, tmp_path, refused):
    out, cams = tmp_path / 'out', tmp_path / 'cam'

    def bad(flag, value, *parts):
        refused('aff_infer', infer_flags(data, weights, '--out_rw', out, flag, value), *parts)

    refused('aff_infer', infer_flags(data, weights), '--out_rw')
    for name in NAMES:
        write_npy(str(cams / f'{name}.npy'), {3: np.zeros((80, 96), np.float32)})
    bad('--cam_dir', cams, cams / f'{NAMES[1]}.npy', 'maps are 96x80, the picture is 101x75')
    (cams / f'{NAMES[0]}.npy').unlink()
    bad('--cam_dir', cams, cams / f'{NAMES[0]}.npy', 'no such file')
    save_checkpoint(str(tmp_path / 'seam.pth'), fill(CamNet(0.0625)).state_dict())
    bad('--weights', tmp_path / 'seam.pth', 'seam.pth: not a checkpoint of network.resnet38_aff')
    (tmp_path / 'cut.pth').write_bytes(Path(weights).read_bytes()[:5000])
    bad('--weights', tmp_path / 'cut.pth', 'cut.pth: not a PyTorch checkpoint')
    bad('--network', 'network.none', '--network network.none')
    bad('--device', 'nowhere', '--device nowhere')
    assert not out.exists()


# ---------------------------------------------------------------- golden e2e


def on_e2e(script, *flags):
    command = [
        sys.executable,
        ROOT / script,
        '--infer_list',
        E2E / 'list.txt',
        '--voc12_root',
        E2E / 'VOC2012',
        '--cam_dir',
        E2E / 'cam',
        *flags,
    ]
    subprocess.run(list(map(str, command)), check=True, env={**os.environ, 'OMP_NUM_THREADS': '2'})


@needs_e2e
def test_prepare_agrees_with_the_published_code(tmp_path):
    on_e2e('aff_prepare.py', '--out_crf', tmp_path)
    assert sorted(os.listdir(tmp_path)) == ['16.00', '24.00', '32.00', '4.00', '8.00']
    expected_files = sorted(E2E.glob('prep/*/*.npz'))
    assert len(expected_files) == 6
    for path in expected_files:
        read, expected = (
            read_maps(str(tmp_path / path.parent.name / f'{path.stem}.npy'), VOC),
            np.load(path),
        )
        assert [str(label) for label in read] == list(expected)
        for label in read:
            np.testing.assert_allclose(read[label], expected[str(label)], atol=2e-3)
    # the layout the published code writes holds the same maps
    older = read_maps(str(E2E / 'prep_array_sample.npy'), VOC)
    assert len(older) == 21


@needs_e2e
@pytest.mark.slow
def test_infer_agrees_with_the_published_code(tmp_path):
    save_checkpoint(str(tmp_path / 'aff.pth'), fill(Net()).state_dict())
    on_e2e(
        'aff_infer.py',
        '--weights',
        tmp_path / 'aff.pth',
        '--out_rw',
        tmp_path / 'rw',
        '--device',
        'cpu',
        '--jobs',
        0,
        '--num_workers',
        0,
    )
    expected_files = sorted(E2E.glob('rw/*.png'))
    assert len(expected_files) == 3
    exact = True
    for path in expected_files:
        agreement = (
            read_mask(str(tmp_path / 'rw' / path.name), VOC) == read_mask(str(path), VOC)
        ).mean()
        assert agreement >= 0.999
        exact &= agreement == 1
    subprocess.run(
        list(
            map(
                str,
                [
                    sys.executable,
                    ROOT / 'eval.py',
                    '--list',
                    E2E / 'ids.txt',
                    '--predict_dir',
                    tmp_path / 'rw',
                    '--gt_dir',
                    E2E / 'VOC2012' / 'SegmentationClass',
                    '--json',
                    tmp_path / 'eval.json',
                ],
            )
        ),
        check=True,
    )
    result = json.loads((tmp_path / 'eval.json').read_text())
    expected = json.loads((E2E / 'eval.json').read_text())['rw']
    for name, value in expected.items():  # a pixel in a thousand may differ on another processor
        assert result[name] == pytest.approx(value, abs=1e-6 if exact else 0.05)


def test_a_damaged_cam_ends_the_stage_or_is_left_out(data, maps, tmp_path, run, refused):
    cams = tmp_path / 'cam'
    shutil.copytree(data / 'cam', cams)
    (cams / f'{NAMES[1]}.npy').write_bytes(b'no array')
    flags = list(map(str, prepare_flags(data, tmp_path / 'out', '--alpha', 4, '--jobs', 0)))
    flags[flags.index('--cam_dir') + 1] = str(cams)
    refused('aff_prepare', flags, f'{NAMES[1]}.npy')
    code, out, err = run('aff_prepare', *flags, '--on_error', 'skip')
    assert code == 1 and '2 made, 0 were there, 1 left out' in out
    assert f'{NAMES[1]}.npy' in err.splitlines()[-1]
    assert files(tmp_path / 'out') == [f'4.00/{name}.npy' for name in (NAMES[0], NAMES[2])]
