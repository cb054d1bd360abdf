"""network/resnet38d.py: the published keys and shapes, every width read back, and what is
frozen."""

import pytest
import torch

from mini import GOLDEN
from network.resnet38d import FROZEN, ResNet38, check_width, scaled, width_of
from recipe import fill, normal
from tool.method import plain
from tool.run.errors import UserError

KEYS = GOLDEN / 'keys'


def published(name, heads, prefix=''):
    """(key, shape) of the backbone in a published checkpoint, in its order."""
    rows = [
        line.partition(' ')[::2] for line in (KEYS / f'{name}.keys.txt').read_text().splitlines()
    ]
    return [
        (key.removeprefix(prefix), shape)
        for key, shape in rows
        if key.startswith(prefix) and not key.startswith(heads)
    ]


@pytest.fixture(scope='module')
def full_state():
    with torch.device('meta'):
        return ResNet38().state_dict()


@pytest.mark.parametrize(
    'name, heads, prefix',
    [
        ('resnet38_contrast.seam', ('f',), ''),
        ('resnet38_contrast.eps', ('f', 'proj'), ''),
        ('resnet38_aff', ('f',), ''),
        ('deeplabv1_38', ('cls', 'conv_fov', 'bn_fov'), 'backbone.'),
    ],
)
def test_keys_and_shapes_are_the_published_ones(full_state, name, heads, prefix):
    ours = [(key, 'x'.join(map(str, value.shape))) for key, value in full_state.items()]
    assert (
        len(ours) == 191 + 37
    )  # tensors, and a counter in each BatchNorm: 15 blocks · 2 + 2 bottlenecks · 3 + bn7
    assert published(name, heads, prefix) == ours


def test_taps(full_state):
    net = ResNet38(1 / 16).eval()
    x = torch.randn(2, 3, 41, 70, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        taps = net.features(x)
    assert {name: tuple(tap.shape) for name, tap in taps.items()} == {
        'conv3': (2, 16, 11, 18),
        'conv4': (2, 32, 6, 9),
        'conv5': (2, 64, 6, 9),
        'conv6': (2, 256, 6, 9),
    }
    assert all(tap.shape[1] == net.channels[name] and tap.min() == 0 for name, tap in taps.items())


def test_features_and_gradients_are_those_of_the_plain_formulation():
    net = fill(ResNet38(1 / 16)).eval()
    x = normal('image', 1, 3, 41, 70)
    expected = plain.resnet38(net, x)
    taps = net.features(x)
    for name, tap in expected.items():
        assert torch.equal(taps[name], tap)
    gradients = [
        torch.autograd.grad(
            sum(out[name].mean() for name in expected), net.b5.conv_branch2a.weight
        )[0]
        for out in (taps, expected)
    ]
    torch.testing.assert_close(*gradients)


def test_dilations_and_dropout():
    net = ResNet38(1 / 16)
    convs = {
        name: module for name, module in net.named_modules() if isinstance(module, torch.nn.Conv2d)
    }
    dilation = {name: conv.dilation[0] for name, conv in convs.items() if conv.dilation != (1, 1)}
    assert dilation == {
        'b5.conv_branch2b1': 2,
        'b5_1.conv_branch2a': 2,
        'b5_1.conv_branch2b1': 2,
        'b5_2.conv_branch2a': 2,
        'b5_2.conv_branch2b1': 2,
        'b6.conv_branch2b1': 4,
        'b7.conv_branch2b1': 4,
    }
    assert [module.p for module in net.modules() if isinstance(module, torch.nn.Dropout2d)] == [
        0.3,
        0.3,
        0.5,
        0.5,
    ]


def test_plain_block_with_and_without_a_projection():
    """Pre-activation: out = shortcut + conv(relu(bn(conv(relu(bn(x)))))), shortcut x or
    conv_branch1(relu(bn(x)))."""
    net = ResNet38(1 / 16).eval()
    relu, x = torch.relu, torch.randn(1, 16, 9, 9, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        block = net.b2_1
        inner = relu(block.bn_branch2b1(block.conv_branch2a(relu(block.bn_branch2a(x)))))
        torch.testing.assert_close(block(x.clone())[0], x + block.conv_branch2b1(inner))
        block = net.b2
        first = relu(block.bn_branch2a(x))
        inner = relu(block.bn_branch2b1(block.conv_branch2a(first)))
        torch.testing.assert_close(
            block(x.clone())[0], block.conv_branch1(first) + block.conv_branch2b1(inner)
        )
        torch.testing.assert_close(block(x.clone())[1], first)


@pytest.mark.parametrize('parts', [1, 2, 3, 4, 5, 7, 8, 13, 16, 21, 31, 32, 33, 48, 64])
def test_width_is_read_back_from_the_shapes(parts):
    width = parts / 32
    with torch.device('meta'):
        state = ResNet38(width).state_dict()
        assert width_of(state) == width
        assert (
            width_of({'backbone.' + key: value for key, value in state.items()}, 'backbone.')
            == width
        )
        again = ResNet38(width_of(state)).state_dict()
    assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in state.items()}
    assert len([key for key in state if 'num_batches' not in key]) == 191
    assert state['conv1a.weight'].shape[0] == scaled(64, width) >= 16


@pytest.mark.parametrize('width', [0, -1, 0.3, 1 / 64, 5, float('nan')])
def test_other_widths_are_refused(width):
    with pytest.raises(UserError, match='--width .*: must be a multiple of 1/32'):
        check_width(width)


def test_no_backbone_is_a_key_error():
    with pytest.raises(KeyError, match='bn7.weight'):
        width_of({'conv1.weight': torch.ones(1)})


def backward(net):
    """One training step's gradients and the change of BatchNorm's statistics."""
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    torch.manual_seed(0)
    sum(tap.mean() for tap in net.features(torch.randn(2, 3, 33, 33)).values()).backward()
    moved = {name for name, buffer in net.named_buffers() if not torch.equal(buffer, before[name])}
    return {name for name, parameter in net.named_parameters() if parameter.grad is not None}, moved


def test_fine_tuning_freezes_early_blocks_and_every_batch_norm():
    net = ResNet38(1 / 16).train()
    trained, moved = backward(net)
    assert moved == set()
    assert trained == {
        name
        for name, _ in net.named_parameters()
        if 'bn' not in name and name.split('.')[0] not in FROZEN
    }
    assert not any(m.training for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert all(m.training for m in net.modules() if isinstance(m, torch.nn.Dropout2d))


def test_training_from_scratch_trains_everything():
    net = ResNet38(1 / 16).train()
    net.train_from_scratch()
    trained, moved = backward(net)
    assert trained == {name for name, _ in net.named_parameters()}
    assert moved == {name for name, _ in net.named_buffers()}
    net.eval()
    assert not any(module.training for module in net.modules())
    net.train()
    assert all(module.training for module in net.modules())


def test_from_scratch_a_block_starts_as_its_shortcut():
    torch.manual_seed(0)
    net = ResNet38(1 / 16)
    x = torch.randn(1, 16, 9, 9)
    assert (net.b2_1(x)[0] != x).any()
    net.train_from_scratch()
    assert torch.equal(net.b2_1(x)[0], x)
    first = torch.relu(net.b3.bn_branch2a(x))
    assert torch.equal(net.b3(x)[0], net.b3.conv_branch1(first))


def test_from_scratch_keeps_the_mode_it_finds():
    net = ResNet38(1 / 16).eval()
    net.train_from_scratch()
    assert not any(module.training for module in net.modules())
