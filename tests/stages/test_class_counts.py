"""Every stage on data of 1, 3 and 80 classes: what it writes is of these classes, and it refuses
checkpoints of others."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import segmentation_toy
from tool.files.checkpoints import class_set_of, load_checkpoint
from tool.files.lists import read_list
from tool.files.maps import read_cam, read_maps
from tool.files.pictures import read_mask, write_mask
from tool.run import command_line
from utils import testing, training
from voc12.layout import class_set

PICTURES = 8
TRAIN = (
    *('--weights', 'scratch', '--width', 1 / 32, '--batch_size', 2, '--max_steps', 2),
    *('--crop_size', 64, '--num_workers', 0, '--tblog_dir', '', '--device', 'cpu'),
)
CPU = ('--num_workers', 0, '--jobs', 0, '--device', 'cpu')


@pytest.fixture(params=[1, 3, 80])
def count(request):
    return request.param


@pytest.fixture
def data(tmp_path, run, count):
    """Generated pictures of that many classes at half their size, with free names and endings."""
    root = tmp_path / 'data'
    flags = ('--out', root, '--images', PICTURES, '--val', 2, '--classes', count, '--jobs', 0)
    assert run('voc12.synth', *flags)[0] == 0
    for folder in ('JPEGImages', 'SegmentationClass', 'SegmentationClassAug', 'SALImages'):
        for path in (root / folder).glob('*.*g'):
            picture = Image.open(path)
            kind = Image.Resampling.BILINEAR if path.suffix == '.jpg' else Image.Resampling.NEAREST
            half = picture.resize((picture.width // 2, picture.height // 2), kind)
            ending = '.PNG' if path.stem.endswith('1') and folder == 'JPEGImages' else path.suffix
            path.unlink()
            half.save(root / folder / (free_name(path.stem) + ending))
    for path in (root / 'ImageSets' / 'Segmentation').iterdir():
        names = map(free_name, path.read_text().split())
        path.write_text('\n'.join(names), encoding='utf-8')
    lists_flags = ('--voc12_root', root, '--out_dir', root / 'lists', '--jobs', 0)
    assert run('voc12.make_lists', *lists_flags)[0] == 0
    return root


def free_name(name):
    """'train_000003' → 'my picture №3 v1.train'."""
    split, number = name.split('_')
    return f'my picture №{int(number)} v1.{split}'


@pytest.fixture
def segment(monkeypatch, capfd):
    """segment(module, *flags): train or test a DeepLab v1 over ResNet-38 of width 1/32."""

    def call(module, *flags, **changes):
        config = segmentation_toy.config_dict_of('SEAM_deeplabv1_resnet38') | changes
        monkeypatch.setattr(sys, 'argv', ['segment.py', *map(str, flags)])
        try:
            command_line.run(module.main, lambda: module.parse_args(config))
            code = 0
        except SystemExit as stop:
            code = stop.code
        return (code, *capfd.readouterr())

    return call


def lists(root):
    return ('--voc12_root', root, '--cls_labels', root / 'lists' / 'cls_labels.npy')


def carried(path):
    """The class names of a checkpoint."""
    state = load_checkpoint(str(path))
    assert torch.is_tensor(next(iter(state.values())))
    return class_set_of(state, str(path))


@pytest.mark.slow
def test_every_stage(tmp_path, data, count, run, refused, segment, monkeypatch):
    # the folders of tests have long names, and whole lines are looked at here
    monkeypatch.setattr('tool.run.errors.LONGEST_LINE', 1000)
    classes, names = class_set(str(data)), read_list(str(data / 'lists' / 'train.txt'))
    assert classes.num_foreground == count
    # 1: CAMs
    kinds = {'seam': ()}
    if count == 3:
        saliency = ('--saliency_root', data / 'SALImages')
        kinds |= {'eps': saliency, 'aware': ('--prototypes', 'label_aware')}
    for kind, more in kinds.items():
        baseline = 'eps' if kind == 'eps' else 'seam'
        flags = ('--session_name', tmp_path / kind, '--baseline', baseline, *more)
        train = (*TRAIN, *lists(data), '--train_list', data / 'lists' / 'train_aug.txt', *flags)
        code, _, err = run('contrast_train', *train)
        assert code == 0, err
        assert carried(tmp_path / f'{kind}.pth') == classes
        infer = ('--weights', tmp_path / f'{kind}.pth', *lists(data), *CPU, '--scales', 0.5, 1)
        infer += ('--infer_list', data / 'lists' / 'train.txt')
        outputs = ('--out_cam', tmp_path / f'{kind}_cam', '--crf_iters', 2)
        outputs += ('--out_crf', tmp_path / f'{kind}_crf')
        code, _, err = run('contrast_infer', *infer, *outputs)
        assert code == 0, err
    labels = np.load(data / 'lists' / 'cls_labels.npy', allow_pickle=True).item()
    for name in names:
        own = set(np.flatnonzero(labels[name]).tolist())
        assert set(read_cam(str(tmp_path / 'seam_cam' / f'{name}.npy'), classes)) == own
        mask = read_mask(str(tmp_path / 'seam_crf' / f'{name}.png'), classes)
        assert set(np.unique(mask).tolist()) <= {0} | {key + 1 for key in own}
    # 2: affinity
    list_flags = ('--voc12_root', data, '--infer_list', data / 'lists' / 'train.txt')
    cams = ('--cam_dir', tmp_path / 'seam_cam')
    prepare = (*list_flags, *cams, '--alpha', 4, 24, '--crf_iters', 2, '--jobs', 0)
    code, _, err = run('aff_prepare', *prepare, '--out_crf', tmp_path / 'aff')
    assert code == 0, err
    maps = read_maps(str(tmp_path / 'aff' / '4.00' / f'{names[0]}.npy'), classes)
    assert set(maps) == {0} | set((np.flatnonzero(labels[names[0]]) + 1).tolist())
    train = (*TRAIN, '--voc12_root', data, '--train_list', data / 'lists' / 'train.txt')
    train += ('--la_crf_dir', tmp_path / 'aff' / '4.00', '--ha_crf_dir', tmp_path / 'aff' / '24.00')
    code, _, err = run('aff_train', *train, '--session_name', tmp_path / 'affinity')
    assert code == 0, err
    assert carried(tmp_path / 'affinity.pth') == classes
    walk = ('--weights', tmp_path / 'affinity.pth', *list_flags, *cams, *CPU)
    code, _, err = run('aff_infer', *walk, '--out_rw', tmp_path / 'rw')
    assert code == 0, err
    # 3: segmentation, on the ground truth: the masks above may be of the background only
    config = {
        'DATA_ROOT': str(data),
        'DATA_PSEUDO_GT': str(data / 'SegmentationClassAug'),
        'DATA_TRAIN_LIST': 'train',
        'DATA_WORKERS': 0,
        'DATA_RANDOMCROP': 48,
        'MODEL_BACKBONE_WIDTH': 1 / 32,
        'MODEL_SAVE_DIR': str(tmp_path),
        'TRAIN_BATCHES': 2,
        'TRAIN_ITERATION': 2,
        'TRAIN_TBLOG': False,
        'TEST_MULTISCALE': [0.5],
        'TEST_SAVE_DIR': str(tmp_path / 'result'),
    }
    code, _, err = segment(training, '--device', 'cpu', **config)
    assert code == 0, err
    trained = tmp_path / 'SEAM_deeplabv1_resnet38.pth'
    assert carried(trained) == classes
    assert len(load_checkpoint(str(trained))['cls_conv.weight']) == count + 1
    test = ('--device', 'cpu', '--jobs', 0, '--out_dir', tmp_path / 'predicted')
    code, out, err = segment(testing, *test, **config)
    assert code == 0 and f'class{count:02d}' in out, err
    archive = ('--split', 'test', '--submission', tmp_path / 'results.tgz')
    code, _, err = segment(testing, *test, *archive, **config)
    assert code == 2 and 'the server takes the 20 classes of VOC 2012' in err
    wrong = {**config, 'MODEL_NUM_CLASSES': 21}
    code, _, err = segment(training, '--device', 'cpu', **wrong)
    assert code == 2 and f'MODEL_NUM_CLASSES = 21: {data} has {count + 1}' in err
    # scores
    scored = ('--list', data / 'lists' / 'val.txt', '--gt_dir', data / 'SegmentationClass')
    score = (*scored, '--predict_dir', tmp_path / 'predicted', '--json', tmp_path / 'scores.json')
    code, _, err = run('eval', *score, '--jobs', 0)
    assert code == 0, err
    scores = json.loads((tmp_path / 'scores.json').read_text())
    assert set(scores['pixels']) == set(classes.names) and f'class{count:02d}' in scores
    # the same folder with other classes, of the same number
    (data / 'classes.txt').write_text('\n'.join(f'thing{i}' for i in range(count)))
    for script, flags in (
        ('contrast_infer', (*infer, '--out_cam', tmp_path / 'other')),
        ('aff_infer', (*walk, '--out_rw', tmp_path / 'other')),
    ):
        refused(script, flags, '(class01', '(thing0', 'class 1 is class01 in one and thing0')
    code, _, err = segment(testing, *test, **config)
    assert code == 2 and len(err.splitlines()) == 1
    assert str(trained) in err and '(class01' in err and '(thing0' in err


def test_eval_knows_the_classes_beside_the_masks_or_of_a_file(tmp_path, run, refused):
    root = tmp_path / 'data'
    write_mask(str(root / 'masks' / 'my cat.png'), np.array([[0, 1, 2, 255]], np.uint8))
    write_mask(str(root / 'predicted' / 'my cat.png'), np.array([[0, 1, 1, 1]], np.uint8))
    (root / 'list.txt').write_text('my cat')
    (root / 'classes.txt').write_text('traffic light\nan uncommonly long name\n')
    flags = ('--list', root / 'list.txt', '--predict_dir', root / 'predicted', '--jobs', 0)
    flags += ('--gt_dir', root / 'masks', '--json', root / 'scores.json')
    code, out, err = run('eval', *flags, '--classes', 'background', 'traffic light')
    assert code == 0, err
    scores = json.loads((root / 'scores.json').read_text())
    assert scores['mIoU'] == 75 and scores['traffic light'] == 50
    assert scores['pixels'] == {'background': 1, 'traffic light': 1, 'an uncommonly long name': 1}
    assert 'an uncommonly long name   0.00' in out
    refused('eval', (*flags, '--classes', 'cat'), '--classes cat', 'traffic light')
    (tmp_path / 'other.txt').write_text('cat\ndog\n')
    assert run('eval', *flags, '--classes_txt', tmp_path / 'other.txt', '--classes', 'cat')[0] == 0
    (tmp_path / 'other.txt').write_text('cat\nlist\n')
    refused('eval', (*flags, '--classes_txt', tmp_path / 'other.txt'), 'the class list has a name')
    (root / 'classes.txt').write_text('cat\n')
    refused('eval', flags, 'my cat.png: holds value 2; a mask has class ids 0…1 and 255')
