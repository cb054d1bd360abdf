"""aff_prepare.py --irn, aff_train.py --refiner irn and aff_infer.py with a boundary checkpoint: a
small run of all three, resuming, bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from network import resnet38_contrast
from network.refiners.irn import mean_boundaries
from network.weights import BOUNDARY, net_from_checkpoint
from recipe import fill, uniform
from tool.files.checkpoints import save_checkpoint
from tool.files.maps import read_cam, read_maps
from tool.files.npy import write_npy
from tool.files.pictures import read_image, read_mask
from tool.method.boundary import boundary_walk, scores_with_background
from tool.method.boundary_label import boundary_label
from voc12.aff_data import WalkSet
from voc12.classes import VOC
from voc12.transforms import normalise, to_tensor

NAMES = ['2007_000001', '2007_000002', '2007_000003']
CLASSES = [[3], [3, 11], []]
SIZES = [(80, 96), (75, 101), (22, 30)]
TINY = 'test_resnet'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Three pictures, one of odd and one of a small size, their CAMs, and their image list."""
    root = tmp_path_factory.mktemp('data')
    (root / 'JPEGImages').mkdir()
    for name, classes, size in zip(NAMES, CLASSES, SIZES):
        pixels = (uniform(name, *size, 3).numpy() * 120).astype(np.uint8)
        pixels[20:50, 30:60] += 100
        Image.fromarray(pixels).save(root / 'JPEGImages' / f'{name}.jpg')
        cam = {}
        for number, class_id in enumerate(classes):
            cam[class_id] = np.full(size, 0.02, np.float32)
            cam[class_id][20:50, 30 + 15 * number : 45 + 15 * number] = 0.9
        write_npy(str(root / 'cam' / f'{name}.npy'), cam)
    (root / 'list.txt').write_text('\n'.join(NAMES))
    torch.save(fill(timm.create_model(TINY)).state_dict(), root / 'tiny.pth')
    return root


def files(folder):
    paths = [path for path in Path(folder).rglob('*') if path.is_file()]
    return sorted(str(path.relative_to(folder)) for path in paths if not path.name.startswith('.'))


def on_data(data, *flags):
    return ('--infer_list', data / 'list.txt', '--voc12_root', data, '--jobs', 0, *flags)


def prepare_flags(data, out, *more):
    return on_data(data, '--irn', '--cam_dir', data / 'cam', '--out_crf', out, *more)


def train_flags(data, labels, session, *more):
    return (
        *('--refiner', 'irn', '--weights', data / 'tiny.pth', '--backbone', TINY),
        *('--train_list', data / 'list.txt', '--voc12_root', data, '--label_dir', labels),
        *('--session_name', session, '--batch_size', 2, '--crop_size', 64, '--max_steps', 4),
        *('--num_workers', 0, '--device', 'cpu', *more),
    )


def infer_flags(data, weights, *more):
    flags = ('--cam_dir', data / 'cam', '--weights', weights, '--num_workers', 0, '--device', 'cpu')
    return on_data(data, *flags, *more)


@pytest.fixture
def labels(data, tmp_path, run):
    out = tmp_path / 'irn_label'
    assert run('aff_prepare', *prepare_flags(data, out))[0] == 0
    return out


@pytest.fixture
def trained(data, labels, tmp_path, run):
    """(exit code, stdout, session) of a training."""
    session = tmp_path / 'run' / 'irn'
    code, out, err = run('aff_train', *train_flags(data, labels, session, '--save_every', 3))
    assert code == 0, err
    return out, session


# ---------------------------------------------------------------- aff_prepare --irn


def test_prepare_writes_a_label_map_for_every_picture(data, labels):
    assert files(labels) == [f'{name}.png' for name in NAMES]
    for name, classes in zip(NAMES, CLASSES):
        label = read_mask(str(labels / f'{name}.png'), VOC)
        image = np.asarray(read_image(str(data / 'JPEGImages' / f'{name}.jpg')))
        cam = read_cam(str(data / 'cam' / f'{name}.npy'), VOC)
        np.testing.assert_array_equal(label, boundary_label(image, cam))
        assert set(np.unique(label)) <= {0, 255, *(class_id + 1 for class_id in classes)}
    assert {0, 4} <= set(np.unique(read_mask(str(labels / f'{NAMES[0]}.png'), VOC)))


def test_prepare_continues_and_refuses_other_settings(data, labels, run, refused):
    before = (labels / f'{NAMES[1]}.png').read_bytes()
    (labels / f'{NAMES[1]}.png').unlink()
    code, out, _ = run('aff_prepare', *prepare_flags(data, labels))
    assert code == 0 and '1 made, 2 were there' in out and 'label maps at 0.3 and 0.05' in out
    assert (labels / f'{NAMES[1]}.png').read_bytes() == before
    refused(
        'aff_prepare',
        prepare_flags(data, labels, '--conf_fg_thres', 0.4),
        'conf_fg_thres = 0.3, now conf_fg_thres = 0.4',
        '--overwrite',
    )


def test_prepare_refuses_what_belongs_to_the_other_refiner(data, tmp_path, refused):
    out = tmp_path / 'out'
    for flag, value in (('--alpha', 4), ('--unary', 'probs'), ('--dtype', 'float16')):
        flags = prepare_flags(data, out, flag, value)
        refused('aff_prepare', flags, f'{flag}: is for the refiner psa only', 'leave it out')
    without_irn = [flag for flag in prepare_flags(data, out) if flag != '--irn']
    flags = [*without_irn, '--conf_bg_thres', 0.1]
    refused('aff_prepare', flags, '--conf_bg_thres: is for the refiner irn only')
    flags = prepare_flags(data, out, '--conf_bg_thres', 0.5)
    refused('aff_prepare', flags, '--conf_bg_thres 0.5 is above --conf_fg_thres 0.3')
    assert not out.exists()


# ---------------------------------------------------------------- aff_train --refiner irn


def test_train_writes_a_head_over_an_unchanged_backbone(data, trained):
    out, session = trained
    assert 'all layers of the backbone stay frozen' in out
    state = torch.load(f'{session}.pth', weights_only=True)
    before = torch.load(data / 'tiny.pth', weights_only=True)
    for key, value in before.items():
        if f'model.{key}' in state and 'num_batches_tracked' not in key:
            assert torch.equal(state[f'model.{key}'], value), key
    assert 'boundary.weight' in state and len(state['boundary.weight'][0]) == 160
    records = [json.loads(line) for line in Path(f'{session}.jsonl').read_text().splitlines()]
    assert [record['step'] for record in records] == [0, 1, 2, 3]
    for record in records:
        expected = record['loss_bg'] / 4 + record['loss_fg'] / 4 + record['loss_neg'] / 2
        assert record['loss'] == pytest.approx(expected, rel=1e-5)
    assert files(session.parent) == ['irn.jsonl', 'irn.log', 'irn.pth']


def test_train_continues_to_the_same_weights(
    data, labels, trained, tmp_path, run, refused, monkeypatch
):
    from network.refiners import irn

    real, calls = irn.affinity_loss, []

    def broken(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(irn, 'affinity_loss', broken)
    session = tmp_path / 'again' / 'irn'
    flags = train_flags(data, labels, session, '--save_every', 3)
    assert run('aff_train', *flags)[0] == 130
    other = train_flags(data, labels, session, '--save_every', 3, '--lr', 0.2)
    refused('aff_train', other, 'lr = 0.1, now lr = 0.2')
    assert run('aff_train', *flags)[0] == 0 and len(calls) == 5  # one step was left
    state = torch.load(f'{session}.pth', weights_only=True)
    expected = torch.load(f'{trained[1]}.pth', weights_only=True)
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_train_over_the_resnet38_of_stage_1(data, labels, tmp_path, run):
    weights = tmp_path / 'seam.pth'
    save_checkpoint(str(weights), fill(resnet38_contrast.Net(0.0625)).state_dict())
    flags = train_flags(data, labels, tmp_path / 'irn', '--max_steps', 1)
    flags = [*flags, '--weights', weights, '--backbone', 'resnet38']
    code, _, err = run('aff_train', *flags)
    assert code == 0, err
    state = torch.load(tmp_path / 'irn.pth', weights_only=True)
    assert state['boundary.weight'].shape == (1, 4 * 32, 1, 1)
    code, _, err = run('aff_infer', *infer_flags(data, tmp_path / 'irn.pth', '--out_rw', tmp_path))
    assert code == 0, err


def test_train_bad_input(data, labels, tmp_path, run, refused):
    session = tmp_path / 'bad' / 'irn'

    def bad(*parts, more=(), without=()):
        flags = list(train_flags(data, labels, session, *more))
        for flag in without:
            place = flags.index(flag)
            del flags[place : place + 2]
        refused('aff_train', flags, *parts)

    bad('--label_dir: has to be given for the refiner irn', without=['--label_dir'])
    bad('--la_crf_dir: is for the refiner psa only', more=['--la_crf_dir', tmp_path])
    bad('--la_crf_dir: has to be given', more=['--refiner', 'psa'], without=['--label_dir'])
    bad('none: no such folder', '--irn', more=['--label_dir', tmp_path / 'none'])
    bad('--crop_size 66: must be a multiple of 4', more=['--crop_size', 66])
    bad('--weights scratch: the boundary head', more=['--weights', 'scratch'])
    for flag in (['--freeze', 'half'], ['--layer_decay', 0.75], ['--grad_checkpointing']):
        bad(f'{flag[0]}: the backbone of irn is frozen as a whole', more=flag)
    alphas = tmp_path / 'aff_crf'
    flags = [flag for flag in prepare_flags(data, alphas, '--alpha', 4) if flag != '--irn']
    assert run('aff_prepare', *flags)[0] == 0
    bad('holds the output of aff_prepare (α = 4', more=['--label_dir', alphas / '4.00'])
    psa = ['--refiner', 'psa', '--la_crf_dir', labels, '--ha_crf_dir', alphas / '4.00']
    bad('holds the output of aff_prepare --irn', more=psa, without=['--label_dir'])
    (labels / f'{NAMES[2]}.png').unlink()
    bad(labels / f'{NAMES[2]}.png', 'make the label maps')
    assert not session.parent.exists()


# ---------------------------------------------------------------- aff_infer


def test_infer_knows_a_boundary_checkpoint(data, trained, tmp_path, run, refused):
    _, session = trained
    masks, probs = tmp_path / 'rw', tmp_path / 'prob'
    flags = infer_flags(data, f'{session}.pth', '--out_rw', masks, '--out_rw_prob', probs)
    code, out, err = run('aff_infer', *flags)
    assert code == 0 and '3 made' in out, err
    net = net_from_checkpoint(BOUNDARY, f'{session}.pth')
    walk_set = WalkSet(str(data), NAMES, str(data / 'cam'), None, stride=4)
    for index, (name, classes, size) in enumerate(zip(NAMES, CLASSES, SIZES)):
        mask = read_mask(str(masks / f'{name}.png'), VOC)
        maps = read_maps(str(probs / f'{name}.npy'), VOC, mask.shape)
        ids = [0, *(class_id + 1 for class_id in classes)]
        assert mask.shape == size and list(maps) == ids
        sample = walk_set[index]
        assert sample['cam'].shape == (len(classes), -(-size[0] // 4), -(-size[1] // 4))
        image = normalise(Image.fromarray(sample['picture'].numpy()), *net.normalisation)
        rows = (0, -size[0] % 4)
        columns = (0, -size[1] % 4)
        image = to_tensor(np.pad(image, (rows, columns, (0, 0))))
        with torch.no_grad():
            [boundary] = mean_boundaries(net, image[None])
        walked = boundary_walk(sample['cam'], boundary, beta=10, logt=8)
        scores = scores_with_background(walked, size, 0.25)
        np.testing.assert_array_equal(np.asarray(ids)[scores.argmax(0)], mask)
    before = (masks / f'{NAMES[0]}.png').read_bytes()
    (masks / f'{NAMES[0]}.png').unlink()
    code, out, _ = run('aff_infer', *flags)
    assert code == 0 and '1 made, 2 were there' in out
    assert (masks / f'{NAMES[0]}.png').read_bytes() == before
    refused('aff_infer', [*flags, '--beta', 4], 'beta = 10, now beta = 4', '--overwrite')
    refused('aff_infer', [*flags, '--bg_score', 0.3], 'bg_score = 0.25, now bg_score = 0.3')


def test_the_boundary_is_the_mean_of_the_picture_and_its_mirror_image(data, trained):
    net = net_from_checkpoint(BOUNDARY, f'{trained[1]}.pth')
    image = uniform('image', 3, 40, 52)
    with torch.no_grad():
        boundary, mirrored = mean_boundaries(net, torch.stack([image, image.flip(2)]))
        logits = net(image[None])[0]
        logits_of_mirror = net(image.flip(2)[None])[0].flip(1)
    assert boundary.shape == (10, 13)
    torch.testing.assert_close(mirrored, boundary.flip(1))
    expected = 1 / (1 + torch.exp(-(logits + logits_of_mirror) / 2))
    torch.testing.assert_close(boundary, expected)
