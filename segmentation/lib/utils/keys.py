"""Every key of an experiment's config: what it means, what it may hold, and its default, which is
the published value. An experiment's config.py holds only what differs."""

from dataclasses import dataclass
from typing import Any

from tool.method.crf import BACKENDS, TEST_CRFS
from tool.run.command_line import AMP
from voc12.classes import NUM_CLASSES


@dataclass(frozen=True)
class Key:
    """A key of a config."""

    # type of its value; list: a list of numbers
    kind: type
    # None: every config has to give it
    default: Any
    # for `train.py --help`
    meaning: str
    # range of its number, or of each number of its list
    low: float | None = None
    high: float | None = None
    # the values it may have, if they can be listed
    choices: tuple = ()
    # of the list; None: any
    length: int | None = None
    # False is allowed too, for 'none'
    or_false: bool = False

    def allowed(self) -> str:
        """What it may hold, in words."""
        if self.choices:
            text = 'one of ' + ', '.join(map(str, self.choices))
        elif self.kind is str:
            text = 'a text'
        elif self.kind is bool:
            text = 'True or False'
        else:
            numbers = f'{self.length or "one or more"} numbers'
            text = {float: 'a number', int: 'a whole number', list: numbers}[self.kind]
            if self.low is not None and self.high is None:
                text += f' of at least {self.low:.6g}'
            elif self.low is not None:
                text += f' between {self.low:.6g} and {self.high:.6g}'
        return text + (' or False' if self.or_false else '')


KEYS = {
    'EXP_NAME': Key(str, None, 'names every file of the run'),
    # ---- data
    'DATA_NAME': Key(str, 'VOCDataset', 'the data set class of segmentation/lib/datasets'),
    'DATA_ROOT': Key(
        str,
        '../../../VOC2012',
        "the devkit's VOC2012 folder; paths are relative to where python is started",
    ),
    'DATA_PSEUDO_GT': Key(str, '', 'folder of pseudo masks <name>.png: set this'),
    'DATA_TRAIN_LIST': Key(
        str,
        'train_aug',
        'a list of ImageSets/Segmentation or voc12/, or a path ending in .txt',
    ),
    'DATA_WORKERS': Key(int, 4, 'processes that load pictures', low=0),
    'DATA_MEAN': Key(
        list,
        [0.485, 0.456, 0.406],
        "of the inputs; not of timm's models: they bring their own",
        low=0,
        high=1,
        length=3,
    ),
    'DATA_STD': Key(
        list, [0.229, 0.224, 0.225], 'of the inputs, like DATA_MEAN', low=1e-6, high=1, length=3
    ),
    'DATA_RANDOMCROP': Key(int, 448, 'side of the crops, in pixels', low=16),
    'DATA_RANDOMSCALE': Key(
        list, [0.5, 1.5], 'smallest and largest factor on the size', low=0.05, high=10, length=2
    ),
    'DATA_RANDOM_H': Key(int, 10, 'largest shift of the hue, ± degrees / 2', low=0, high=90),
    'DATA_RANDOM_S': Key(int, 10, 'largest shift of the saturation, ± of 255', low=0, high=255),
    'DATA_RANDOM_V': Key(int, 10, 'largest shift of the value, ± of 255', low=0, high=255),
    'DATA_RANDOMFLIP': Key(float, 0.5, 'probability of mirroring', low=0, high=1),
    # ---- network
    'MODEL_NAME': Key(str, None, 'deeplabv1, deeplabv2, deeplabv3 or deeplabv3plus'),
    'MODEL_BACKBONE': Key(
        str, None, 'resnet38, resnet18, 34, 50, 101, 152, or an ImageNet model of timm'
    ),
    'MODEL_BACKBONE_PRETRAIN': Key(
        str,
        False,
        "ImageNet weights: for a ResNet a .pth (torchvision's, or a deep-stem one), for ResNet-38 "
        'a .params or a checkpoint of stage 1; False trains from scratch',
        or_false=True,
    ),
    'MODEL_BACKBONE_DILATED': Key(bool, True, 'False: output stride 32'),
    'MODEL_BACKBONE_DEEPBASE': Key(
        bool,
        True,
        'ResNet stem of three 3x3 convolutions; read from the weights where there are any',
    ),
    'MODEL_BACKBONE_WIDTH': Key(
        float,
        1.0,
        'of ResNet-38; read from the weights where there are any',
        low=1 / 32,
        high=4,
    ),
    'MODEL_OUTPUT_STRIDE': Key(int, 8, 'where dilated', choices=(8, 16)),
    'MODEL_NUM_CLASSES': Key(
        int,
        NUM_CLASSES,
        'with the background; where it is not set, as many as DATA_ROOT has (its classes.txt)',
        low=2,
        high=255,
    ),
    'MODEL_ASPP_OUTDIM': Key(int, 256, 'channels of deeplabv2, v3 and v3plus', low=1),
    'MODEL_SHORTCUT_DIM': Key(int, 48, 'channels of the shortcut of deeplabv3plus', low=1),
    'MODEL_FREEZEBN': Key(
        bool,
        False,
        "the backbone's BatchNorm in eval mode (always so in a pretrained ResNet-38)",
    ),
    'MODEL_CLS_STD': Key(
        float,
        False,
        'initial weights of the classifier; False: kaiming. Take 0.01 for short runs',
        low=0,
        high=1,
        or_false=True,
    ),
    'MODEL_SAVE_DIR': Key(str, 'model', 'folder of checkpoints, logs and training states'),
    # ---- optimisation
    'TRAIN_LR': Key(float, 0.001, 'of the backbone; new layers take 10 times that', low=0),
    'TRAIN_MOMENTUM': Key(float, 0.9, 'of SGD', low=0, high=1),
    'TRAIN_WEIGHT_DECAY': Key(float, 0.0005, 'of weights; biases have none', low=0),
    'TRAIN_BN_MOM': Key(
        float,
        0.0003,
        "BatchNorm's momentum in new layers and ResNet-38; take 0.1 for runs of a few hundred "
        'iterations',
        low=0,
        high=1,
    ),
    'TRAIN_POWER': Key(float, 0.9, 'of the polynomial decay', low=0),
    'TRAIN_BATCHES': Key(int, 10, 'pictures an iteration, all processes together', low=1),
    'TRAIN_ITERATION': Key(int, 20000, 'iterations of the run', low=1),
    'TRAIN_ACCUMULATE': Key(
        int,
        1,
        'parts a process works on its share of a batch in, to save memory',
        low=1,
    ),
    'TRAIN_AMP': Key(
        str,
        'off',
        'the network in 16 bits (auto: bf16 where it is faster); off is float32, as published',
        choices=AMP,
    ),
    'TRAIN_CHANNELS_LAST': Key(bool, False, 'in float32 too: faster for narrow networks on a CPU'),
    'TRAIN_COMPILE': Key(bool, False, 'torch.compile: minutes to start, then faster steps'),
    'TRAIN_SAVE_ITERS': Key(
        int,
        5000,
        'iterations between two checkpoints and training states; 0 for the last only',
        low=0,
    ),
    'TRAIN_TBLOG': Key(bool, True, 'TensorBoard: loss, and pictures with label and prediction'),
    'TRAIN_SEED': Key(int, 0, 'decides every random choice', low=0),
    # ---- test
    'TEST_MULTISCALE': Key(
        list,
        [0.5, 0.75, 1.0, 1.25, 1.5, 1.75],
        'factors on the size, averaged over',
        low=0.05,
        high=10,
    ),
    'TEST_FLIP': Key(bool, True, 'average over the mirror image too'),
    'TEST_CRF': Key(str, 'deeplab', 'constants of the dense CRF', choices=tuple(TEST_CRFS)),
    'TEST_CRF_BACKEND': Key(
        str,
        BACKENDS[0],
        'what computes it: pydensecrf where it is installed; they differ by rounding',
        choices=BACKENDS,
    ),
    'TEST_SAVE_DIR': Key(str, 'result', 'folder of the predictions'),
}
# keys that decide how fast, where and what is shown, but not the trained weights
NO_DECISION = ('DATA_ROOT', 'DATA_WORKERS', 'MODEL_SAVE_DIR', 'TRAIN_SAVE_ITERS', 'TRAIN_TBLOG')


def with_defaults(config: dict) -> dict:
    """A config with the default of every key that it does not give, in the order of KEYS; keys that
    are unknown stay as they are."""
    complete = {}
    for name, key in KEYS.items():
        if name in config:
            complete[name] = config[name]
        elif key.default is not None:
            complete[name] = list(key.default) if key.kind is list else key.default
    return {**complete, **config}


def describe_keys() -> str:
    """All keys for --help: what they may hold, their defaults and what they mean."""
    lines = ['config keys (their values are those of config.py, else the defaults):']
    for name, key in KEYS.items():
        default = 'no default' if key.default is None else f'default {key.default!r}'
        lines.append(f'  {name}: {key.allowed()}; {default}')
        lines.append(f'      {key.meaning}')
    return '\n'.join(lines)
