"""--batch_size of inference: pictures that go through a network together have the files that they
have one by one, and one that cannot be read is left out alone."""

import shutil

import numpy as np
import pytest
import torch

from net import generate_net
from network import resnet38_aff, resnet38_contrast, views
from network.baselines import baseline
from recipe import fill, uniform
from segmentation_toy import config_of, make_devkit
from tool.files.checkpoints import save_checkpoint
from tool.files.npy import read_npy, write_npy
from tool.files.pictures import read_mask
from utils.keys import PREDICTION_KEYS
from voc12.classes import VOC

EXPERIMENT = 'SEAM_deeplabv1_resnet38'
SMALL = 1 / 16
COUNT = 5
ON_CPU = ('--num_workers', 0, '--jobs', 0, '--device', 'cpu')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Five pictures, of two sizes, with CAMs; the third of them is cut in half."""
    root = make_devkit(tmp_path_factory.mktemp('data') / 'VOC2012', train=0, val=COUNT)
    other = make_devkit(tmp_path_factory.mktemp('other') / 'VOC2012', train=0, val=COUNT, size=56)
    names = sorted(path.stem for path in (root / 'JPEGImages').iterdir())
    shutil.copy(other / 'JPEGImages' / f'{names[1]}.jpg', root / 'JPEGImages')
    (root / 'list.txt').write_text('\n'.join(names))
    labels = {}
    for number, name in enumerate(names):
        size = (56, 64) if number == 1 else (64, 72)
        classes = [3, 11][: 1 + number % 2]
        cam = {}
        for class_id in classes:
            cam[class_id] = uniform(f'{name} {class_id}', *size).numpy()
        write_npy(str(root / 'cam' / f'{name}.npy'), cam)
        labels[name] = np.isin(np.arange(20), classes).astype(np.float32)
    write_npy(str(root / 'cls_labels.npy'), labels)
    damaged = root / 'JPEGImages' / f'{names[2]}.jpg'
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    return root


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """{command: its checkpoint}."""
    folder = tmp_path_factory.mktemp('weights')
    cam = fill(resnet38_contrast.Net(SMALL)).state_dict()
    save_checkpoint(str(folder / 'contrast_infer.pth'), cam)
    save_checkpoint(str(folder / 'aff_infer.pth'), fill(resnet38_aff.Net(SMALL)).state_dict())
    small = {'MODEL_BACKBONE': 'resnet38', 'MODEL_BACKBONE_WIDTH': SMALL}
    config = config_of(EXPERIMENT, TEST_MULTISCALE=[0.5, 1], **small)
    torch.manual_seed(1)
    state = generate_net(config).state_dict()
    carried = {key: config[key] for key in PREDICTION_KEYS}
    save_checkpoint(str(folder / 'tool.predict.pth'), state, VOC, carried)
    return {path.stem: path for path in folder.iterdir()}


def flags_of(command, data, weights, out):
    common = ('--weights', weights[command], '--on_error', 'skip', *ON_CPU)
    if command == 'tool.predict':
        return (data / 'JPEGImages', '--out', out / 'png', *common)
    lists = ('--infer_list', data / 'list.txt', '--voc12_root', data)
    if command == 'aff_infer':
        outputs = ('--out_rw', out / 'png', '--out_rw_prob', out / 'npy')
        return (*common, *lists, *outputs, '--cam_dir', data / 'cam')
    outputs = ('--out_cam', out / 'npy', '--out_cam_pred', out / 'png')
    labels = ('--cls_labels', data / 'cls_labels.npy', '--scales', 0.5, 1)
    return (*common, *lists, *outputs, *labels)


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob('*.[np][pn][yg]'))


@pytest.mark.parametrize('command', ['contrast_infer', 'aff_infer', 'tool.predict'])
def test_a_batch_makes_the_files_of_its_pictures(
    command, data, weights, tmp_path, run, monkeypatch
):
    monkeypatch.setattr(baseline, 'cam_passes', lambda view: views.passes(view, least=2))
    sizes = []
    for folder, batch in (('one', 1), ('three', 3)):
        taken = []

        def watch(images, least=1, taken=taken):
            taken.append(len(images))
            return [images]

        monkeypatch.setattr(views, 'passes', watch)
        monkeypatch.setattr('network.refiners.psa.passes', watch)
        monkeypatch.setattr('utils.testing.passes', watch)
        flags = flags_of(command, data, weights, tmp_path / folder)
        code, out, err = run(command, *flags, '--batch_size', batch)
        assert code == 1 and f'{COUNT - 1} made, 0 were there, 1 left out' in out, err
        assert '2007_000002' in err.splitlines()[-1]
        sizes.append(max(taken))
        # what is complete counts, whatever the size of the batches was
        _, out, _ = run(command, *flags, '--batch_size', 2)
        assert f'0 made, {COUNT - 1} were there, 1 left out' in out
    assert sizes[1] == 3 * sizes[0]
    made = files(tmp_path / 'one')
    assert made == files(tmp_path / 'three')
    assert len(made) == (COUNT - 1) * (1 if command == 'tool.predict' else 2)
    for file in made:
        paths = [str(tmp_path / folder / file) for folder in ('one', 'three')]
        if file.suffix == '.png':
            alone, together = (read_mask(path, VOC) for path in paths)
            assert (alone == together).mean() > 0.999
            continue
        alone, together = (read_npy(path) for path in paths)
        assert list(alone) == list(together)
        for class_id, maps in alone.items():
            np.testing.assert_allclose(maps, together[class_id], rtol=1e-3, atol=1e-4)


def test_a_picture_that_does_not_fit_beside_others_is_tried_alone(
    data, weights, tmp_path, run, monkeypatch
):
    from utils.predictor import SegmentationPredictor

    predict = SegmentationPredictor.predict
    tried = []

    def out_of_memory(self, views, size):
        tried.append((len(views), size))
        if len(views) > 1 or size == (56, 64):
            raise torch.OutOfMemoryError('CUDA out of memory')
        return predict(self, views, size)

    monkeypatch.setattr(SegmentationPredictor, 'predict', out_of_memory)
    flags = flags_of('tool.predict', data, weights, tmp_path)
    code, out, err = run('tool.predict', *flags, '--batch_size', 3)
    assert code == 1 and '3 made, 0 were there, 2 left out' in out
    assert '2007_000001.jpg: cannot be predicted (CUDA out of memory)' in err
    assert sorted(tried) == [(1, (56, 64))] + [(1, (64, 72))] * 3 + [(3, (64, 72))]
