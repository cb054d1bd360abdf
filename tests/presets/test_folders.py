"""tool/presets/folders.py: what a data folder brings along, and what follows from it."""

import shutil

import pytest

from mini import make_voc
from tool.files.atomic import write_text
from tool.presets.folders import with_folders, with_lists
from tool.presets.load import NAMES, load_preset
from tool.presets.stages import BY_LABELS, BY_MASKS, FromScores, RunSettings
from tool.run.errors import UserError
from voc12.classes import CLASSES

GENERATING = ('smoke', 'quickstart')


@pytest.fixture
def data(tmp_path):
    """A data folder as voc12.from_folder makes one: four pictures with masks, three of train."""
    root = tmp_path / 'my data'
    names = make_voc(root)
    (root / 'lists').mkdir()
    shutil.move(root / 'cls_labels.npy', root / 'lists' / 'cls_labels.npy')
    for file in ('train', 'train_aug'):
        write_text(str(root / 'lists' / f'{file}.txt'), '\n'.join(names[:3]))
    write_text(str(root / 'lists' / 'val.txt'), names[3])
    return root


def settings(data, **more):
    return RunSettings('/work', voc=str(data), classes=CLASSES, **more)


def scripts(preset):
    return [stage.script for stage in preset.stages]


def words(preset):
    """The words of all commands of a preset."""
    found = []
    for stage in preset.stages:
        found += stage.command(dict.fromkeys(FromScores, '0.25'))
    return found


def test_lists_of_the_data_folder_are_taken(data):
    run = with_folders(settings(data))
    assert not run.makes_lists and run.has_truth and run.choose == BY_MASKS
    assert run.lists == f'{data}/lists'
    assert run.mask_list == f'{data}/lists/train_aug.txt'
    assert run.score_list == f'{data}/lists/train.txt'
    assert run.val_list == f'{data}/lists/val.txt'
    assert run.gt == f'{data}/SegmentationClass'


def test_without_lists_the_run_makes_them(data):
    shutil.rmtree(data / 'lists')
    run = with_folders(settings(data))
    assert run.makes_lists and run.has_truth and run.choose == BY_MASKS
    assert run.lists == '/work/lists' and run.val_list == '/work/lists/val.txt'


def test_lists_that_the_user_names(data, tmp_path):
    shutil.copytree(data / 'lists', tmp_path / 'mine')
    run = with_lists(settings(data, lists=str(tmp_path / 'mine')))
    assert (run.lists, run.makes_lists) == (str(tmp_path / 'mine'), False)
    run = with_lists(settings(data, lists=str(tmp_path / 'new')))
    assert (run.lists, run.makes_lists) == (str(tmp_path / 'new'), True)


def test_one_missing_mask_and_labels_choose(data):
    (data / 'SegmentationClass' / '2007_000003.png').unlink()  # of val
    run = with_folders(settings(data))
    assert not run.has_truth and run.choose == BY_LABELS
    message = (
        f'^--choose masks: 1 of the 1 pictures of {data}/lists/val.txt have no ground truth, e.g. '
        f'{data}/SegmentationClass/2007_000003.png; use --choose labels$'
    )
    with pytest.raises(UserError, match=message):
        with_folders(settings(data, choose=BY_MASKS))


def test_without_val_the_training_pictures_are_tested(data):
    (data / 'lists' / 'val.txt').unlink()
    run = with_folders(settings(data))
    assert run.has_truth and run.val_list == run.score_list
    (data / 'lists' / 'train.txt').unlink()
    run = with_folders(settings(data))
    assert not run.has_truth and run.val_list == run.mask_list == f'{data}/lists/train_aug.txt'


@pytest.mark.parametrize('name', NAMES)
def test_every_preset_runs_on_a_folder_of_the_user(name, data):
    preset = load_preset(name, [], settings(data), CLASSES)
    assert 'voc12.make_lists' not in scripts(preset) and 'voc12.synth' not in scripts(preset)
    assert f'{data}/lists/train_aug.txt' in words(preset)
    assert f'{data}/lists/cls_labels.npy' in words(preset)
    assert '/work/lists' not in ' '.join(words(preset))
    assert f'{data}/SegmentationClass' in words(preset)


def without_truth(name):
    """The scripts that choose without ground truth; coco has a fixed background score."""
    return {'tool.agreement'} if name == 'coco' else {'tool.agreement', 'tool.cam_threshold'}


@pytest.mark.parametrize('name', NAMES)
def test_without_masks_nothing_reads_ground_truth(name, data):
    shutil.rmtree(data / 'SegmentationClass')
    preset = load_preset(name, [], settings(data), CLASSES)
    assert 'eval.py' not in scripts(preset)
    assert 'SegmentationClass' not in ' '.join(words(preset))
    splits = []
    for stage in preset.stages:
        if stage.script.endswith('/test.py'):
            splits.append(stage.flags['split'])
    assert splits == ['test', 'test']
    deciding = {stage.script for stage in preset.stages if stage.row and stage.decides}
    assert deciding == without_truth(name)


@pytest.mark.parametrize('name', [name for name in NAMES if name not in GENERATING])
def test_labels_choose_where_the_user_asks_for_it(name, data):
    preset = load_preset(name, [], settings(data, choose=BY_LABELS), CLASSES)
    deciding = {stage.script for stage in preset.stages if stage.row and stage.decides}
    assert deciding == without_truth(name) | {'eval.py'}  # of DeepLab, which decides nothing
    for stage in preset.stages:
        if stage.script == 'eval.py' and stage.masks:
            assert not stage.decides


def test_core_classes_of_other_data_are_none(data):
    assert load_preset('laptop', [], settings(data), CLASSES).core
    run = RunSettings('/work', voc=str(data), classes=('background', 'apple'))
    preset = load_preset('laptop', [], run, run.classes)
    assert not preset.core and '--classes' not in words(preset)
