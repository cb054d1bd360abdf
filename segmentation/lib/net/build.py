"""A network from an experiment's config, with backbone weights from whatever file the user has
(method §8)."""

from torch import nn

from net.deeplab import VERSIONS, DeepLab
from net.resnet import BLOCKS, ResNet
from network.class_check import check_classes
from network.resnet38d import ResNet38, width_of
from network.timm_backbone import TimmBackbone, read_description
from network.timm_weights import load_backbone, read_state, timm_state
from tool.files.atomic import need_file
from tool.files.checkpoints import check_state, load_checkpoint
from tool.method.class_set import ClassSet
from tool.run.errors import UserError
from utils.keys import with_defaults
from voc12.classes import VOC

BACKBONES = ('resnet38', *BLOCKS)  # any other name is timm's
_PRETRAIN_FIX = 'check MODEL_BACKBONE_PRETRAIN (a file of weights, or False to train from scratch)'


def generate_net(config: dict) -> DeepLab:
    """The network of a config; its backbone holds the weights of MODEL_BACKBONE_PRETRAIN, if that
    is a path.

    The stem of a ResNet (deep or plain) and the width of ResNet-38 come from those weights; without
    weights they are MODEL_BACKBONE_DEEPBASE and MODEL_BACKBONE_WIDTH. A ResNet-38 without weights
    is in its training-from-scratch regime. For a backbone of timm MODEL_BACKBONE_PRETRAIN may also
    be 'imagenet' or 'wheel'. Keys that the config does not give have their defaults.

    Raises:
        UserError: the weights are missing, damaged or of another backbone.
    """
    config = with_defaults(config)
    path = config['MODEL_BACKBONE_PRETRAIN']
    if config['MODEL_BACKBONE'] not in BACKBONES:
        net = _build(config)
        if path:
            if path not in ('imagenet', 'wheel'):
                need_file(path, _PRETRAIN_FIX)
            state, _, _ = timm_state(read_state(path), path, config['MODEL_BACKBONE'])
            load_backbone(net.backbone, state, path)
        return net
    weights = _read_backbone(path, config['MODEL_BACKBONE']) if path else {}
    net = _build({**config, **_shape(weights, config['MODEL_BACKBONE'])})
    if weights:
        own = net.backbone.state_dict()
        counters = {
            key: own[key] for key in own if key.endswith('num_batches_tracked')
        }  # older files lack them
        _load(net.backbone, {**counters, **weights}, path, f'a {config["MODEL_BACKBONE"]}')
    elif isinstance(net.backbone, ResNet38):
        net.backbone.train_from_scratch()
    return net


def load_net(config: dict, path: str, classes: ClassSet = VOC) -> DeepLab:
    """The network of a config with the weights of a trained checkpoint; stem, width and number of
    classes are the checkpoint's own.

    Raises:
        UserError: the file is missing, damaged, of another network or of other classes than the
            data's `classes`.
    """
    config = with_defaults(config)
    need_file(path, 'train first (python train.py), or name a checkpoint with --weights')
    state = load_checkpoint(path)
    check_classes(state, path, classes)
    config = {**config, 'MODEL_NUM_CLASSES': classes.num_classes}
    backbone = {
        key.removeprefix('backbone.'): value
        for key, value in state.items()
        if key.startswith('backbone.')
    }
    found = read_description(backbone, path)
    if found != (
        None
        if config['MODEL_BACKBONE'] in BACKBONES
        else (config['MODEL_BACKBONE'], _stride(config))
    ):
        what = (
            f'the timm backbone {found[0]} at output stride {found[1]}'
            if found
            else 'no backbone of timm'
        )
        raise UserError(
            f'{path}: is over {what}; check MODEL_BACKBONE, MODEL_OUTPUT_STRIDE and the file'
        )
    net = _build({**config, **_shape(backbone, config['MODEL_BACKBONE'])})
    _load(net, state, path, f'a {config["MODEL_NAME"]} over {config["MODEL_BACKBONE"]}')
    return net


def own_normalisation(config: dict, net: DeepLab) -> dict:
    """The config with a timm backbone's DATA_MEAN and DATA_STD, which it brings itself."""
    if not isinstance(net.backbone, TimmBackbone):
        return config
    return {
        **config,
        **{
            key: list(value)
            for key, value in zip(('DATA_MEAN', 'DATA_STD'), net.backbone.normalisation)
        },
    }


def _stride(config: dict) -> int:
    return config['MODEL_OUTPUT_STRIDE'] if config['MODEL_BACKBONE_DILATED'] else 32


def _build(config: dict) -> DeepLab:
    name, stride = config['MODEL_BACKBONE'], _stride(config)
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
        backbone, taps = ResNet38(config['MODEL_BACKBONE_WIDTH']), ('conv3', 'conv6')
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = config['TRAIN_BN_MOM']
    elif name in BLOCKS:
        backbone, taps = (
            ResNet(name, config['MODEL_BACKBONE_DEEPBASE'], stride),
            ('layer1', 'layer4'),
        )
    else:
        backbone, taps = TimmBackbone(name, stride), ('conv3', 'conv6')
        # nothing is frozen, as in a ResNet; MODEL_FREEZEBN decides on BatchNorm
        backbone.train_from_scratch()
    return VERSIONS[config['MODEL_NAME']](backbone, taps, config, config['MODEL_FREEZEBN'])


def _shape(weights: dict, name: str) -> dict:
    """What a backbone's weights say about its form, as config keys; {} where there are none (or
    they are foreign)."""
    if name == 'resnet38':
        return {'MODEL_BACKBONE_WIDTH': width_of(weights)} if 'bn7.weight' in weights else {}
    if 'conv1.0.weight' in weights or 'conv1.weight' in weights:
        return {'MODEL_BACKBONE_DEEPBASE': 'conv1.0.weight' in weights}
    return {}


def _read_backbone(path: str, name: str) -> dict:
    """Backbone tensors of a ResNet .pth, a ResNet-38 .params, or a checkpoint of any stage; heads
    are dropped."""
    need_file(path, _PRETRAIN_FIX)
    if path.endswith('.params'):
        from tool.files.mxnet_params import resnet38_from_mxnet

        return resnet38_from_mxnet(path)
    state = load_checkpoint(path)
    if any(key.startswith('backbone.') for key in state):
        return {
            key.removeprefix('backbone.'): value
            for key, value in state.items()
            if key.startswith('backbone.')
        }
    own = (
        ('conv1a.', 'b2', 'b3', 'b4', 'b5', 'b6', 'b7', 'bn7.')
        if name == 'resnet38'
        else ('conv1.', 'bn1.', 'layer')
    )
    return {key: value for key, value in state.items() if key.startswith(own)} or state


def _load(module: nn.Module, state: dict, path: str, what: str) -> None:
    """Strict load_state_dict; a difference is a UserError that names the file and the first key."""
    check_state(
        path, what, module.state_dict(), state, 'check MODEL_NAME, MODEL_BACKBONE and the file'
    )
    module.load_state_dict(state)
