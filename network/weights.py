"""Where a network's weights come from: ImageNet `.params`, a bare state dict, or scratch; widths are read from the weights."""
from collections.abc import Callable
from importlib import import_module

import torch
from torch import nn

from network.resnet38d import ResNet38, width_of
from tool.errors import UserError
from tool.files import load_checkpoint
from tool.mxnet_params import resnet38_from_mxnet


def find_net(network: str) -> Callable[..., ResNet38]:
    """The `Net` class of a dotted module name (--network).

    Raises:
        UserError: no such module, or it has no Net.
    """
    try:
        return import_module(network).Net
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f'--network {network}: no such network ({error}); '
                        'give a module that has a class Net, e.g. network.resnet38_contrast') from None


def _width(path: str, state: dict) -> float:
    try:
        return width_of(state)
    except KeyError:
        raise UserError(f'{path}: no ResNet-38 in this checkpoint (it has no bn7.weight); it is of another network') from None


def net_for_training(network: str, weights: str, width: float = None,
                     say: Callable[[str], None] = print) -> ResNet38:
    """A network ready to be trained from `weights`.

    Args:
        network: dotted module name.
        weights: an MXNet `.params` file, a state dict (of this network, or any with the same backbone), or 'scratch'.
        width: only needed for 'scratch' (None: 1); else it must agree with the file.
        say: gets one line on what was loaded and how BatchNorm is treated.
    Raises:
        UserError: unreadable file, another backbone, or a width that contradicts it.
    """
    make = find_net(network)
    if weights == 'scratch':
        net = make(width or 1.0)
        net.train_from_scratch()
        say(f'weights: from scratch at width {width or 1.0}; BatchNorm trains and nothing is frozen')
        return net
    state = resnet38_from_mxnet(weights) if weights.endswith('.params') else load_checkpoint(weights)
    state = {key: torch.as_tensor(value) for key, value in state.items()}
    found = _width(weights, state)
    if width is not None and width != found:
        raise UserError(f'--width {width}: {weights} is of width {found}; leave --width out, it is read from the weights')
    net = make(found)
    own = net.state_dict()
    used = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    lost = [key for key in ResNet38(found).state_dict() if key not in used and not key.endswith('num_batches_tracked')]
    if lost:
        raise UserError(f'{weights}: lacks the backbone tensor {lost[0]} or has it in another shape '
                        f'({len(lost)} of them); it is of another network')
    net.load_state_dict(used, strict=False)
    fresh = sorted({key.split('.')[0] for key in own if key not in used and not key.endswith('num_batches_tracked')})
    unused = sorted({key.split('.')[0] for key in state if key not in used})
    say(f'weights: {weights} at width {found}, fine-tuned: BatchNorm and the first blocks stay frozen'
        + (f'; initialised anew: {", ".join(fresh)}' if fresh else '')
        + (f'; not used: {", ".join(unused)}' if unused else ''))
    return net


def net_from_checkpoint(network: str, weights: str, state: dict = None) -> nn.Module:
    """A trained network in eval mode, loaded strictly; `state` saves reading the file again.

    Raises:
        UserError: the checkpoint is of another network; names a key that does not fit.
    """
    make = find_net(network)
    state = load_checkpoint(weights) if state is None else state
    with torch.device('meta'):  # neither initialised nor in memory twice: it takes the checkpoint's own tensors
        net = make(_width(weights, state))
    own = net.state_dict()
    wrong = [f'lacks {key}' for key in own if key not in state] + [f'has {key} too many' for key in state if key not in own]
    wrong += [f'{key} is {tuple(state[key].shape)}, expected {tuple(value.shape)}'
              for key, value in own.items() if key in state and state[key].shape != value.shape]
    if wrong:
        raise UserError(f'{weights}: not a checkpoint of {network}: it {wrong[0]}'
                        + (f' (and {len(wrong) - 1} more differences)' if len(wrong) > 1 else ''))
    net.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()}, assign=True)
    return net.eval()
