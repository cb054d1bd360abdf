"""voc12/make_lists.py on a devkit of a few tiny masks."""

import shutil
import sys

import numpy as np
import pytest

from tool.files.lists import read_labels, read_list
from tool.files.pictures import write_mask
from tool.run import command_line
from tool.run.errors import UserError
from voc12.classes import VOC
from voc12.layout import class_set
from voc12.make_lists import annotated_classes, find_lists, image_label, main, parse_args

OBJECT = '<object><name>{}</name><difficult>{}</difficult><part><name>head</name></part></object>'


def annotation(*objects):
    return (
        '<annotation><filename>x.jpg</filename>'
        + ''.join(OBJECT.format(*o) for o in objects)
        + '</annotation>'
    )


@pytest.fixture
def devkit(tmp_path):
    """train 2007_000001, 2 · val 3, 4 · test 9 · Aug masks 1, 3, 5, 6 · annotations of 1 and 5
    only."""
    root = tmp_path / 'VOC2012'
    for folder in (
        'ImageSets/Segmentation',
        'SegmentationClass',
        'SegmentationClassAug',
        'Annotations',
    ):
        (root / folder).mkdir(parents=True)
    for split, ids in {'train': (1, 2), 'val': (3, 4), 'test': (9,)}.items():
        (root / f'ImageSets/Segmentation/{split}.txt').write_text(
            ''.join(f'2007_{i:06d}\n' for i in ids) + '\n'
        )
    for number, classes in {1: (0, 1), 2: (0, 2, 255), 3: (3, 20), 4: (0, 4)}.items():
        write_mask(
            str(root / f'SegmentationClass/2007_{number:06d}.png'), np.array([classes], np.uint8)
        )
    for number, classes in {1: (0, 1), 3: (0, 5), 5: (0, 6), 6: (0, 7, 8, 20)}.items():
        write_mask(
            str(root / f'SegmentationClassAug/2007_{number:06d}.png'), np.array([classes], np.uint8)
        )
    (root / 'SegmentationClassAug/._2007_000001.png').write_text('a Mac was here')
    (root / 'Annotations/2007_000001.xml').write_text(
        annotation(('aeroplane', 0), ('person', 1), ('aeroplane', 0))
    )
    (root / 'Annotations/2007_000005.xml').write_text(annotation(('tvmonitor', 0)))
    return root


@pytest.fixture
def make(monkeypatch):
    """make(devkit folder): run the command as a user would; returns its output folder."""

    def run(devkit, jobs='0'):
        out = devkit.parent / 'lists'
        argv = ['make_lists.py', '--voc12_root', str(devkit), '--out_dir', str(out), '--jobs', jobs]
        monkeypatch.setattr(sys, 'argv', argv)
        command_line.run(main, parse_args)
        return out

    return run


@pytest.mark.parametrize('jobs', ['0', '2'])
def test_lists_and_labels(devkit, make, capsys, jobs):
    out = make(devkit, jobs=jobs)
    assert (out / 'train_aug.txt').read_text() == '2007_000001\n2007_000005\n2007_000006\n'
    assert (out / 'trainaug.txt').read_text() == (out / 'train_aug.txt').read_text()
    assert read_list(str(out / 'train.txt')) == ['2007_000001', '2007_000002']
    assert read_list(str(out / 'val.txt')) == ['2007_000003', '2007_000004']
    assert read_list(str(out / 'test.txt')) == ['2007_000009']
    labels = read_labels(str(out / 'cls_labels.npy'), VOC)
    ids = {name[-1]: (np.flatnonzero(label) + 1).tolist() for name, label in labels.items()}
    # 1, 5: annotations, also difficult; 3, 6: Aug masks before plain ones; 2, 4: plain masks
    # without 0 and 255; 9: of test
    assert ids == {'1': [1, 15], '2': [2], '3': [5], '4': [4], '5': [20], '6': [7, 8, 20]}
    assert list(labels) == sorted(labels) and all(
        label.dtype == np.float32 for label in labels.values()
    )
    printed = capsys.readouterr().out
    assert 'train_aug       3 images (the whole VOC 2012 has 10582)' in printed
    assert 'labels          6 images' in printed and '2 from Annotations' in printed
    assert '2 from SegmentationClassAug' in printed and '2 from SegmentationClass' in printed


@pytest.mark.parametrize(
    'absent, skipped, why',
    [
        ('ImageSets/Segmentation/test.txt', {'test'}, 'test.txt'),
        ('ImageSets/Segmentation/val.txt', {'val', 'train_aug'}, 'no val list'),
        ('SegmentationClassAug', {'train_aug'}, 'SegmentationClassAug'),
    ],
)
def test_what_is_absent_is_skipped_and_named(devkit, make, capsys, absent, skipped, why):
    shutil.rmtree(devkit / absent) if (devkit / absent).is_dir() else (devkit / absent).unlink()
    out = make(devkit)
    lines = [line for line in capsys.readouterr().out.splitlines() if 'skipped: ' in line]
    assert {line.split()[0] for line in lines} == skipped and why in ''.join(lines)
    written = {path.name for path in out.iterdir()}
    expected = {'train', 'val', 'test', 'train_aug'} - skipped
    if 'train_aug' in expected:
        expected.add('trainaug')
    assert written == {'cls_labels.npy'} | {f'{name}.txt' for name in expected}


def test_empty_aug_folder_makes_no_empty_list(devkit):
    for path in (devkit / 'SegmentationClassAug').iterdir():
        path.unlink()
    lists, skipped = find_lists(str(devkit))
    assert 'train_aug' not in lists and 'no mask of a picture outside val' in skipped['train_aug']


@pytest.mark.parametrize('jobs', ['0', '2'])
@pytest.mark.parametrize(
    'text, message',
    [
        (annotation(('unicorn', 0)), "unknown class 'unicorn'"),
        (annotation(('background', 0)), "unknown class 'background'"),
        ('<annotation><object><name>cat</na', 'not a readable annotation'),
        ('', 'not a readable annotation'),
    ],
)
def test_bad_annotations_are_one_line_and_write_nothing(devkit, make, capsys, text, message, jobs):
    (devkit / 'Annotations/2007_000005.xml').write_text(text)
    with pytest.raises(SystemExit) as end:
        make(devkit, jobs=jobs)
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert (
        line.startswith('make_lists.py: error: ')
        and '2007_000005.xml: ' in line
        and message in line
    )
    assert not (devkit.parent / 'lists').exists()


@pytest.mark.parametrize(
    'name, problem',
    [
        (' a', 'begins or ends with a space'),
        ('photo.jpg', "would be read as 'photo' in a list"),
        ('\ufeffa', 'begins with a byte-order mark'),
        ('a\nb', 'has a line break'),
        ('\udcff', 'is not UTF-8'),
    ],
)
def test_a_mask_that_no_list_can_name_is_refused_before_anything_is_written(devkit, name, problem):
    write_mask(str(devkit / 'SegmentationClassAug/x.png'), np.zeros((2, 2), np.uint8))
    (devkit / 'SegmentationClassAug/x.png').rename(devkit / f'SegmentationClassAug/{name}.png')
    with pytest.raises(UserError, match=problem):
        find_lists(str(devkit))


def test_picture_without_any_source(devkit):
    (devkit / 'SegmentationClass/2007_000002.png').unlink()
    with pytest.raises(
        UserError, match='2007_000002.png: no such mask, and no Annotations/2007_000002.xml'
    ):
        image_label(str(devkit), '2007_000002', VOC)


def test_parts_are_not_objects_and_no_object_is_no_class(tmp_path):
    path = tmp_path / 'a.xml'
    path.write_text(annotation(('person', 1)))
    assert annotated_classes(str(path), VOC) == {15}
    path.write_text(annotation())
    assert annotated_classes(str(path), VOC) == set()


def test_a_folder_with_classes_of_its_own(devkit, make, capsys):
    names = [f'thing {number}' for number in range(1, 81)]
    (devkit / 'classes.txt').write_text('\n'.join(names))
    (devkit / 'Annotations/2007_000001.xml').write_text(annotation(('thing 80', 0)))
    (devkit / 'Annotations/2007_000005.xml').write_text(annotation(('thing 1', 0)))
    write_mask(
        str(devkit / 'SegmentationClassAug/2007_000006.png'), np.array([[0, 79, 255]], np.uint8)
    )
    labels = read_labels(str(make(devkit) / 'cls_labels.npy'), class_set(str(devkit)))
    assert {name: np.flatnonzero(label).tolist() for name, label in labels.items()} == {
        '2007_000001': [79],
        '2007_000002': [1],
        '2007_000003': [4],
        '2007_000004': [3],
        '2007_000005': [0],
        '2007_000006': [78],
    }
    assert 'the whole VOC 2012' not in capsys.readouterr().out
    (devkit / 'classes.txt').write_text('thing 1')
    with pytest.raises(SystemExit) as end:
        make(devkit)
    assert end.value.code == 2


def test_folder_that_is_no_devkit(tmp_path, make, capsys):
    with pytest.raises(SystemExit) as end:
        make(tmp_path)
    assert end.value.code == 2
    assert 'no list can be made; train: there is no ' in capsys.readouterr().err
