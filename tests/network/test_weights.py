"""network/weights.py: a network comes back from its weights, and other weights are refused."""

import pytest
import torch

from network import resnet38_contrast
from network.resnet38_aff import Net as AffNet
from network.weights import find_net, net_for_training, net_from_checkpoint
from recipe import fill
from tool.files.checkpoints import save_checkpoint
from tool.run.errors import UserError

SMALL = 0.0625


def test_width_comes_back_from_a_checkpoint(tmp_path):
    path = str(tmp_path / 'net.pth')
    net = fill(resnet38_contrast.Net(0.125))
    save_checkpoint(path, net.state_dict())
    loaded = net_from_checkpoint('network.resnet38_contrast', path)
    assert loaded.width == 0.125 and not loaded.training
    said = []
    assert net_for_training('network.resnet38_contrast', path, say=said.append).width == 0.125
    assert 'stay frozen' in said[0]
    with pytest.raises(UserError, match='is of width 0.125'):
        net_for_training('network.resnet38_contrast', path, 0.25)


def test_a_checkpoint_in_16_bits_becomes_a_network_in_32(tmp_path):
    path = str(tmp_path / 'net.pth')
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in fill(resnet38_contrast.Net(SMALL)).state_dict().items()
    }
    save_checkpoint(path, state)
    loaded = net_from_checkpoint('network.resnet38_contrast', path)
    assert all(
        torch.equal(value, state[key].to(value.dtype)) for key, value in loaded.state_dict().items()
    )
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_weights_are_in_memory_once():
    state = fill(resnet38_contrast.Net(SMALL)).state_dict()
    loaded = net_from_checkpoint('network.resnet38_contrast', 'net.pth', state)
    assert all(
        value.data_ptr() == state[key].data_ptr() for key, value in loaded.state_dict().items()
    )
    assert loaded.fc8.weight.requires_grad and not loaded.b2.conv_branch2a.weight.requires_grad


def test_backbone_of_another_stage_is_used_and_said(tmp_path):
    path = str(tmp_path / 'net.pth')
    trained = fill(resnet38_contrast.Net(SMALL))
    save_checkpoint(path, trained.state_dict())
    said = []
    net = net_for_training('network.resnet38_aff', path, say=said.append)
    assert torch.equal(net.b7.conv_branch1.weight, trained.b7.conv_branch1.weight)
    anew, unused = said[0].split('initialised anew: ')[1].split('; not used: ')
    assert 'f8_5' in anew and 'f9' in anew and 'fc8' in unused and 'fc_proj' in unused


def test_other_networks_are_refused(tmp_path):
    path = str(tmp_path / 'net.pth')
    save_checkpoint(path, AffNet(SMALL).state_dict())
    with pytest.raises(
        UserError, match='not a checkpoint of network.resnet38_contrast: fc8.weight is missing'
    ):
        net_from_checkpoint('network.resnet38_contrast', path)
    save_checkpoint(path, torch.nn.Linear(2, 2).state_dict())
    for load in (net_from_checkpoint, net_for_training):
        with pytest.raises(UserError, match='no ResNet-38 in this checkpoint'):
            load('network.resnet38_contrast', path)
    state = resnet38_contrast.Net(SMALL).state_dict()
    del state['b5.conv_branch1.weight']
    save_checkpoint(path, state)
    with pytest.raises(
        UserError,
        match='not weights of ResNet-38 at width 0.0625: b5.conv_branch1.weight is missing',
    ):
        net_for_training('network.resnet38_contrast', path)
    with pytest.raises(UserError, match='no such network'):
        find_net('network.resnet39')


def test_a_width_that_no_network_has_is_refused():
    with pytest.raises(UserError, match='--width 0: must be a multiple of 1/32 above 0'):
        net_for_training('network.resnet38_contrast', 'scratch', 0)


@pytest.mark.parametrize(
    'bn7', [torch.tensor(1.0), torch.ones(5), torch.ones(0), torch.ones(16, 8)]
)
def test_a_checkpoint_whose_width_is_none_is_of_no_resnet38(tmp_path, bn7):
    path = str(tmp_path / 'net.pth')
    save_checkpoint(path, {**resnet38_contrast.Net(SMALL).state_dict(), 'bn7.weight': bn7})
    for load in (net_for_training, net_from_checkpoint):
        with pytest.raises(UserError, match='net.pth: no ResNet-38 in this checkpoint'):
            load('network.resnet38_contrast', path)


def test_a_class_layer_without_rows_is_refused(tmp_path):
    path = str(tmp_path / 'net.pth')
    state = {**resnet38_contrast.Net(SMALL).state_dict(), 'fc8.weight': torch.tensor(1.0)}
    save_checkpoint(path, state)
    with pytest.raises(UserError, match='net.pth: fc8.weight is of 0 classes'):
        net_from_checkpoint('network.resnet38_contrast', path)


def test_weights_that_are_not_finite_start_nothing(tmp_path):
    path = str(tmp_path / 'net.pth')
    state = fill(resnet38_contrast.Net(SMALL)).state_dict()
    state['b3.conv_branch2a.weight'][0, 0, 0, 0] = float('nan')
    save_checkpoint(path, state)
    for load in (net_from_checkpoint, net_for_training):
        with pytest.raises(UserError, match='b3.conv_branch2a.weight holds values that are not'):
            load('network.resnet38_contrast', path)
    # what is not used does no harm: the class map is initialised anew
    state = fill(resnet38_contrast.Net(SMALL)).state_dict()
    state['fc8.weight'][:] = float('nan')
    save_checkpoint(path, state)
    net_for_training('network.resnet38_aff', path)
