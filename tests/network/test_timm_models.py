"""One small network of each of timm's families: the sizes and values of its features, a training
step, a checkpoint, all stages."""

import functools
import importlib
import sys

import pytest
import timm
import torch
import torch.nn.functional as F

import tiny_timm  # noqa: F401 (registers the tiny networks)
from mini import make_voc
from network.baselines import BASELINES
from network.timm_backbone import TimmBackbone, TimmTraining, at_stride
from network.timm_boundary import Net as BoundaryNet
from network.timm_contrast import Net
from network.timm_models import cut_into_tiles, join_tiles
from network.weights import net_for_training, net_from_checkpoint
from recipe import fill, normal
from segmentation_toy import config_of
from tool.files.checkpoints import save_checkpoint
from tool.run import command_line
from tool.run.errors import UserError

# {name: (its own picture size, the stride of its last map)}
TRANSFORMERS = {
    'test_vit': (160, 16),
    'test_vit2': (160, 16),  # a register token; its norm is behind the pooling
    'tiny_dinov2': (56, 14),
    'tiny_dinov2_reg': (56, 14),
    'tiny_clip': (64, 16),
    'tiny_siglip': (64, 16),
    'tiny_swin': (224, 32),
    'test_maxvit': (160, 32),
    'tiny_hiera': (224, 32),
}
CONVOLUTIONAL = {
    'tiny_convnextv2': (64, 32),
    'mobilenetv3_small_100': (64, 32),
    'tf_efficientnetv2_b0': (64, 32),
    'regnetx_002': (64, 32),
}
FAMILIES = {**TRANSFORMERS, **CONVOLUTIONAL}
DILATED = ('tiny_convnextv2', 'tf_efficientnetv2_b0', 'regnetx_002')
ODD_SIZES = ((75, 101), (33, 230), (129, 64))


def kept_description(net):
    return {'timm_model': net.timm_model.clone(), 'mean': net.mean.clone(), 'std': net.std.clone()}


def filled(net):
    """`fill`, but for what a checkpoint says about itself."""
    kept = kept_description(net)
    fill(net).load_state_dict(kept, strict=False)
    return net


def classified_map(whole, x):
    """What timm's own classifier gets of a network, as a map [N, C, h, w]."""
    features = whole.forward_features(x)
    if hasattr(whole, 'reroll'):  # Hiera
        features = whole.reroll(features, len(whole.blocks) - 1)
    if features.ndim == 3:
        tokens = features[:, whole.num_prefix_tokens :]
        side = int(tokens.shape[1] ** 0.5)
        features = tokens.reshape(len(x), side, side, -1)
        features = getattr(whole, 'fc_norm', torch.nn.Identity())(features)
    is_channels_last = features.shape[1] == features.shape[2]
    return features.permute(0, 3, 1, 2) if is_channels_last else features


def whole_and_backbone(name, output_stride):
    """timm's network as it classifies, and the backbone with the same weights."""
    whole = fill(timm.create_model(name)).eval()
    net = TimmBackbone(name, output_stride).eval()
    state = {f'model.{key}': value for key, value in whole.state_dict().items()}
    missing, _ = net.load_state_dict(state, strict=False)
    assert set(missing) == {'timm_model', 'mean', 'std'}
    return whole, net


@pytest.mark.parametrize('stride', [8, 16])
@pytest.mark.parametrize('name', FAMILIES)
def test_taps_have_their_sizes_for_any_picture(name, stride):
    net = TimmBackbone(name, stride).eval()
    assert net.source.is_dilated == (name in DILATED)
    for height, width in ODD_SIZES:
        with torch.no_grad():
            taps = net.features(torch.randn(2, 3, height, width))
        rows = -(-height // stride)
        columns = -(-width // stride)
        sizes = {tap: tuple(maps.shape[2:]) for tap, maps in taps.items()}
        assert sizes == {
            'conv3': (rows * stride // 4, columns * stride // 4),
            'conv4': (rows, columns),
            'conv5': (rows, columns),
            'conv6': (rows, columns),
        }
        assert {tap: maps.shape[1] for tap, maps in taps.items()} == net.channels
        assert all(maps.isfinite().all() for maps in taps.values())
        assert all(len(maps) == 2 for maps in taps.values())


@pytest.mark.parametrize('name', [name for name, (_, stride) in FAMILIES.items() if stride != 14])
def test_conv6_is_what_timm_classifies(name):
    size, stride = FAMILIES[name]
    whole, net = whole_and_backbone(name, stride)
    x = normal('x', 2, 3, size, size)
    with torch.no_grad():
        expected = classified_map(whole, x)
        torch.testing.assert_close(net.features(x)['conv6'], expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 1e-3


@pytest.mark.parametrize('name', ['tiny_dinov2', 'tiny_dinov2_reg'])
def test_patches_of_14_pixels_are_read_at_cells_of_16(name):
    whole, net = whole_and_backbone(name, 16)
    x = normal('x', 1, 3, 56, 56)
    with torch.no_grad():
        expected = classified_map(whole, x)  # 4×4 patches
        at_16 = F.interpolate(expected, scale_factor=14 / 16, mode='bilinear')
        conv6 = net.features(x)['conv6']
    assert expected.shape[2:] == conv6.shape[2:] == (4, 4) and at_16.shape[2:] == (3, 3)
    torch.testing.assert_close(conv6[:, :, :3, :3], at_16, rtol=1e-4, atol=1e-4)
    # the fourth cell has its centre at pixel 56, beyond that of the last patch
    torch.testing.assert_close(conv6[:, :, 3, 3], expected[:, :, 3, 3], rtol=1e-4, atol=1e-4)


def test_taps_of_a_vit_are_blocks_at_the_quarters_of_its_depth():
    whole, net = whole_and_backbone('test_vit2', 16)  # 8 blocks
    x = normal('x', 1, 3, 160, 160)
    with torch.no_grad():
        blocks = whole.forward_intermediates(x, intermediates_only=True)
        taps = net.features(x)
    assert net.source.stages == (1, 3, 5, 7)
    torch.testing.assert_close(taps['conv4'], blocks[3])
    torch.testing.assert_close(taps['conv5'], blocks[5])
    at_stride_4 = F.interpolate(blocks[1], scale_factor=4, mode='bilinear')
    torch.testing.assert_close(taps['conv3'], at_stride_4, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('own', [4, 8, 14, 16, 32])
@pytest.mark.parametrize('stride', [4, 8, 16, 32])
def test_maps_keep_their_places_on_another_grid(own, stride):
    """A map of the places of its cells becomes the places of the other grid's cells."""
    height, width = 448, 672
    rows = own * (torch.arange(height // own) + 0.5)  # in picture pixels
    columns = own * (torch.arange(width // own) + 0.5)
    maps = torch.stack(torch.meshgrid(rows, columns, indexing='ij'))[None]  # [1, 2, h, w]
    size = (height // stride, width // stride)
    made = at_stride(maps, own, stride, size)
    assert made.shape == (1, 2, *size)
    # outside the outermost centres there is nothing to read but the outermost cells
    at_rows = (stride * (torch.arange(size[0]) + 0.5)).clamp(rows[0], rows[-1])
    at_columns = (stride * (torch.arange(size[1]) + 0.5)).clamp(columns[0], columns[-1])
    expected = torch.stack(torch.meshgrid(at_rows, at_columns, indexing='ij'))[None]
    torch.testing.assert_close(made, expected)


def test_tiles_are_joined_where_they_were_cut():
    x = normal('x', 2, 3, 8, 12)
    tiles = cut_into_tiles(x, (4, 4))
    assert tiles.shape == (12, 3, 4, 4)
    assert torch.equal(tiles[7], x[1, :, 0:4, 4:8])  # the second tile of the second image
    assert torch.equal(join_tiles(tiles, 2, 3), x)


def test_a_tile_knows_nothing_of_the_others():
    net = filled(TimmBackbone('tiny_hiera', 32)).eval()
    assert net.source.tile == (224, 224)
    x = normal('x', 1, 3, 224, 448)
    with torch.no_grad():
        both = net.features(x)['conv6']
        right = net.features(x[..., 224:])['conv6']
    torch.testing.assert_close(both[..., 7:], right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', FAMILIES)
def test_a_training_step_moves_the_heads_and_keeps_what_is_frozen(name):
    net = filled(Net(name)).train()
    before = {key: value.detach().clone() for key, value in net.named_parameters()}
    trainable = {key for key, value in net.named_parameters() if value.requires_grad}
    optimizer = torch.optim.SGD([value for value in net.parameters() if value.requires_grad], 0.1)
    outputs = net(torch.randn(2, 3, 75, 101))
    sum(output.square().mean() for output in outputs).backward()
    optimizer.step()
    moved = {key for key, value in net.named_parameters() if not torch.equal(value, before[key])}
    assert moved <= trainable
    heads = {'fc8.weight', 'fc_proj.weight', 'f8_3.weight', 'f8_4.weight', 'f9.weight'}
    assert heads <= moved
    without_gradient = {
        key for key, value in net.named_parameters() if key in trainable and value.grad is None
    }
    # the layer behind the pooling of MobileNetV3
    assert all(key.startswith('model.conv_head.') for key in without_gradient)


@pytest.mark.parametrize('name', FAMILIES)
def test_a_checkpoint_comes_back_equal(name, tmp_path):
    net = filled(Net(name, 8)).eval()
    path = str(tmp_path / 'net.pth')
    save_checkpoint(path, net.state_dict())
    again = net_from_checkpoint(BASELINES['seam'].networks, path)
    assert (again.name, again.output_stride) == (name, 8)
    assert again.normalisation == net.normalisation
    x = normal('x', 1, 3, 75, 101)
    with torch.no_grad():
        for mine, its in zip(net(x), again(x)):
            assert torch.equal(mine, its)


@pytest.mark.parametrize(
    'name, part, first_trainable',
    [
        ('test_vit', 'none', 'cls_token'),
        ('test_vit', 'half', 'blocks.3.'),
        ('tiny_dinov2_reg', 'half', 'blocks.2.'),
        ('tiny_clip', 'half', 'blocks.2.'),
        ('tiny_hiera', 'half', 'blocks.2.'),
        ('test_vit', 'all', None),
        ('regnetx_002', 'all', None),
    ],
)
def test_freeze_chooses_what_is_frozen(name, part, first_trainable):
    net = TimmBackbone(name)
    net.freeze_part(part)
    trainable = [key for key, value in net.model.named_parameters() if value.requires_grad]
    if first_trainable is None:
        assert trainable == []
    else:
        assert trainable[0].startswith(first_trainable)
    net.train_from_scratch()
    assert all(value.requires_grad for value in net.parameters())


@pytest.mark.parametrize('name', TRANSFORMERS)
def test_half_of_a_transformer_is_frozen_without_the_flag(name):
    net = TimmBackbone(name)
    frozen = [value for value in net.model.parameters() if not value.requires_grad]
    share = len(frozen) / len(list(net.model.parameters()))
    assert net.frozen == 'half' and 0.3 < share < 0.7
    assert 'half of the layers' in net.frozen_layers


def test_gradient_checkpointing_changes_nothing_but_memory():
    saved = {}
    gradients = {}
    for is_used in (False, True):
        net = filled(Net('tiny_dinov2_reg')).train()
        net.dropout7.p = 0.0
        net.freeze_part('none')
        if is_used:
            net.checkpoint_gradients()
        kept = []

        def keep(tensor, kept=kept):
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = net(normal('x', 1, 3, 75, 101))
        sum(output.square().mean() for output in outputs).backward()
        saved[is_used] = sum(kept)
        gradients[is_used] = {
            key: value.grad for key, value in net.named_parameters() if value.grad is not None
        }
    assert saved[True] < 0.75 * saved[False]
    assert gradients[True].keys() == gradients[False].keys()
    for key, gradient in gradients[True].items():
        torch.testing.assert_close(gradient, gradients[False][key])


@pytest.mark.parametrize('name', ['mobilenetv3_small_050', 'regnetx_002'])
def test_gradient_checkpointing_updates_the_statistics_of_batchnorm_once(name):
    states = []
    for is_used in (False, True):
        net = filled(Net(name))
        net.train_from_scratch()
        net.train()
        net.dropout7.p = 0.0
        if is_used:
            net.checkpoint_gradients()
        views = [normal(f'{name}.{view}', 2, 3, 64, 64) for view in (1, 2)]
        outputs = [output for view in views for output in net(view)]
        sum(output.square().mean() for output in outputs).backward()
        states.append(net.state_dict())
        net.eval()
        with torch.no_grad():  # inference takes the statistics
            states[-1]['seeds'] = net(views[0])[0]
    plain, checkpointed = states
    assert plain.keys() == checkpointed.keys()
    for key, value in plain.items():
        torch.testing.assert_close(checkpointed[key], value, rtol=0, atol=0, msg=key)


def test_flags_of_training_reach_the_network(tmp_path):
    path = str(tmp_path / 'cam.pth')
    save_checkpoint(path, Net('test_vit').state_dict())
    said = []
    networks = BASELINES['seam'].networks
    net = net_for_training(networks, path, say=said.append, timm_training=TimmTraining('all', True))
    assert not any(value.requires_grad for value in net.model.parameters())
    assert net.model.grad_checkpointing
    assert 'fine-tuned: all layers of the backbone stay frozen' in said[0]
    with pytest.raises(UserError, match='--freeze half: nothing is frozen'):
        net_for_training(
            networks, 'scratch', backbone='test_vit', timm_training=TimmTraining('half')
        )
    with pytest.raises(UserError, match='are for backbones of timm'):
        net_for_training(networks, 'scratch', timm_training=TimmTraining('half'))


def test_the_boundary_head_takes_networks_that_can_be_dilated():
    assert BoundaryNet('regnetx_002').source.is_dilated
    with pytest.raises(UserError, match='backbone test_vit: the boundary head takes'):
        BoundaryNet('test_vit')


def test_a_network_without_maps_is_one_line():
    with pytest.raises(UserError, match='backbone coat_tiny: .*its output is a list') as error:
        TimmBackbone('coat_tiny')
    assert '\n' not in str(error.value) and len(str(error.value)) <= 300


@pytest.mark.parametrize('name', ['../../etc/passwd', 'hf-hub:timm/vit', 'x' * 1000, 'a\nb', ''])
def test_hostile_names_are_one_line(name):
    with pytest.raises(UserError, match='timm has no such model') as error:
        TimmBackbone(name)
    assert '\n' not in str(error.value) and len(str(error.value)) <= 300


# ---------------------------------------------------------------- the scripts


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    make_voc(root)
    return root


def run_all_stages(name, data, tmp_path, run, monkeypatch):
    """Stages 1, 2 and 3, two steps of every training."""
    learn = (
        *('--voc12_root', data, '--train_list', data / 'list.txt', '--batch_size', 2),
        *('--crop_size', 64, '--max_steps', 2, '--num_workers', 0, '--device', 'cpu'),
    )
    common = ('--infer_list', data / 'list.txt', '--voc12_root', data, '--jobs', 0)
    computing = ('--num_workers', 0, '--device', 'cpu')
    labels = ('--cls_labels', data / 'cls_labels.npy')
    cam = tmp_path / 'cam.pth'
    weights = tmp_path / 'weights.pth'
    save_checkpoint(str(weights), timm.create_model(name).state_dict())
    commands = {
        'contrast_train': (
            *('--weights', weights, '--backbone', name, *learn, *labels, '--tblog_dir', ''),
            *('--session_name', tmp_path / 'cam', '--optimizer', 'adamw', '--lr', 5e-5),
            *('--layer_decay', 0.75, '--grad_checkpointing'),
        ),
        'contrast_infer': (
            *('--weights', cam, *common, *labels, '--out_cam', tmp_path / 'seeds'),
            *('--scales', 1, *computing),
        ),
        'aff_prepare': (
            *(*common, '--cam_dir', tmp_path / 'seeds', '--out_crf', tmp_path / 'crf'),
            *('--alpha', 4, 24, '--crf_iters', 1),
        ),
        'aff_train': (
            *('--weights', cam, *learn, '--session_name', tmp_path / 'aff'),
            *('--la_crf_dir', tmp_path / 'crf' / '4.00'),
            *('--ha_crf_dir', tmp_path / 'crf' / '24.00', '--freeze', 'all'),
        ),
        'aff_infer': (
            *('--weights', tmp_path / 'aff.pth', *common, '--cam_dir', tmp_path / 'seeds'),
            *('--out_rw', tmp_path / 'rw', *computing),
        ),
    }
    for script, flags in commands.items():
        code, out, err = run(script, *flags)
        assert code == 0, f'{script}: {err}'
        if script == 'aff_train':
            assert f'{name} at output stride 8, fine-tuned: all layers' in out
    assert len(list((tmp_path / 'rw').glob('*.png'))) == 4

    training = importlib.import_module('utils.training')
    config = config_of(
        'EPS_deeplabv1_resnet101',
        MODEL_NAME='deeplabv3plus',
        MODEL_BACKBONE=name,
        MODEL_BACKBONE_PRETRAIN=str(cam),
        MODEL_OUTPUT_STRIDE=16,
        MODEL_SAVE_DIR=str(tmp_path / 'model'),
        DATA_ROOT=str(data),
        DATA_PSEUDO_GT=str(data / 'SegmentationClass'),
        DATA_TRAIN_LIST=str(data / 'list.txt'),
        DATA_RANDOMCROP=64,
        DATA_WORKERS=0,
        TRAIN_BATCHES=2,
        TRAIN_ITERATION=2,
        TRAIN_TBLOG=False,
        TRAIN_GRAD_CHECKPOINTING=True,
    )
    monkeypatch.setattr(sys, 'argv', ['train.py', '--device', 'cpu'])
    command_line.run(training.main, functools.partial(training.parse_args, config))
    assert (tmp_path / 'model' / f'{config["EXP_NAME"]}.pth').is_file()


def test_a_vision_transformer_goes_through_all_stages(data, tmp_path, run, monkeypatch):
    run_all_stages('tiny_dinov2_reg', data, tmp_path, run, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in FAMILIES if name != 'tiny_dinov2_reg'])
def test_every_family_goes_through_all_stages(name, data, tmp_path, run, monkeypatch):
    run_all_stages(name, data, tmp_path, run, monkeypatch)
