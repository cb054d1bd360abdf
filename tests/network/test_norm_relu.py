"""network/norm_relu.py: the values of BatchNorm and ReLU, the gradient, and what is kept for it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from network import resnet38_contrast, resnet38d
from network.baselines import BASELINES
from network.baselines.baseline import LossOptions
from network.norm_relu import norm_relu
from recipe import fill, normal


def plain(norm, x):
    return F.relu(norm(x), inplace=True)


def frozen_norm():
    norm = fill(nn.BatchNorm2d(16)).eval()
    return norm.requires_grad_(False)


def kept_bytes(function, norm, x):
    """Bytes of the tensors that `function` keeps for its gradient, besides those of the norm."""
    own = {tensor.data_ptr() for tensor in norm.state_dict().values()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made = function(norm, x)
    return sum(kept.values()), made


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_the_same_bits(dtype, layout):
    norm = frozen_norm()
    weights = normal('weights', 2, 16, 9, 7)
    made = []
    for function in (plain, norm_relu):
        x = normal('x', 2, 16, 9, 7).to(dtype).contiguous(memory_format=layout).requires_grad_()
        y = function(norm, x)
        (y.float() * weights).sum().backward()
        made.append((y, x.grad))
    (expected, expected_gradient), (y, gradient) = made
    assert y.dtype == dtype and torch.equal(y, expected)
    assert y.is_contiguous(memory_format=layout)
    assert torch.equal(gradient, expected_gradient)


def test_a_frozen_norm_keeps_its_output_alone():
    x = normal('x', 2, 16, 40, 40).requires_grad_()
    map_bytes = x.nbytes
    kept, y = kept_bytes(norm_relu, frozen_norm(), x)
    assert y.nbytes <= kept < 1.1 * map_bytes
    assert kept_bytes(plain, frozen_norm(), x)[0] >= 2 * map_bytes


@pytest.mark.parametrize('training', [True, False])
def test_a_norm_that_trains_gets_its_gradient(training):
    x = normal('x', 2, 16, 9, 7)
    made = []
    for function in (plain, norm_relu):
        norm = fill(nn.BatchNorm2d(16)).train(training)
        function(norm, x).sum().backward()
        made.append((norm.weight.grad, norm.running_mean))
    assert torch.equal(made[0][0], made[1][0]) and torch.equal(made[0][1], made[1][1])


def terms_and_gradients(function, monkeypatch):
    """Of a step of SEAM with frozen norms."""
    monkeypatch.setattr(resnet38d, 'norm_relu', function)
    torch.manual_seed(0)  # of dropout
    net = fill(resnet38_contrast.Net(1 / 16)).train()
    label = torch.zeros(2, 20)
    label[0, 2] = label[0, 7] = label[1, 2] = 1
    batch = {'image': normal('x', 2, 3, 96, 96), 'label': label}
    baseline = BASELINES['seam']
    options = LossOptions(48, 2, contrast=baseline.contrast_options())
    terms = baseline.losses(net, batch, options, torch.Generator().manual_seed(0))
    terms['loss'].backward()
    gradients = {
        name: parameter.grad
        for name, parameter in net.named_parameters()
        if parameter.grad is not None
    }
    return terms, gradients


def test_a_step_of_seam_has_the_same_losses_and_gradients(monkeypatch):
    """Also f8_3's, whose gradient jumps where one of its outputs changes its sign: were the values
    only nearly the same, one output of 18,432 did, and the gradient moved by a hundredth."""
    expected_terms, expected = terms_and_gradients(plain, monkeypatch)
    terms, gradients = terms_and_gradients(norm_relu, monkeypatch)
    for name, term in terms.items():
        assert torch.equal(term, expected_terms[name]), name
    assert gradients.keys() == expected.keys() and 'f8_3.weight' in gradients
    for name, gradient in gradients.items():
        assert torch.equal(gradient, expected[name]), name
