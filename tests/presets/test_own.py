"""The preset own: its trainings and scales follow from the pictures."""

import pytest
from PIL import Image

from tool.files.npy import write_npy
from tool.presets.load import load_preset, parse_override
from tool.presets.own import scaled, steps
from tool.presets.stages import BY_LABELS, BY_MASKS, RunSettings
from tool.run.errors import UserError

CLASSES = ('background', 'apple', 'pear')


def folder(root, count, size):
    """A data folder of `count` equal pictures without masks."""
    (root / 'JPEGImages').mkdir(parents=True)
    (root / 'lists').mkdir()
    names = [f'picture {index}' for index in range(count)]
    Image.new('RGB', size).save(root / 'JPEGImages' / f'{names[0]}.jpg')
    for name in names[1:]:
        (root / 'JPEGImages' / f'{name}.jpg').hardlink_to(root / 'JPEGImages' / f'{names[0]}.jpg')
    (root / 'lists' / 'train_aug.txt').write_text('\n'.join(names))
    write_npy(str(root / 'lists' / 'cls_labels.npy'), {})
    return RunSettings('/work', voc=str(root), classes=CLASSES)


def test_steps():
    assert steps(3000, epochs=6, least=500) == 2250
    assert steps(100, epochs=6, least=500) == 500


def test_scaled():
    assert scaled([0.35, 0.7, 1.05], 0.5) == [0.17, 0.35, 0.53]


def test_it_follows_the_pictures(tmp_path):
    preset = load_preset('own', [], folder(tmp_path / 'many', 1200, (400, 1000)), CLASSES)
    stages = preset.stages
    assert stages['warmup'].flags['max_steps'] == 750
    assert stages['train'].flags['max_steps'] == 300
    assert stages['aff_train'].flags['max_steps'] == 150
    assert stages['deeplab_train'].config['TRAIN_ITERATION'] == 600
    assert stages['infer'].flags['scales'] == [0.25, 0.42]
    assert stages['deeplab_train'].config['DATA_RANDOMSCALE'] == [0.25, 0.5]
    assert stages['deeplab_test'].config['TEST_MULTISCALE'] == [0.25, 0.38]
    assert '1200 pictures' in preset.about

    irn = [parse_override('preset.refiner=irn')]
    run = RunSettings('/work', voc=str(tmp_path / 'many'), classes=CLASSES)
    stages = load_preset('own', irn, run, CLASSES).stages
    assert stages['aff_train'].flags['max_steps'] == 450  # three epochs, as published

    preset = load_preset('own', [], folder(tmp_path / 'few', 30, (500, 400)), CLASSES)
    assert preset.stages['warmup'].flags['max_steps'] == 500
    assert preset.stages['infer'].flags['scales'] == [0.5, 0.85]


def test_labels_choose_and_every_picture_gets_a_mask(tmp_path):
    run = folder(tmp_path / 'data', 30, (500, 400))
    preset = load_preset('own', [], run, CLASSES)
    assert preset.stages['infer'].flags['infer_list'] == f'{run.voc}/lists/train_aug.txt'
    assert not preset.core
    with pytest.raises(UserError, match='^--choose masks: there is no list .*train.txt'):
        chosen = RunSettings('/work', voc=run.voc, classes=CLASSES, choose=BY_MASKS)
        load_preset('own', [], chosen, CLASSES)
    assert run.choose is None and BY_LABELS == 'labels'


def test_another_backbone(tmp_path):

    overrides = [
        parse_override('preset.backbone=resnet18'),
        parse_override('preset.weights=imagenet'),
    ]
    preset = load_preset('own', overrides, folder(tmp_path / 'data', 30, (500, 400)), CLASSES)
    for name in ('warmup', 'aff_train'):
        flags = preset.stages[name].flags
        assert (flags['backbone'], flags['weights']) == ('resnet18', 'imagenet')
    assert preset.stages['deeplab_train'].config['MODEL_BACKBONE'] == 'resnet18'


@pytest.mark.parametrize(
    'make, message',
    [
        (None, '^--voc12_root: give your data folder; python -m voc12.from_folder makes one'),
        ((5, (4000, 3000)), 'its pictures are about 4000 pixels long.*mogrify'),
    ],
)
def test_what_is_refused(tmp_path, make, message):
    run = folder(tmp_path / 'data', *make) if make else RunSettings('/work')
    with pytest.raises(UserError, match=message):
        load_preset('own', [], run, CLASSES)
