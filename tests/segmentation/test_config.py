"""Config keys: the published values, overrides from the command line, and what is refused."""

import pytest

from net import generate_net
from segmentation_toy import EXPERIMENTS, config_dict_of, config_of
from tool.run.errors import LONGEST_LINE, UserError
from utils.config import (
    classes_of,
    names_of,
    prediction_config,
    read_config,
    read_config_file,
)
from utils.keys import KEYS, describe_keys

# what every experiment's config.py held in full, until the defaults moved into utils/keys.py
PUBLISHED = {
    'DATA_NAME': 'VOCDataset',
    'DATA_ROOT': '../../../VOC2012',
    'DATA_PSEUDO_GT': '',
    'DATA_MASK_COLOURS': 'ids',
    'DATA_TRAIN_LIST': 'train_aug',
    'DATA_WORKERS': 4,
    'DATA_MEAN': [0.485, 0.456, 0.406],
    'DATA_STD': [0.229, 0.224, 0.225],
    'DATA_RANDOMCROP': 448,
    'DATA_RANDOMSCALE': [0.5, 1.5],
    'DATA_RANDOM_H': 10,
    'DATA_RANDOM_S': 10,
    'DATA_RANDOM_V': 10,
    'DATA_RANDOMFLIP': 0.5,
    'MODEL_BACKBONE_PRETRAIN': False,
    'MODEL_BACKBONE_DILATED': True,
    'MODEL_BACKBONE_DEEPBASE': True,
    'MODEL_BACKBONE_WIDTH': 1.0,
    'MODEL_OUTPUT_STRIDE': 8,
    'MODEL_NUM_CLASSES': 21,
    'MODEL_ASPP_OUTDIM': 256,
    'MODEL_SHORTCUT_DIM': 48,
    'MODEL_FREEZEBN': False,
    'MODEL_CLS_STD': False,
    'MODEL_SAVE_DIR': 'model',
    'TRAIN_LR': 0.001,
    'TRAIN_MOMENTUM': 0.9,
    'TRAIN_WEIGHT_DECAY': 0.0005,
    'TRAIN_BN_MOM': 0.0003,
    'TRAIN_POWER': 0.9,
    'TRAIN_BATCHES': 10,
    'TRAIN_ITERATION': 20000,
    'TRAIN_ACCUMULATE': 1,
    'TRAIN_GRAD_CHECKPOINTING': False,
    'TRAIN_AMP': 'off',
    'TRAIN_TF32': True,
    'TRAIN_CHANNELS_LAST': False,
    'TRAIN_DETERMINISTIC': True,
    'TRAIN_COMPILE': False,
    'TRAIN_SAVE_ITERS': 5000,
    'TRAIN_TBLOG': True,
    'TRAIN_SEED': 0,
    'TEST_MULTISCALE': [0.5, 0.75, 1.0, 1.25, 1.5, 1.75],
    'TEST_FLIP': True,
    'TEST_CRF': 'deeplab',
    'TEST_CRF_BACKEND': 'numba',
    'TEST_SAVE_DIR': 'result',
}

NAMES = sorted(path.name for path in EXPERIMENTS.iterdir() if (path / 'config.py').exists())


def test_the_experiments_hold_the_published_values():
    assert NAMES == [
        'EPS_deeplabv1_resnet101',
        'EPS_deeplabv2_resnet101',
        'SEAM_deeplabv1_resnet38',
    ]
    for name in NAMES:
        config = read_config(config_of(name))
        assert set(config) == set(KEYS) and config['EXP_NAME'] == name
        assert f'{config["MODEL_NAME"]}_{config["MODEL_BACKBONE"]}' == name.split('_', 1)[1]
        assert [
            config[key]
            for key in (
                'TRAIN_LR',
                'TRAIN_MOMENTUM',
                'TRAIN_WEIGHT_DECAY',
                'TRAIN_POWER',
                'TRAIN_BN_MOM',
            )
        ] == [1e-3, 0.9, 5e-4, 0.9, 3e-4]
        assert (config['TRAIN_ITERATION'], config['TRAIN_BATCHES'], config['DATA_RANDOMCROP']) == (
            20000,
            10,
            448,
        )
        assert (
            config['DATA_RANDOMSCALE'] == [0.5, 1.5]
            and config['DATA_RANDOM_H'] == config['DATA_RANDOM_V'] == 10
        )
        assert (
            config['TEST_MULTISCALE'] == [0.5, 0.75, 1, 1.25, 1.5, 1.75]
            and config['TEST_CRF'] == 'deeplab'
        )


@pytest.mark.parametrize('name', NAMES)
def test_the_merged_config_is_the_one_that_was_written_out(name):
    _, model, backbone = name.split('_')
    written_out = {
        **PUBLISHED,
        'EXP_NAME': name,
        'MODEL_NAME': model,
        'MODEL_BACKBONE': backbone,
    }
    merged = read_config(config_dict_of(name))
    assert set(merged) == set(written_out)
    for key, value in written_out.items():
        assert merged[key] == value and type(merged[key]) is type(value), key
    assert read_config(written_out) == merged  # a config.py of before, with every key


def test_a_config_py_holds_what_differs_and_what_is_to_be_set():
    to_set = {'DATA_ROOT', 'DATA_PSEUDO_GT', 'MODEL_BACKBONE_PRETRAIN'}
    without_default = {name for name, key in KEYS.items() if key.default is None}
    for name in NAMES:
        assert set(config_dict_of(name)) == to_set | without_default


def test_a_network_is_made_of_a_config_dict_with_or_without_all_keys():
    changes = {'MODEL_BACKBONE': 'resnet18', 'MODEL_ASPP_OUTDIM': 8}
    partial = {**config_dict_of('EPS_deeplabv2_resnet101'), **changes}
    shapes = [
        {key: value.shape for key, value in generate_net(config).state_dict().items()}
        for config in (partial, {**PUBLISHED, **partial})
    ]
    assert shapes[0] == shapes[1]


def test_defaults_are_not_shared():
    config = config_of(NAMES[0])
    config['TEST_MULTISCALE'].append(2.0)
    assert config_of(NAMES[0])['TEST_MULTISCALE'] == PUBLISHED['TEST_MULTISCALE']


def test_every_key_is_explained():
    text = describe_keys()
    assert all(f'  {name}: ' in text and key.meaning in text for name, key in KEYS.items())
    assert 'TRAIN_BATCHES: a whole number between 1 and 1,000,000; default 10' in text
    assert 'EXP_NAME: a text that is not empty; no default' in text


def test_overrides_have_the_keys_type():
    changed = read_config(
        config_of('EPS_deeplabv1_resnet101'),
        [
            'TRAIN_ITERATION=200',
            'DATA_PSEUDO_GT=/a b/c=d',
            'TEST_MULTISCALE=0.5,1',
            'TEST_FLIP=no',
            'TRAIN_LR=1',
            'EXP_NAME=2012',
            'TRAIN_BN_MOM=3e-2',
            'MODEL_BACKBONE_PRETRAIN=w.pth',
            'DATA_RANDOMSCALE=[1, 1]',
            'MODEL_CLS_STD=1e-2',
        ],
    )
    expected = {
        'TRAIN_ITERATION': 200,
        'DATA_PSEUDO_GT': '/a b/c=d',
        'TEST_MULTISCALE': [0.5, 1],
        'TEST_FLIP': False,
        'TRAIN_LR': 1,
        'EXP_NAME': '2012',
        'TRAIN_BN_MOM': 0.03,
        'MODEL_BACKBONE_PRETRAIN': 'w.pth',
        'DATA_RANDOMSCALE': [1, 1],
        'MODEL_CLS_STD': 0.01,
    }
    assert {key: changed[key] for key in expected} == expected
    assert read_config(changed, ['TEST_MULTISCALE=1'])['TEST_MULTISCALE'] == [1]
    assert (
        read_config(changed, ['MODEL_BACKBONE_PRETRAIN=False'])['MODEL_BACKBONE_PRETRAIN'] is False
    )


@pytest.mark.parametrize(
    'override, message',
    [
        (
            'TRAIN_ITERATIONS=5',
            'TRAIN_ITERATIONS: no such config key; did you mean TRAIN_ITERATION',
        ),
        ('train_iteration=5', 'no such config key'),
        ('TRAIN_ITERATION', 'KEY=VALUE is expected'),
        (
            'TRAIN_ITERATION=many',
            "TRAIN_ITERATION = 'many': must be a whole number between 1 and 1,000,000,000",
        ),
        ('EXP_NAME=', "EXP_NAME = '': must be a text that is not empty"),
        ('TRAIN_ITERATION=1.5', 'must be a whole number'),
        ('TRAIN_ITERATION=0', 'must be a whole number between 1 and 1,000,000,000'),
        ('TRAIN_ITERATION=100000000000', 'TRAIN_ITERATION = 100000000000: must be a whole number'),
        ('TRAIN_SEED=18446744073709551616', 'between 0 and 9.2'),
        ('TRAIN_LR=1e999', 'TRAIN_LR = inf: must be a number'),
        ('DATA_RANDOMSCALE=1.5,0.5', 'must be 2 numbers .*, the lower one first'),
        ('TRAIN_ITERATION=True', 'must be a whole number'),
        ('TRAIN_LR=fast', 'TRAIN_LR.*must be a number'),
        ('TRAIN_LR=-1', 'at least 0'),
        ('TRAIN_MOMENTUM=2', 'between 0 and 1'),
        ('TEST_FLIP=maybe', 'TEST_FLIP.*True or False'),
        ('TEST_MULTISCALE=0.5,x', 'TEST_MULTISCALE.*numbers'),
        ('TEST_MULTISCALE=()', 'TEST_MULTISCALE.*one or more numbers'),
        ('DATA_RANDOMSCALE=1', 'DATA_RANDOMSCALE.*2 numbers'),
        ('DATA_RANDOMSCALE=1,2,3', 'DATA_RANDOMSCALE.*2 numbers'),
        ('TEST_CRF=dense', 'TEST_CRF.*one of deeplab, seam, none'),
        ('TEST_CRF=True', 'one of deeplab, seam, none'),
        ('MODEL_OUTPUT_STRIDE=4', 'one of 8, 16'),
    ],
)
def test_wrong_overrides_are_named(override, message):
    with pytest.raises(UserError, match=message):
        read_config(config_of('EPS_deeplabv1_resnet101'), [override])


@pytest.mark.parametrize(
    'text',
    ['(' * 100_000, '-' * 100_000 + '1', '-' * 990 + '1', '9' * 5000, '1,' * 3_000_000]
    + ['[' * 150 + ']' * 150, '{:1000000000}', '%1000000000d', '"a" * 9999999999', '9 ** 9 ** 9'],
)
@pytest.mark.parametrize('key', ['TRAIN_LR', 'TEST_MULTISCALE'])
def test_a_value_that_python_could_choke_on_is_one_short_line(key, text):
    with pytest.raises(UserError) as caught:
        read_config(config_of('EPS_deeplabv1_resnet101'), [f'{key}={text}'])
    message = str(caught.value)
    assert message.startswith(f'{key} = ') and 'number' in message[-100:]
    assert len(message) <= LONGEST_LINE


def test_a_text_with_a_format_in_it_is_only_a_text():
    config = config_of('EPS_deeplabv1_resnet101')
    for text in ('{best_t:1000000000}', '%1000000000d', '{0.__class__}'):
        assert read_config(config, [f'EXP_NAME={text}'])['EXP_NAME'] == text


def test_a_wrong_config_file_is_refused():
    config = config_of('EPS_deeplabv1_resnet101')
    with pytest.raises(UserError, match='DATA_PSEUDO_GT = None: must be a text'):
        read_config({**config, 'DATA_PSEUDO_GT': None})
    with pytest.raises(UserError, match='TRAIN_GPUS: no such config key'):
        read_config({**config, 'TRAIN_GPUS': 4})
    config.pop('TRAIN_LR')
    assert read_config(config)['TRAIN_LR'] == PUBLISHED['TRAIN_LR']
    config.pop('MODEL_NAME')
    with pytest.raises(UserError, match='MODEL_NAME is missing'):
        read_config(config)


def test_lists_of_a_split(tmp_path):
    lists = tmp_path / 'ImageSets' / 'Segmentation'
    lists.mkdir(parents=True)
    (lists / 'train_aug.txt').write_text(
        '/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\n'
    )
    (tmp_path / 'mine.txt').write_text('a\nb\n')
    config = {'DATA_ROOT': str(tmp_path)}
    assert names_of(config, 'train_aug') == ['2007_000032']
    assert names_of(config, str(tmp_path / 'mine.txt')) == ['a', 'b']
    with pytest.raises(UserError, match='trainbug: no such list in .*make_lists'):
        names_of(config, 'trainbug')
    with pytest.raises(UserError, match='DATA_ROOT'):
        names_of({'DATA_ROOT': str(tmp_path / 'none')}, 'val')


def test_the_number_of_classes_is_that_of_the_data(tmp_path):
    config = {**config_dict_of(NAMES[0]), 'DATA_ROOT': str(tmp_path)}
    assert read_config(config)['MODEL_NUM_CLASSES'] == 21
    (tmp_path / 'classes.txt').write_text('cat\ndog\n')
    own = read_config(config)
    assert own['MODEL_NUM_CLASSES'] == 3
    assert classes_of(own).names == ('background', 'cat', 'dog')
    assert classes_of(read_config(config, ['MODEL_NUM_CLASSES=3'])).num_foreground == 2
    with pytest.raises(UserError, match=r'MODEL_NUM_CLASSES = 21: .* has 3 with the background'):
        classes_of(read_config(config, ['MODEL_NUM_CLASSES=21']))


def test_the_config_of_a_checkpoint_is_completed_and_changed():
    carried = {'MODEL_NAME': 'deeplabv1', 'MODEL_BACKBONE': 'resnet38', 'TEST_MULTISCALE': [1]}
    config = prediction_config('net.pth', carried)
    assert config['TEST_MULTISCALE'] == [1] and config['MODEL_OUTPUT_STRIDE'] == 8
    assert prediction_config('net.pth', carried, ['TEST_MULTISCALE=0.5,2'])['TEST_MULTISCALE'] == [
        0.5,
        2,
    ]
    file = str(EXPERIMENTS / 'EPS_deeplabv2_resnet101' / 'config.py')
    config = prediction_config('net.pth', None, [file, 'MODEL_OUTPUT_STRIDE=16'])
    assert config['MODEL_NAME'] == 'deeplabv2' and config['MODEL_BACKBONE'] == 'resnet101'
    assert config['MODEL_OUTPUT_STRIDE'] == 16
    # keys that a later version may carry are no matter
    assert prediction_config('net.pth', {**carried, 'LATER': 1}) == prediction_config('', carried)


def test_a_checkpoint_whose_network_is_not_known_is_refused():
    with pytest.raises(UserError, match='net.pth: carries no config.*MODEL_NAME=… MODEL_BACKBONE='):
        prediction_config('net.pth', None)
    with pytest.raises(UserError, match='carries no config.*--config MODEL_BACKBONE=…,'):
        prediction_config('net.pth', None, ['MODEL_NAME=deeplabv1'])
    with pytest.raises(UserError, match='net.pth: damaged: its config has TEST_FLIP = 7'):
        prediction_config('net.pth', {'TEST_FLIP': 7})
    with pytest.raises(UserError, match='MODEL_NAMES: no such config key'):
        prediction_config('net.pth', None, ['MODEL_NAMES=deeplabv1'])


def test_a_config_file_is_read_and_not_run(tmp_path):
    mark = tmp_path / 'was run'
    path = tmp_path / 'config.py'
    path.write_text(
        'import os\n'
        f'open({str(mark)!r}, "w")\n'
        "config_dict = {'ROOT': os.getcwd(), 'MODEL_NAME': 'deeplabv1', 'TEST_FLIP': False}\n"
    )
    assert read_config_file(str(path)) == {'MODEL_NAME': 'deeplabv1', 'TEST_FLIP': False}
    assert not mark.exists()
    path.write_text("config_dict = {'MODEL_NAME': str('deeplabv1')}\n")
    with pytest.raises(UserError, match='config.py: MODEL_NAME is computed there'):
        read_config_file(str(path))
    for text in ('config = {}', 'config_dict = {', '\0'):
        path.write_text(text)
        with pytest.raises(UserError, match='config.py: not a'):
            read_config_file(str(path))
    with pytest.raises(UserError, match='none.py: no such file'):
        read_config_file(str(tmp_path / 'none.py'))
