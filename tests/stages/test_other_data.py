"""What the training scripts learn from: a state continues on nothing else.

tests/train/test_set_up.py proves that a state of other data is refused.
"""

import shutil
from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

import aff_train
import contrast_train
from mini import make_voc
from network.baselines import BASELINES
from network.refiners import find_refiner
from segmentation_toy import config_of
from tool.files.npy import read_npy, write_npy
from tool.files.pictures import write_mask
from tool.run.errors import UserError
from tool.train import set_up
from tool.train.inputs import record
from utils import training
from voc12.classes import VOC


@pytest.fixture
def data(tmp_path):
    """A folder of four pictures with all that the trainings learn from."""
    root = tmp_path / 'data'
    names = make_voc(root)
    for name in names:
        with Image.open(root / 'JPEGImages' / f'{name}.jpg') as picture:
            width, height = picture.size
        for folder, score in (('la', 0.3), ('ha', 0.6)):
            maps = {0: np.full((height, width), score, np.float32)}
            write_npy(str(root / folder / f'{name}.npy'), maps)
    return root


def of_contrast(root):
    args = Namespace(
        train_list=str(root / 'list.txt'),
        cls_labels=str(root / 'cls_labels.npy'),
        voc12_root=str(root),
        saliency_root=str(root / 'SALImages'),
    )
    return record(contrast_train.read_inputs(args, BASELINES['eps'], VOC)[2])


def of_affinity(root):
    args = Namespace(
        train_list=str(root / 'list.txt'),
        voc12_root=str(root),
        la_crf_dir=str(root / 'la'),
        ha_crf_dir=str(root / 'ha'),
    )
    return record(aff_train.read_inputs(args, find_refiner('psa'), VOC)[1])


def of_boundary(root):
    """The ground truth stands for the label maps: it is of no stage, so it is taken as it is."""
    args = Namespace(
        train_list=str(root / 'list.txt'),
        voc12_root=str(root),
        label_dir=str(root / 'SegmentationClass'),
    )
    return record(aff_train.read_inputs(args, find_refiner('irn'), VOC)[1])


def config(root, **changes):
    return config_of(
        'EPS_deeplabv1_resnet101',
        **{
            'DATA_ROOT': str(root),
            'DATA_PSEUDO_GT': str(root / 'SegmentationClass'),
            'DATA_TRAIN_LIST': str(root / 'list.txt'),
            'MODEL_SAVE_DIR': str(root / 'deeplab'),
            **changes,
        },
    )


def of_segmentation(root):
    return record(training.learned_from(config(root), training.read_inputs(config(root))))


READERS = {
    'contrast': of_contrast,
    'affinity': of_affinity,
    'boundary': of_boundary,
    'segmentation': of_segmentation,
}
FIRST = '2007_000000'


def shorter_list(root):
    names = (root / 'list.txt').read_text().splitlines()
    (root / 'list.txt').write_text('\n'.join(names[:3]))


def other_labels(root):
    path = str(root / 'cls_labels.npy')
    write_npy(path, {name: np.roll(label, 1) for name, label in read_npy(path).items()})


def other_picture(root):
    path = root / 'JPEGImages' / f'{FIRST}.jpg'
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    Image.fromarray(255 - pixels).save(path)


def other_saliency(root):
    path = root / 'SALImages' / f'{FIRST}.png'
    with Image.open(path) as saliency:
        values = np.asarray(saliency)
    Image.fromarray(255 - values).save(path)


def other_mask(root):
    path = root / 'SegmentationClass' / f'{FIRST}.png'
    with Image.open(path) as mask:
        size = mask.size
    write_mask(str(path), np.zeros((size[1], size[0]), np.uint8))


def exchanged_maps(root):
    (root / 'la').rename(root / 'old la')
    (root / 'ha').rename(root / 'la')
    (root / 'old la').rename(root / 'ha')


@pytest.mark.parametrize(
    'reader, change, kinds',
    [
        ('contrast', shorter_list, ['list', 'labels', 'pictures', 'saliency maps']),
        ('contrast', other_labels, ['labels']),
        ('contrast', other_picture, ['pictures']),
        ('contrast', other_saliency, ['saliency maps']),
        ('contrast', other_mask, []),
        ('affinity', shorter_list, ['list', 'pictures', 'low-α maps', 'high-α maps']),
        ('affinity', other_picture, ['pictures']),
        ('affinity', exchanged_maps, ['low-α maps', 'high-α maps']),
        ('affinity', other_labels, []),
        ('boundary', shorter_list, ['list', 'pictures', 'label maps']),
        ('boundary', other_picture, ['pictures']),
        ('boundary', other_mask, ['label maps']),
        ('segmentation', shorter_list, ['list', 'pictures', 'pseudo masks']),
        ('segmentation', other_picture, ['pictures']),
        ('segmentation', other_mask, ['pseudo masks']),
    ],
)
def test_what_changed_is_known_by_its_kind(data, reader, change, kinds):
    before = READERS[reader](data)
    change(data)
    after = READERS[reader](data)
    assert [kind for kind in before if before[kind] != after[kind]] == kinds


@pytest.mark.parametrize('reader', READERS)
def test_a_copy_of_the_data_is_the_same_data(data, tmp_path, reader):
    shutil.copytree(data, tmp_path / 'copy', copy_function=shutil.copyfile)
    assert READERS[reader](tmp_path / 'copy') == READERS[reader](data)


@pytest.fixture
def runs(monkeypatch):
    """The runs that the scripts would train."""
    found = []
    monkeypatch.setattr(set_up, 'train', found.append)
    return found


FLAGS = ('--weights', 'scratch', '--width', 0.0625, '--num_workers', 0, '--device', 'cpu')


def test_the_scripts_say_what_they_are_and_what_they_read(data, run, runs):
    common = [*FLAGS, '--voc12_root', data, '--train_list', data / 'list.txt', '--batch_size', 2]
    common += ['--session_name', data / 'run']
    labels = ['--cls_labels', data / 'cls_labels.npy', '--baseline', 'seam']
    assert run('contrast_train', *common, *labels)[0] == 0
    maps = ['--la_crf_dir', data / 'la', '--ha_crf_dir', data / 'ha']
    assert run('aff_train', *common, *maps)[0] == 0
    small = {'MODEL_BACKBONE': 'resnet18', 'TRAIN_BATCHES': 2, 'TRAIN_SAVE_ITERS': 5}
    training.main(
        Namespace(
            config=config(data, DATA_WORKERS=0, **small),
            device='cpu',
            no_resume=False,
            dry_run=False,
        )
    )
    of_cam, of_affinities, of_deeplab = runs
    assert [item.stage for item in runs] == ['contrast_train', 'aff_train', 'segmentation']
    assert list(record(of_cam.inputs)) == ['list', 'labels', 'pictures']
    assert of_cam.reads == ['scratch', f'{data}/list.txt', f'{data}/cls_labels.npy']
    assert of_cam.options.tblog_dir == f'{data}/run_tblog'
    assert of_affinities.reads == ['scratch', f'{data}/list.txt']
    assert of_deeplab.reads == [''] and of_deeplab.checkpoint_every == 5
    # where files are does not decide the weights
    for item in runs:
        assert str(data) not in str(set_up.settings_of(item))


def test_deeplab_does_not_replace_the_weights_that_it_starts_from(data, tmp_path):
    path = data / 'deeplab' / 'e.pth'
    with pytest.raises(UserError, match='e.pth: this training reads it and would replace it'):
        from net import generate_net
        from tool.files.checkpoints import save_checkpoint

        small = config(
            data,
            MODEL_BACKBONE='resnet38',
            MODEL_BACKBONE_WIDTH=1 / 16,
            EXP_NAME='e',
            DATA_WORKERS=0,
            DATA_RANDOMCROP=32,
            TRAIN_BATCHES=2,
        )
        save_checkpoint(str(path), generate_net(small).state_dict())
        start = {**small, 'MODEL_BACKBONE_PRETRAIN': str(path)}
        training.main(Namespace(config=start, device='cpu', no_resume=False, dry_run=False))
