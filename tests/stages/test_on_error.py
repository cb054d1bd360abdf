"""--on_error of every stage over pictures but tool.predict, whose tests are with its others: one
picture, map file or mask that is damaged is skipped and named, with exit code 1, or ends the
stage."""

import os
from argparse import Namespace

import numpy as np
import pytest
import torch

from mini import make_voc
from network import resnet38_aff, resnet38_boundary, resnet38_contrast
from recipe import fill
from segmentation_toy import config_of
from tool.files.checkpoints import save_checkpoint
from tool.files.npy import write_npy
from tool.files.pictures import image_size
from utils import testing

COUNT = 3
BAD = '2007_000001'
GOOD = ['2007_000000', '2007_000002']
# what is wrong with a file
DAMAGES = ('empty', 'cut', 'other', 'nan')
DEEPLAB = {
    'MODEL_BACKBONE': 'resnet38',
    'MODEL_BACKBONE_WIDTH': 1 / 16,
    'TEST_MULTISCALE': [1.0],
    'TEST_CRF': 'none',
}


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """{kind of network: its checkpoint}."""
    from net import generate_net

    folder = tmp_path_factory.mktemp('weights')
    nets = {
        'cam': fill(resnet38_contrast.Net(1 / 16)),
        'aff': fill(resnet38_aff.Net(1 / 16)),
        'irn': fill(resnet38_boundary.Net(1 / 16)),
        'deeplab': generate_net(config_of('SEAM_deeplabv1_resnet38', **DEEPLAB)),
    }
    for kind, net in nets.items():
        save_checkpoint(str(folder / f'{kind}.pth'), net.state_dict())
    return folder


@pytest.fixture
def data(tmp_path):
    """A VOC2012 folder, with CAMs in `cam` and CRF maps in `crf`."""
    root = tmp_path / 'data'
    for name in make_voc(root, COUNT):
        size = image_size(str(root / 'JPEGImages' / f'{name}.jpg'))
        maps = {0: np.full(size, 0.6, np.float32), 1: np.full(size, 0.4, np.float32)}
        for folder in ('cam', 'crf'):
            write_npy(str(root / folder / f'{name}.npy'), maps)
    return root


def damage(path, kind):
    """Damage a file."""
    content = path.read_bytes()
    if kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'cut':  # its header, and so its size, can still be read
        path.write_bytes(content[: len(content) * 2 // 3])
    elif kind == 'other':
        path.write_bytes(b'<html>404 not found</html>')
    else:
        write_npy(str(path), {0: np.full((87, 96), np.nan, np.float32)})


def deeplab(data, weights, out, *more):
    """The segmentation's test; `more` are --on_error and --dry_run."""
    config = config_of('SEAM_deeplabv1_resnet38', **DEEPLAB, DATA_ROOT=str(data), EXP_NAME='e')
    words = list(more)
    return Namespace(
        config=config,
        split='test',
        list=str(data / 'list.txt'),
        weights=str(weights / 'deeplab.pth'),
        out_dir=str(out),
        device='cpu',
        out_no_crf=None,
        submission=None,
        overwrite=False,
        on_error=words[words.index('--on_error') + 1],
        dry_run='--dry_run' in words,
        jobs=0,
        amp='off',
        tf32='on',
        channels_last=False,
        batch_size=1,
    )


def command(stage, data, weights, out):
    """(script, flags) of a stage."""
    voc = ('--voc12_root', data, '--jobs', 0)
    infer = ('--infer_list', data / 'list.txt', *voc)
    network = ('--num_workers', 0, '--device', 'cpu')
    cams = ('--cam_dir', data / 'cam')
    labels = ('--cls_labels', data / 'cls_labels.npy', '--scales', 1)
    cam_net = ('--weights', weights / 'cam.pth', *network)
    aff_net = ('--weights', weights / 'aff.pth', *network)
    irn_net = ('--weights', weights / 'irn.pth', *network)
    masks = ('--mask_dir', data / 'SegmentationClass', '--list', data / 'list.txt', '--jobs', 0)
    crf_maps = ('--crf_dir', data / 'crf', '--list', data / 'list.txt', '--jobs', 0)
    commands = {
        'contrast_infer': ('contrast_infer', *infer, *labels, *cam_net, '--out_cam', out),
        'aff_prepare': ('aff_prepare', *infer, *cams, '--out_crf', out, '--alpha', 4),
        'aff_infer': ('aff_infer', *infer, *cams, *aff_net, '--out_rw', out),
        'aff_prepare_irn': ('aff_prepare', *infer, *cams, '--irn', '--out_crf', out),
        'aff_infer_irn': ('aff_infer', *infer, *cams, *irn_net, '--out_rw', out),
        'make_saliency': ('voc12.make_saliency', *masks, '--out_dir', out),
        'seed_masks': (
            'tool.seed_masks',
            *('--list', data / 'list.txt', *voc, *cams, '--t', 0.3, '--out_png', out),
        ),
        'make_pseudo_masks': ('tool.make_pseudo_masks', *crf_maps, '--out_dir', out),
    }
    return commands[stage]


def call(stage, run, capfd, data, weights, out, *more):
    """Run a stage → (exit code, stdout, stderr)."""
    if stage != 'test':
        return run(*command(stage, data, weights, out), *more)
    code = 0
    try:
        testing.main(deeplab(data, weights, out, *more))
    except SystemExit as stop:
        code = stop.code
    return (code, *capfd.readouterr())


def made(out):
    """The names of the pictures that have a file below a folder."""
    return sorted(path.stem for path in out.rglob('*.[np][pn][yg]'))


REFINING = ['aff_prepare', 'aff_infer', 'aff_prepare_irn', 'aff_infer_irn']


@pytest.mark.parametrize('kind', DAMAGES)
@pytest.mark.parametrize('stage', [*REFINING, 'seed_masks', 'make_pseudo_masks'])
def test_a_damaged_map_file(data, weights, tmp_path, run, capfd, stage, kind):
    folder = 'crf' if stage == 'make_pseudo_masks' else 'cam'
    damage(data / folder / f'{BAD}.npy', kind)
    check(data, weights, tmp_path, run, capfd, stage, f'{folder}/{BAD}.npy')


@pytest.mark.parametrize('kind', ['cut', 'other'])
@pytest.mark.parametrize('stage', ['contrast_infer', *REFINING, 'test'])
def test_a_damaged_picture(data, weights, tmp_path, run, capfd, stage, kind):
    damage(data / 'JPEGImages' / f'{BAD}.jpg', kind)
    if kind != 'cut':  # the sizes of pictures, which a dry run reads, say so already
        dry_run = ('--on_error', 'skip', '--dry_run')
        _, printed, _ = call(stage, run, capfd, data, weights, tmp_path / 'out', *dry_run)
        assert f'1 would be left out, e.g. {data}/JPEGImages/{BAD}.jpg: ' in printed
    check(data, weights, tmp_path, run, capfd, stage, f'JPEGImages/{BAD}.jpg')


@pytest.mark.parametrize('kind', ['empty', 'cut', 'other'])
def test_a_damaged_mask(data, weights, tmp_path, run, capfd, kind):
    damage(data / 'SegmentationClass' / f'{BAD}.png', kind)
    check(data, weights, tmp_path, run, capfd, 'make_saliency', f'SegmentationClass/{BAD}.png')


def check(data, weights, tmp_path, run, capfd, stage, bad_file):
    """The stage skips what is damaged, and does so again; with 'stop' it ends in one line."""
    torch.manual_seed(0)
    out = tmp_path / 'out'
    skip = (run, capfd, data, weights, out, '--on_error', 'skip')
    code, _, err = call(stage, *skip, '--dry_run')
    assert code == 0 and not os.path.exists(out), err
    for _ in range(2):
        code, printed, err = call(stage, *skip)
        assert code == 1 and 'Traceback' not in err, err
        assert 'left out' in printed and bad_file in err.splitlines()[-1]
        assert made(out) == GOOD
    if stage != 'test':
        stop = ('--on_error', 'stop')
        code, _, err = run(*command(stage, data, weights, tmp_path / 'stop'), *stop)
        assert code == 2 and bad_file in err.splitlines()[-1] and 'Traceback' not in err, err
        assert BAD not in made(tmp_path / 'stop')
