"""tool.predict: any pictures through DeepLab and through a network of stage 1."""

import shutil
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image

from mini import make_voc
from net import generate_net
from network import resnet38_contrast, resnet38_contrast_eps
from network.resnet38_aff import Net as AffNet
from recipe import fill
from segmentation_toy import EXPERIMENTS, config_of, make_devkit
from tool.files.checkpoints import save_checkpoint
from tool.files.npy import write_npy
from tool.files.overlays import LINE
from tool.files.pictures import read_mask
from tool.method.class_set import ClassSet
from utils import testing
from utils.keys import PREDICTION_KEYS
from voc12.classes import VOC

EXPERIMENT = 'SEAM_deeplabv1_resnet38'
TINY = dict(
    MODEL_BACKBONE='resnet38', MODEL_BACKBONE_WIDTH=1 / 16, TEST_MULTISCALE=[0.5, 1], DATA_WORKERS=0
)
COMMAND = 'tool.predict'
# of a run in this process
HERE = ('--device', 'cpu', '--num_workers', 0, '--jobs', 0)


@pytest.fixture(scope='module')
def devkit(tmp_path_factory):
    return make_devkit(tmp_path_factory.mktemp('voc') / 'VOC2012', train=0, val=3)


@pytest.fixture(scope='module')
def deeplab(tmp_path_factory):
    """(checkpoint that carries its config, the same weights without it)."""
    folder = tmp_path_factory.mktemp('deeplab')
    torch.manual_seed(1)
    config = config_of(EXPERIMENT, **TINY)
    state = generate_net(config).state_dict()
    carried = {key: config[key] for key in PREDICTION_KEYS}
    save_checkpoint(str(folder / 'new.pth'), state, VOC, carried)
    save_checkpoint(str(folder / 'old.pth'), state, VOC)
    return folder / 'new.pth', folder / 'old.pth'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    make_voc(root, 3)
    return root


@pytest.fixture
def photos(data, tmp_path):
    """A folder of three pictures, one of them in a folder below."""
    folder = tmp_path / 'photos'
    shutil.copytree(data / 'JPEGImages', folder)
    (folder / 'below').mkdir()
    (folder / '2007_000002.jpg').rename(folder / 'below' / '2007_000002.jpg')
    return folder


@pytest.fixture(scope='module', params=['seam', 'eps'])
def stage1(request, tmp_path_factory):
    """The checkpoint of a network of stage 1."""
    module = resnet38_contrast if request.param == 'seam' else resnet38_contrast_eps
    path = tmp_path_factory.mktemp('weights') / f'{request.param}.pth'
    save_checkpoint(str(path), fill(module.Net(0.0625)).state_dict(), VOC)
    return path


@pytest.fixture(scope='module')
def seam(tmp_path_factory):
    """The checkpoint of a network with two foreground classes."""
    path = tmp_path_factory.mktemp('weights') / 'two.pth'
    net = fill(resnet38_contrast.Net(0.0625, num_classes=3))
    save_checkpoint(str(path), net.state_dict(), ClassSet.of(['cat', 'dog']))
    return path


def masks(folder):
    return {path.stem: path.read_bytes() for path in sorted(folder.glob('*.png'))}


# ---------------------------------------------------------------- equal to the stages


@pytest.mark.parametrize('crf', ['none', 'deeplab'])
def test_deeplab_predicts_what_its_test_script_predicts(devkit, deeplab, tmp_path, run, crf):
    config = config_of(EXPERIMENT, **TINY, DATA_ROOT=str(devkit), TEST_CRF=crf)
    testing.main(
        Namespace(
            config=config,
            split='val',
            list=None,
            weights=str(deeplab[0]),
            out_dir=str(tmp_path / 'test'),
            device='cpu',
            out_no_crf=None,
            submission=None,
            overwrite=False,
            on_error='stop',
            dry_run=False,
            amp='off',
            tf32='on',
            channels_last=False,
            batch_size=None,
            jobs=0,
        )
    )
    more = ('--crf',) if crf == 'deeplab' else ()
    pictures = devkit / 'JPEGImages'
    out = tmp_path / 'out'
    code, printed, _ = run(COMMAND, pictures, '--weights', deeplab[0], '--out', out, *HERE, *more)
    assert code == 0 and '3 made, 0 were there' in printed
    assert 'deeplabv1 over resnet38' in printed
    assert masks(out) == masks(tmp_path / 'test') and len(masks(out)) == 3
    assert len(set(np.unique(read_mask(str(out / '2007_000000.png'), VOC)))) > 1


@pytest.mark.parametrize('crf', [False, True])
def test_stage_1_gives_the_seeds_of_contrast_infer(data, photos, stage1, tmp_path, run, crf):
    flags = ('--weights', stage1, '--scales', 0.5, 1, *HERE)
    seeds = tmp_path / 'seeds'
    kind = '--out_crf' if crf else '--out_cam_pred'
    lists = ('--infer_list', data / 'list.txt', '--voc12_root', data)
    labels = ('--cls_labels', 'predicted:0.3')
    assert run('contrast_infer', *flags, *lists, *labels, kind, seeds)[0] == 0
    out = tmp_path / 'out'
    more = ('--crf',) if crf else ()
    code, _, _ = run(COMMAND, photos, *flags, '--class_threshold', 0.3, '--out', out, *more)
    assert code == 0
    assert masks(out) == masks(seeds) and len(masks(out)) == 3


def test_the_classes_can_be_given(data, photos, seam, tmp_path, run):
    root = tmp_path / 'data'
    shutil.copytree(data, root)
    (root / 'classes.txt').write_text('cat\ndog\n')
    names = (root / 'list.txt').read_text().split()
    dog = np.array([0, 1], np.float32)
    write_npy(str(root / 'cls_labels.npy'), {name: dog for name in names})
    lists = ('--infer_list', root / 'list.txt', '--voc12_root', root)
    labels = ('--cls_labels', root / 'cls_labels.npy')
    flags = ('--weights', seam, '--scales', 1, *HERE)
    score = 0.4
    seeds = ('--out_cam_pred', tmp_path / 'seeds', '--out_cam_pred_alpha', score)
    assert run('contrast_infer', *flags, *lists, *labels, *seeds)[0] == 0
    out = tmp_path / 'out'
    code, _, _ = run(COMMAND, photos, *flags, '--classes', 'dog', '--t', score, '--out', out)
    assert code == 0
    assert masks(out) == masks(tmp_path / 'seeds')
    values = np.unique(np.array(Image.open(out / f'{names[0]}.png')))
    assert values.tolist() == [0, 2]


def test_a_turned_picture_is_upright(photos, seam, tmp_path, run):
    image = Image.open(photos / '2007_000000.jpg')
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / 'turned.jpg', exif=exif)
    out = tmp_path / 'out'
    flags = ('--weights', seam, '--scales', 1, '--classes', 'cat', *HERE)
    assert run(COMMAND, tmp_path / 'turned.jpg', *flags, '--out', out)[0] == 0
    assert Image.open(out / 'turned.png').size == image.size[::-1]


# ---------------------------------------------------------------- pictures for the eye


def test_overlays_and_heat_maps(photos, seam, deeplab, tmp_path, run):
    out = tmp_path / 'cams'
    flags = ('--scales', 1, '--overlay', *HERE)
    assert run(COMMAND, photos, '--weights', seam, '--classes', 'cat', *flags, '--out', out)[0] == 0
    picture = Image.open(photos / '2007_000001.jpg')
    overlay = Image.open(out / 'overlay' / '2007_000001.png')
    assert overlay.size == (picture.width, picture.height + LINE)
    assert Image.open(out / 'heat' / '2007_000001.png').size == picture.size
    mask = np.array(Image.open(out / '2007_000001.png'))
    shown = np.array(overlay)[: picture.height]
    background = mask == 0
    assert background.any() and not background.all()
    assert (shown[background] == np.array(picture)[background]).all()

    out = tmp_path / 'deeplab'
    assert run(COMMAND, photos, '--weights', deeplab[0], *flags, '--out', out)[0] == 0
    assert len(masks(out / 'overlay')) == 3 and not (out / 'heat').exists()


def test_overlays_that_are_asked_for_later_are_made(photos, seam, tmp_path, run):
    flags = (photos, '--weights', seam, '--scales', 1, '--out', tmp_path / 'out', *HERE)
    assert run(COMMAND, *flags)[0] == 0
    before = masks(tmp_path / 'out')
    code, printed, _ = run(COMMAND, *flags, '--overlay')
    assert code == 0 and '3 made' in printed
    assert masks(tmp_path / 'out') == before
    assert len(masks(tmp_path / 'out' / 'overlay')) == 3


# ---------------------------------------------------------------- running again


def test_what_is_complete_is_skipped_and_other_settings_are_refused(
    photos, seam, tmp_path, run, refused
):
    out = tmp_path / 'out'
    flags = (photos, '--weights', seam, '--out', out, '--classes', 'cat', *HERE)
    assert run(COMMAND, *flags, '--scales', 1)[0] == 0
    times = {path.name: path.stat().st_mtime_ns for path in out.glob('*.png')}
    (out / '2007_000001.png').unlink()
    code, printed, _ = run(COMMAND, *flags, '--scales', 1)
    assert code == 0 and '1 made, 2 were there' in printed
    assert (out / '2007_000000.png').stat().st_mtime_ns == times['2007_000000.png']

    refused(COMMAND, (*flags, '--scales', 0.5), 'scales = [1.0], now scales = [0.5]', '--overwrite')
    code, printed, _ = run(COMMAND, *flags, '--scales', 0.5, '--overwrite')
    assert code == 0 and '3 made' in printed


def test_another_picture_of_the_same_name_is_not_taken_for_done(
    photos, seam, tmp_path, run, refused
):
    out = tmp_path / 'out'
    flags = ('--weights', seam, '--out', out, '--classes', 'cat', '--scales', 1, *HERE)
    first = photos / '2007_000000.jpg'
    assert run(COMMAND, first, *flags)[0] == 0
    other = tmp_path / 'other' / first.name
    other.parent.mkdir()
    Image.open(photos / '2007_000001.jpg').save(other)
    refused(COMMAND, (other, *flags), '2007_000000.png: is of another picture than', other)
    # more pictures may come into the folder, and the same picture may come from elsewhere
    moved = tmp_path / 'moved' / first.name
    moved.parent.mkdir()
    shutil.copy(first, moved)
    code, printed, _ = run(COMMAND, moved, photos / '2007_000001.jpg', *flags)
    assert code == 0 and '1 made, 1 were there' in printed


def test_masks_among_the_pictures_are_not_predicted(photos, seam, tmp_path, run, refused):
    out = photos / 'masks'
    flags = ('--weights', seam, '--out', out, '--classes', 'cat', '--scales', 1, *HERE)
    assert run(COMMAND, photos, *flags, '--overlay')[0] == 0
    code, printed, _ = run(COMMAND, photos, *flags, '--overlay')
    assert code == 0 and '3 pictures: 0 made, 3 were there' in printed
    refused(COMMAND, (out, *flags), 'is in --out', 'choose another --out')
    flags = ('--weights', seam, '--out', photos, '--overwrite', *HERE)
    refused(COMMAND, (photos / '2007_000000.jpg', *flags), 'is in --out')
    assert (photos / '2007_000000.jpg').exists()


# ---------------------------------------------------------------- mistakes


def test_a_bad_picture_does_not_end_the_run(photos, seam, tmp_path, run, refused):
    (photos / '2007_000001.jpg').write_bytes(b'no picture')
    Image.new('RGB', (1, 1)).save(photos / 'dot.png')
    flags = (photos, '--weights', seam, '--classes', 'cat', '--scales', 1, *HERE)
    code, printed, err = run(COMMAND, *flags, '--out', tmp_path / 'out')
    assert code == 1 and '1 left out' in printed
    lines = err.splitlines()
    assert any('left out, 1 pictures' in line for line in lines)
    assert '2007_000001.jpg: damaged or not a picture' in lines[-1]
    assert sorted(masks(tmp_path / 'out')) == ['2007_000000', '2007_000002', 'dot']

    refused(COMMAND, (*flags, '--out', tmp_path / 'two', '--on_error', 'stop'), '2007_000001.jpg')


def test_a_picture_of_one_pixel_gets_a_mask(photos, deeplab, tmp_path, run):
    Image.new('RGB', (1, 1)).save(photos / 'dot.png')
    out = tmp_path / 'out'
    assert run(COMMAND, photos, '--weights', deeplab[0], '--out', out, *HERE)[0] == 0
    assert read_mask(str(out / 'dot.png'), VOC).shape == (1, 1)


def test_a_picture_that_cannot_be_scaled_is_left_out(photos, deeplab, tmp_path, run, monkeypatch):
    def fail(image, config):
        raise MemoryError('cannot allocate 9 GB')

    monkeypatch.setattr('utils.predictor.picture_views', fail)
    code, _, err = run(COMMAND, photos, '--weights', deeplab[0], '--out', tmp_path / 'out', *HERE)
    assert code == 1 and 'cannot be scaled (cannot allocate 9 GB)' in err.splitlines()[-1]


def test_a_picture_that_does_not_fit_into_memory_is_left_out(
    photos, seam, tmp_path, run, monkeypatch
):
    from network.cam_inference import CamPredictor

    predict = CamPredictor.predict

    def out_of_memory(self, views, size):
        if size == (80, 101):
            raise torch.OutOfMemoryError('CUDA out of memory')
        return predict(self, views, size)

    monkeypatch.setattr(CamPredictor, 'predict', out_of_memory)
    flags = ('--weights', seam, '--classes', 'cat', '--scales', 1, *HERE)
    code, _, err = run(COMMAND, photos, *flags, '--out', tmp_path / 'out')
    assert code == 1
    assert '2007_000000.jpg: cannot be predicted (CUDA out of memory)' in err.splitlines()[-1]
    assert sorted(masks(tmp_path / 'out')) == ['2007_000001', '2007_000002']


def test_mistakes_are_one_line_and_leave_nothing(photos, seam, deeplab, tmp_path, refused):
    out = tmp_path / 'out'
    end = ('--out', out, *HERE)
    flags = ('--weights', seam, *end)
    (tmp_path / 'empty').mkdir()
    refused(COMMAND, (tmp_path / 'empty', *flags), 'empty: no picture there')
    refused(COMMAND, (photos / 'none.jpg', *flags), 'none.jpg: no such file or folder')
    (tmp_path / 'notes.txt').write_text('')
    refused(COMMAND, (tmp_path / 'notes.txt', *flags), 'notes.txt: is no picture')
    shutil.copy(photos / '2007_000000.jpg', photos / 'below')
    refused(COMMAND, (photos, *flags), 'are both of the name 2007_000000')
    (photos / 'below' / '2007_000000.jpg').unlink()

    refused(COMMAND, (photos, *flags, '--classes', 'cow'), '--classes cow', 'it has cat, dog')
    both = ('--classes', 'cat', '--class_threshold', 0.2)
    refused(COMMAND, (photos, *flags, *both), '--class_threshold 0.2: --classes gives')
    refused(COMMAND, (photos, *flags, '--config', 'TEST_FLIP=no'), '--config', 'of stage 1')
    flags = ('--weights', deeplab[0], *end)
    refused(COMMAND, (photos, *flags, '--classes', 'cat'), '--classes', 'of DeepLab')
    refused(COMMAND, (photos, *flags, '--t', 0.3), '--t', 'of DeepLab')
    refused(COMMAND, (photos, '--weights', tmp_path / 'w.pth', *end), 'w.pth: no such file')
    save_checkpoint(str(tmp_path / 'aff.pth'), AffNet(0.0625).state_dict())
    refused(COMMAND, (photos, '--weights', tmp_path / 'aff.pth', *end), 'of no known baseline')
    assert not out.exists()


def test_the_same_file_may_be_given_twice(photos, seam, tmp_path, run):
    flags = ('--weights', seam, '--classes', 'cat', '--scales', 1, *HERE)
    code, printed, _ = run(
        COMMAND, photos / '2007_000000.jpg', photos, *flags, '--out', tmp_path / 'out'
    )
    assert code == 0 and '3 pictures: 3 made' in printed


# ---------------------------------------------------------------- configs


def test_a_checkpoint_without_config_asks_for_it_in_one_line(
    photos, deeplab, tmp_path, run, refused
):
    new, old = deeplab
    flags = (photos, '--weights', old, '--scales', 1, *HERE)
    refused(
        COMMAND,
        (*flags, '--out', tmp_path / 'out'),
        'old.pth: carries no config',
        '--config MODEL_NAME=… MODEL_BACKBONE=…',
    )
    keys = ('--config', 'MODEL_NAME=deeplabv1', 'MODEL_BACKBONE=resnet38')
    assert run(COMMAND, *flags, *keys, '--out', tmp_path / 'keys')[0] == 0
    file = ('--config', EXPERIMENTS / EXPERIMENT / 'config.py')
    assert run(COMMAND, *flags, *file, '--out', tmp_path / 'file')[0] == 0
    flags = (photos, '--weights', new, '--scales', 1, *HERE)
    assert run(COMMAND, *flags, '--out', tmp_path / 'new')[0] == 0
    assert masks(tmp_path / 'keys') == masks(tmp_path / 'file') == masks(tmp_path / 'new')
    refused(
        COMMAND,
        (*flags, '--config', 'MODEL_BACKBONE=resnet50', '--out', tmp_path / 'other'),
        'new.pth: not a deeplabv1 over resnet50',
    )


# ---------------------------------------------------------------- how it runs


@pytest.mark.parametrize('kind', ['deeplab', 'stage 1'])
def test_16_bits_are_a_setting_of_their_own(photos, seam, deeplab, tmp_path, run, refused, kind):
    flags = ('--scales', 1, '--out', tmp_path / 'out', *HERE)
    if kind == 'deeplab':
        flags = ('--weights', deeplab[0], *flags)
    else:
        flags = ('--weights', seam, '--classes', 'cat', *flags)
    picture = photos / '2007_000000.jpg'
    assert run(COMMAND, picture, *flags, '--amp', 'bf16')[0] == 0
    refused(COMMAND, (picture, *flags), 'amp = bf16, now amp = None')
    code, printed, _ = run(COMMAND, picture, *flags, '--amp', 'bf16')
    assert code == 0 and '0 made, 1 were there' in printed


def test_processes_of_the_crf_load_no_torch():
    code = 'import tool.predict, sys; print("torch" in sys.modules)'
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stdout == 'False\n', result.stderr
