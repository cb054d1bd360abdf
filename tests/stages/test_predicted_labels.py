"""contrast_infer.py --cls_labels predicted: classes from the network itself, and their table."""

import json

import numpy as np
import pytest
import torch

from contrast_infer import PredictedLabels, label_source
from mini import make_voc
from network.baselines import BASELINES
from network.cam_inference import nearest_to_1, view_of
from network.weights import find_net
from recipe import fill
from tool.files.checkpoints import save_checkpoint
from tool.files.maps import read_cam
from tool.files.npy import write_npy
from tool.files.pictures import read_mask
from voc12.classes import VOC
from voc12.data import MultiScaleSet

SMALL = 0.0625
SCALES = [0.5, 1.0, 1.5]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The toy pictures; known.npy has the labels of three of the four, and no cls_labels.npy."""
    root = tmp_path_factory.mktemp('data')
    names = make_voc(root)
    labels = np.load(root / 'cls_labels.npy', allow_pickle=True).item()
    del labels[names[3]]
    write_npy(str(root / 'known.npy'), labels)
    (root / 'cls_labels.npy').unlink()
    return root


@pytest.fixture(scope='module', params=['seam', 'eps'])
def checkpoint(request, tmp_path_factory):
    """(baseline, network, path of its checkpoint)."""
    baseline = BASELINES[request.param]
    net = fill(find_net(baseline.network)(SMALL)).eval()
    path = tmp_path_factory.mktemp('weights') / 'net.pth'
    save_checkpoint(str(path), net.state_dict())
    return baseline, net, path


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    net = fill(find_net(BASELINES['seam'].network)(SMALL))
    path = tmp_path_factory.mktemp('weights') / 'seam.pth'
    save_checkpoint(str(path), net.state_dict())
    return path


def flags(data, weights, source, *more):
    return (
        *('--weights', weights, '--infer_list', data / 'list.txt', '--voc12_root', data),
        *('--cls_labels', source, '--scales', *SCALES),
        *('--num_workers', 0, '--jobs', 0, '--device', 'cpu', *more),
    )


def listed(data):
    return (data / 'list.txt').read_text().split()


def probabilities_of(data, baseline, net):
    """{name: float32 [K]} of the toy pictures, from the plain network's scores at scale 1."""
    foreground = slice(1, 21) if baseline.name == 'seam' else slice(0, 20)
    found = {}
    for item in MultiScaleSet(str(data), listed(data), None, [1.0]):
        view = view_of(net, item['pictures'], torch.device('cpu'))
        with torch.no_grad():
            scores = net(view, classify=True) if baseline.name == 'seam' else net(view)[0]
        found[item['name']] = scores[:, foreground].mean(0).sigmoid().numpy()
    return found


@pytest.mark.parametrize('text, threshold', [('predicted', 0.5), ('predicted:0.30', 0.3)])
def test_a_source_of_labels(text, threshold):
    assert label_source(text) == PredictedLabels(threshold)
    assert str(label_source(text)) == f'predicted:{threshold}'


def test_other_sources_are_paths():
    for path in ('voc12/cls_labels.npy', './predicted', 'predicted.npy', 'data/predicted:1'):
        assert label_source(path) == path


def test_the_scale_of_the_prediction():
    assert nearest_to_1([0.5, 1.0, 1.5, 2.0]) == 1
    assert nearest_to_1([2.0, 0.75, 0.5]) == 1
    assert nearest_to_1([0.5, 1.5]) == 0


def test_cams_are_those_of_the_predicted_classes(data, checkpoint, tmp_path, run):
    baseline, net, weights = checkpoint
    cams, masks = tmp_path / 'cam', tmp_path / 'png'
    outputs = ('--out_cam', cams, '--out_cam_pred', masks)
    code, _, err = run('contrast_infer', *flags(data, weights, 'predicted:0.745', *outputs))
    assert code == 0, err
    found = set()
    for name, probabilities in probabilities_of(data, baseline, net).items():
        own = np.flatnonzero(probabilities >= 0.745).tolist()
        cam = read_cam(str(cams / f'{name}.npy'), VOC)
        assert sorted(cam) == own
        assert all(abs(value.max() - 1) < 2e-3 for value in cam.values())
        mask = read_mask(str(masks / f'{name}.png'), VOC)
        assert set(np.unique(mask).tolist()) <= {0} | {key + 1 for key in own}
        found.add(tuple(own))
    assert len(found) == 2  # the pictures do not all have the same classes
    for folder in (cams, masks):
        manifest = json.loads((folder / '.manifest.json').read_text())
        assert manifest['cls_labels'] == 'predicted:0.745'


def test_a_picture_without_a_class_is_background(data, weights, tmp_path, run):
    folders = [tmp_path / name for name in ('cam', 'png', 'crf')]
    outputs = zip(('--out_cam', '--out_cam_pred', '--out_crf'), folders)
    words = [word for pair in outputs for word in pair]
    assert run('contrast_infer', *flags(data, weights, 'predicted:0.99', *words))[0] == 0
    for name in listed(data):
        truth = read_mask(str(data / 'SegmentationClass' / f'{name}.png'), VOC)
        assert read_cam(str(folders[0] / f'{name}.npy'), VOC) == {}
        for folder in folders[1:]:
            mask = read_mask(str(folder / f'{name}.png'), VOC)
            assert mask.shape == truth.shape and not mask.any()


def test_cams_of_predicted_classes_equal_those_of_the_same_labels(data, weights, tmp_path, run):
    """A label file of the predicted classes gives the same files, and its manifest names none."""
    run('contrast_infer', *flags(data, weights, 'predicted:0.745', '--out_cam', tmp_path / 'one'))
    labels = {}
    for name in listed(data):
        cam = read_cam(str(tmp_path / 'one' / f'{name}.npy'), VOC)
        labels[name] = np.isin(np.arange(20), list(cam)).astype(np.float32)
    write_npy(str(tmp_path / 'labels.npy'), labels)
    again = flags(data, weights, tmp_path / 'labels.npy', '--out_cam', tmp_path / 'two')
    assert run('contrast_infer', *again)[0] == 0
    for name in listed(data):
        one, two = (tmp_path / folder / f'{name}.npy' for folder in ('one', 'two'))
        assert one.read_bytes() == two.read_bytes()
    assert 'cls_labels' not in json.loads((tmp_path / 'two' / '.manifest.json').read_text())


def test_another_threshold_is_refused(data, weights, tmp_path, run, refused):
    def with_source(source):
        return flags(data, weights, source, '--out_cam', tmp_path / 'cam')

    assert run('contrast_infer', *with_source('predicted'))[0] == 0
    difference = 'cls_labels = predicted:0.5, now cls_labels = '
    refused('contrast_infer', with_source('predicted:0.3'), difference + 'predicted:0.3')
    write_npy(str(tmp_path / 'all.npy'), dict.fromkeys(listed(data), np.ones(20, np.float32)))
    refused('contrast_infer', with_source(tmp_path / 'all.npy'), difference + 'None')
    code, out, _ = run('contrast_infer', *with_source('predicted:0.50'))
    assert code == 0 and '4 already complete' in out


def test_the_table_counts_the_pictures_made_here(data, weights, tmp_path, run, monkeypatch):
    cam, known = tmp_path / 'cam', data / 'known.npy'
    words = flags(data, weights, 'predicted:0.58', '--out_cam', cam, '--known_labels', known)
    # classes 2, 3, 4, 10, 14, 17, 19 of every picture; the labels have 0, 1, 0 and 11
    code, out, _ = run('contrast_infer', *words)
    head = 'over 3 pictures made in this run; not among them: 0 already complete, 1 without'
    assert code == 0 and f'classes (predicted:0.58) against {known}, {head}' in out
    table = out[out.index('known label\n') :].splitlines()[1:-1]
    rows = {line.split()[0]: line.split()[1:] for line in table}
    assert len(table) == 1 + 20 + 2
    assert rows['aeroplane'] == ['2', '0', '-', '0.00']
    assert rows['bird'] == ['0', '3', '0.00', '-']
    assert rows['cow'] == ['0', '0', '-', '-']
    assert rows['mean'] == ['of', 'classes', '(macro)', '-', '0.00']
    assert rows['all'] == ['decisions', '(micro)', '4', '21', '0.00', '0.00']

    (cam / f'{listed(data)[0]}.npy').unlink()
    (cam / f'{listed(data)[1]}.npy').unlink()
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '2')
    _, out, _ = run('contrast_infer', *words)
    assert 'over 1 pictures made in this run, by the first of 2 processes;' in out
    assert 'not among them: 1 already complete, 0 without' in out
    monkeypatch.setenv('RANK', '1')
    assert run('contrast_infer', *words)[1] == ''

    monkeypatch.setenv('WORLD_SIZE', '1')
    monkeypatch.setenv('RANK', '0')
    _, out, _ = run('contrast_infer', *words)
    assert 'over 0 pictures made in this run;' in out and 'macro' not in out


def test_bad_flags_are_refused(data, weights, tmp_path, refused):
    out = tmp_path / 'cam'

    def check(source, *parts, known=()):
        refused('contrast_infer', flags(data, weights, source, '--out_cam', out, *known), *parts)
        assert not out.exists()

    check('predicted:2', '--cls_labels', 'predicted:2: the threshold 2 is out of range')
    check('predicted:-0.1', 'out of range: at least 0 and at most 1')
    check('predicted:nan', 'is no finite number')
    check('predicted:x', "predicted:x: the threshold 'x' is not a number")
    check('predicted:', 'not a number')
    check('./predicted', './predicted: no such file')
    known = ('--known_labels', data / 'known.npy')
    check(data / 'known.npy', '--known_labels', '--cls_labels predicted', known=known)
    check('predicted', 'none.npy', known=('--known_labels', tmp_path / 'none.npy'))
    write_npy(str(tmp_path / 'others.npy'), {'other': np.ones(20, np.float32)})
    known = ('--known_labels', tmp_path / 'others.npy')
    check('predicted', 'others.npy: no label for any image of', 'list.txt', known=known)
