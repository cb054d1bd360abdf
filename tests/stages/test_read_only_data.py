"""No stage writes into the data folder, which may be read-only, have spaces in its path and hold
links to the pictures."""

import os

import pytest

from mini import make_voc
from network import resnet38_contrast
from recipe import fill
from tool.files.checkpoints import save_checkpoint
from tool.files.lists import read_list


@pytest.fixture
def data(tmp_path):
    """A read-only devkit folder; its pictures are links."""
    root = tmp_path / 'my data' / 'VOC 2012'
    names = make_voc(root)
    elsewhere = tmp_path / 'pictures elsewhere'
    (root / 'JPEGImages').rename(elsewhere)
    (root / 'JPEGImages').mkdir()
    for name in names:
        (root / 'JPEGImages' / f'{name}.jpg').symlink_to(elsewhere / f'{name}.jpg')
    (root / 'SegmentationClassAug').symlink_to(root / 'SegmentationClass')
    image_sets = root / 'ImageSets' / 'Segmentation'
    image_sets.mkdir(parents=True)
    (image_sets / 'train.txt').write_text('\n'.join(names[:3]))
    (image_sets / 'val.txt').write_text('\n'.join(names[3:]))
    for path in [root, *root.rglob('*')]:
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    yield root
    for path in [root, *root.rglob('*')]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def state_of(folder):
    """{path: time of its last change, mode, size} of a folder and all below it.

    Root may write into a read-only folder, so its mode alone proves nothing.
    """
    state = {}
    for path in [folder, *folder.rglob('*')]:
        status = os.lstat(path)
        state[path] = (status.st_mtime_ns, status.st_mode, status.st_size)
    return state


def test_no_stage_writes_into_the_data_folder(data, tmp_path, run):
    weights = tmp_path / 'seam.pth'
    save_checkpoint(str(weights), fill(resnet38_contrast.Net(0.0625)).state_dict())
    out = tmp_path / 'out'
    lists = out / 'lists'
    before = state_of(data.parent)

    assert run('voc12.make_lists', '--voc12_root', data, '--out_dir', lists, '--jobs', 0)[0] == 0
    train = lists / 'train_aug.txt'
    assert len(read_list(str(train))) == 3

    root = ('--voc12_root', data)
    labels = ('--cls_labels', lists / 'cls_labels.npy')
    inference = ('--weights', weights, '--infer_list', train, '--scales', 1, '--device', 'cpu')
    workers = ('--num_workers', 0, '--jobs', 0)
    outputs = ('--out_cam', out / 'cam', '--out_cam_pred', out / 'png')
    assert run('contrast_infer', *inference, *root, *labels, *workers, *outputs)[0] == 0

    seeds = ('--cam_dir', out / 'cam', '--list', train, '--t', 0.3, '--out_png', out / 'seeds')
    assert run('tool.seed_masks', *seeds, *root, '--jobs', 0)[0] == 0

    score = ('--list', train, '--predict_dir', out / 'seeds', '--jobs', 0)
    assert run('eval', *score, '--gt_dir', data / 'SegmentationClass')[0] == 0

    assert len(list((out / 'seeds').glob('*.png'))) == 3
    assert state_of(data.parent) == before


def test_a_data_folder_of_read_only_pictures(data, tmp_path, run):
    before = state_of(data.parent)
    table = tmp_path / 'labels.csv'
    table.write_text('file,labels\n2007_000000.jpg,cat\n2007_000001.jpg,dog\n')
    flags = ('--images', data / 'JPEGImages', '--labels', table, '--out', tmp_path / 'my folder')
    masks = ('--masks', data / 'SegmentationClass', '--skip_bad', '--copy', '--jobs', 0)
    assert run('voc12.from_folder', *flags, *masks)[0] == 0
    assert state_of(data.parent) == before
    assert (tmp_path / 'my folder' / 'JPEGImages' / '2007_000001.jpg').stat().st_mode & 0o200
