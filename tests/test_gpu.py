"""What runs on a GPU, run on a GPU of fake tensors (see fake_gpu.py): the training steps and the
inference of every stage, by the project's own functions.

No operation may meet tensors of two devices. The host may not wait for the GPU: not for a value to
be copied, not for a mask to be counted. And a step may not launch more kernels than it did.
"""

from argparse import Namespace

import numpy as np
import pytest
import torch

from fake_gpu import fake_gpu
from net import generate_net
from network import resnet38_aff, resnet38_boundary, resnet38_contrast, resnet38_contrast_eps
from network.baselines import BASELINES
from network.baselines.baseline import LossOptions
from network.cam_inference import predicted_classes, seeds
from network.device import to_device
from network.refiners import find_refiner
from segmentation_toy import config_of
from tool.method.affinity import affinity_loss, pair_counts, pair_labels
from tool.method.crf import DEEPLAB_CRF
from tool.method.label_aware import PROTOTYPES, LabelAwareOptions
from tool.method.torch_crf import crf_labels
from tool.train.engine import TrainOptions, _parts, _update
from tool.train.precision import DTYPES, choose_algorithms
from tool.train.set_up import place
from utils.testing import mean_logits
from utils.training import mean_labelled, segmentation_loss

GPU = torch.device('cuda', 0)
WIDTH = 1 / 16
CAM_NETS = {'seam': resnet38_contrast, 'eps': resnet38_contrast_eps}
DEEPLABS = {
    'deeplabv1': {'MODEL_BACKBONE': 'resnet38', 'MODEL_BACKBONE_WIDTH': WIDTH},
    'deeplabv2': {'MODEL_BACKBONE': 'resnet18'},
    'deeplabv3plus': {'MODEL_BACKBONE': 'resnet18'},
}


@pytest.fixture
def gpu(monkeypatch):
    # a fake tensor has no values to hand over
    monkeypatch.setattr(torch.Tensor, 'numpy', lambda tensor: np.zeros(tensor.shape))
    with fake_gpu(monkeypatch) as gpu:
        yield gpu


@pytest.fixture(params=[True, False], ids=['deterministic', 'fast'])
def deterministic(request):
    choose_algorithms(GPU, request.param)
    yield request.param
    choose_algorithms(GPU, False)
    torch.backends.cudnn.benchmark = False


def train_a_step(gpu, net, losses, batch, amp, batch_facts=None, steps=1):
    """Do steps of training as the engine does them, and return the launches of the last.

    Args:
        losses: losses(forward, batch) gives the terms.
        batch: as a loader gives it, on the host.
    """
    options = TrainOptions('', len(batch['image']), 1, seed=0, amp=amp)
    net, forward = place(to_device(net, GPU), GPU, options)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def model(batch, step):
        return losses(forward, batch)

    scaler = torch.amp.GradScaler(enabled=False)
    for step in range(steps):
        gpu.forget()
        [part] = _parts(batch, 1, GPU, batch_facts)
        terms = _update(model, optimizer, scaler, [part], step)
    assert {term.device for term in terms.values()} == {GPU}
    assert gpu.waits == []
    assert any(parameter.grad is not None for parameter in net.parameters())
    # a real GPU updates all parameters in a few launches, a fake one each for itself
    of_optimizer = gpu.launches['add_'] + gpu.launches['mul_']
    return sum(gpu.launches.values()) - of_optimizer


def affinity_losses(forward, batch):
    labels = pair_labels(batch['label'])
    return affinity_loss(forward(batch['image']), *labels, batch['counts'])


def affinity_counts(batch):
    return {'counts': pair_counts(batch['label'])}


def deeplab_losses(forward, batch):
    logits = forward(batch['image'])
    return {'loss': segmentation_loss(logits, batch['mask'], batch['labelled'])}


# Launches of the forward and the backward pass of a step, {what: {amp: launches}}. Deterministic
# algorithms need no more of them: no sorts in place of the gradient of a resize.
LAUNCHES = {
    'seam published': {'off': 1752, 'bf16': 1968},
    'seam label_aware': {'off': 1902, 'bf16': 2118},
    'eps published': {'off': 1760, 'bf16': 1980},
    'eps label_aware': {'off': 1910, 'bf16': 2130},
    'affinity': {'off': 796, 'bf16': 885},
    'boundary': {'off': 9207, 'bf16': 9275},
    'deeplabv1': {'off': 483, 'bf16': 540},
    'deeplabv2': {'off': 352, 'bf16': 387},
    'deeplabv3plus': {'off': 406, 'bf16': 446},
}


def check_launches(launches, what, amp):
    """Compare a number of launches with the known one; PyTorch's versions differ a little."""
    expected = LAUNCHES[what][amp]
    assert abs(launches - expected) <= 0.05 * expected, (launches, expected)


@pytest.mark.parametrize('amp', ['off', 'bf16'])
@pytest.mark.parametrize('prototypes', PROTOTYPES)
@pytest.mark.parametrize('name', ['seam', 'eps'])
def test_a_step_of_stage_1_never_waits(gpu, name, prototypes, amp, deterministic):
    baseline = BASELINES[name]
    contrast = baseline.contrast_options()
    if prototypes == 'label_aware':
        common = torch.ones(20, dtype=torch.bool, device=GPU)
        contrast = baseline.contrast_options(LabelAwareOptions, bg_certain=0.1, common=common)
    options = LossOptions(view2_size=32, max_classes=2, contrast=contrast)

    def losses(forward, batch):
        return baseline.losses(forward, batch, options, None)

    batch = {
        'image': torch.empty(2, 3, 64, 64),
        'label': torch.empty(2, 20),
        'saliency': torch.empty(2, 1, 64, 64),
    }
    launches = train_a_step(gpu, CAM_NETS[name].Net(WIDTH), losses, batch, amp)
    check_launches(launches, f'{name} {prototypes}', amp)


@pytest.mark.parametrize('amp', ['off', 'bf16'])
def test_a_step_of_stage_2_never_waits(gpu, amp, deterministic):
    batch = {
        'image': torch.empty(2, 3, 96, 96),
        'label': torch.empty(2, 12, 12, dtype=torch.uint8),
    }
    launches = train_a_step(
        gpu, resnet38_aff.Net(WIDTH), affinity_losses, batch, amp, affinity_counts
    )
    check_launches(launches, 'affinity', amp)


@pytest.mark.parametrize('amp', ['off', 'bf16'])
def test_a_step_of_the_boundary_head_never_waits(gpu, amp, deterministic):
    refiner = find_refiner('irn')
    batch = {
        'image': torch.empty(2, 3, 96, 96),
        'label': torch.empty(2, 24, 24, dtype=torch.uint8),
    }

    def losses(forward, batch):
        return refiner.losses(forward(batch['image']), batch)

    def counts(batch):
        return {'counts': refiner.pair_counts(batch['label'])}

    net = resnet38_boundary.Net(WIDTH)
    launches = train_a_step(gpu, net, losses, batch, amp, counts)
    check_launches(launches, 'boundary', amp)


@pytest.mark.parametrize('amp', ['off', 'bf16'])
@pytest.mark.parametrize('name', list(DEEPLABS))
def test_a_step_of_stage_3_never_waits(gpu, name, amp, deterministic):
    config = config_of('EPS_deeplabv1_resnet101', MODEL_NAME=name, **DEEPLABS[name])

    batch = {
        'image': torch.empty(2, 3, 64, 64),
        'mask': torch.empty(2, 64, 64, dtype=torch.int64),
    }
    launches = train_a_step(gpu, generate_net(config), deeplab_losses, batch, amp, mean_labelled)
    check_launches(launches, name, amp)


# GiB at the peak of the second step of the published settings, {(stage, amp): …}: weights,
# gradients, momentum, activations. docs/cluster.md has them, and more, in a table.
PEAKS = {
    ('seam', 'off'): 5.77,
    ('seam', 'bf16'): 3.69,
    ('affinity', 'off'): 5.42,
    ('deeplabv1', 'off'): 6.12,
}


@pytest.mark.slow
@pytest.mark.parametrize('stage, amp', list(PEAKS))
def test_the_memory_of_a_published_step(gpu, stage, amp):
    image = torch.empty(8, 3, 448, 448)
    batch_facts = None
    if stage == 'seam':
        net = resnet38_contrast.Net()
        contrast = BASELINES['seam'].contrast_options()
        options = LossOptions(view2_size=128, max_classes=4, contrast=contrast)
        batch = {'image': image, 'label': torch.empty(8, 20)}

        def losses(forward, batch):
            return BASELINES['seam'].losses(forward, batch, options, None)

    elif stage == 'affinity':
        net = resnet38_aff.Net()
        losses, batch_facts = affinity_losses, affinity_counts
        batch = {'image': image, 'label': torch.empty(8, 56, 56, dtype=torch.uint8)}
    else:
        net = generate_net(config_of('SEAM_deeplabv1_resnet38'))
        net.backbone.fine_tune = True
        net.backbone.freeze(True)
        losses, batch_facts = deeplab_losses, mean_labelled
        batch = {
            'image': torch.empty(10, 3, 448, 448),
            'mask': torch.empty(10, 448, 448, dtype=torch.int64),
        }
    train_a_step(gpu, net, losses, batch, amp, batch_facts, steps=2)
    assert abs(gpu.peak / 2**30 - PEAKS[stage, amp]) < 0.05


def pictures_of(*sizes):
    """Pictures as a loader hands them over, uint8 [h, w, 3]."""
    return [torch.empty(*size, 3, dtype=torch.uint8) for size in sizes]


def on_gpu(net):
    return to_device(net, GPU).eval()


@pytest.mark.parametrize('amp', ['off', 'bf16'])
@pytest.mark.parametrize('name', ['seam', 'eps'])
def test_seeds_wait_only_for_their_result(gpu, name, amp):
    net = on_gpu(CAM_NETS[name].Net(WIDTH))
    item = {'classes': [3, 7], 'pictures': pictures_of((48, 40), (96, 80)), 'size': (96, 80)}
    gpu.forget()
    [made] = seeds(net, BASELINES[name], [item], GPU, DTYPES[amp], gate_pcm=name == 'seam')
    assert [made[class_id].shape for class_id in (3, 7)] == [(96, 80), (96, 80)]
    assert len(gpu.waits) == 1 and 'copy of 15360 values to cpu' in gpu.waits[0]


@pytest.mark.parametrize('name', ['seam', 'eps'])
def test_seeds_of_a_group_wait_only_for_their_results(gpu, name):
    """The host waits once for each picture that has classes, when all are computed."""
    net = on_gpu(CAM_NETS[name].Net(WIDTH))
    items = []
    for classes in ([3, 7], [], [7, 11, 19]):
        pictures = pictures_of((48, 40), (96, 80))
        items.append({'classes': classes, 'pictures': pictures, 'size': (96, 80)})
    launches = []
    for group in (items[:1], items):
        gpu.forget()
        made = seeds(net, BASELINES[name], group, GPU)
        launches.append(sum(gpu.launches.values()))
    assert [list(maps) for maps in made] == [[3, 7], [], [7, 11, 19]]
    copied = [wait.split(':')[0] for wait in gpu.waits]
    assert copied == ['copy of 15360 values to cpu', 'copy of 23040 values to cpu']
    # three pictures go through the network together: what is launched for each is not the network
    assert launches[1] - launches[0] < 0.1 * launches[0]


def test_a_pass_takes_no_more_memory_for_a_group(gpu):
    """At the largest scale of VOC's pictures a group goes through the network picture by picture.

    The maps of all pictures at the end are what a group needs besides.
    """
    net = on_gpu(resnet38_contrast.Net(WIDTH))
    peaks = []
    for count in (1, 4):
        items = []
        for _ in range(count):
            pictures = pictures_of((188, 250), (750, 1000))
            items.append({'classes': [3], 'pictures': pictures, 'size': (375, 500)})
        gpu.forget()
        seeds(net, BASELINES['seam'], items, GPU)
        peaks.append(gpu.peak)
    assert peaks[1] < 1.5 * peaks[0]


def test_predicted_classes_wait_only_for_their_number(gpu):
    net = on_gpu(resnet38_contrast.Net(WIDTH))
    pictures = pictures_of((48, 40), (48, 40))
    gpu.forget()
    assert len(predicted_classes(net, BASELINES['seam'], pictures, GPU, 0.5)) == 2
    assert len(gpu.waits) == 1 and 'copy of 40 values to cpu' in gpu.waits[0]


def test_the_walk_waits_only_for_its_result(gpu):
    net = on_gpu(resnet38_aff.Net(WIDTH))
    samples = []
    for channels in (3, 2):
        [picture] = pictures_of((90, 85))
        cam = torch.empty(channels, 12, 11)
        samples.append({'picture': picture, 'cam': cam, 'size': (90, 85)})
    for group in (samples[:1], samples):
        gpu.forget()
        walked = find_refiner('psa').walk(net, group, GPU, Namespace(beta=8, logt=6))
        assert [scores.shape for scores in walked] == [(3, 90, 85), (2, 90, 85)][: len(group)]
        assert len(gpu.waits) == len(group)
        assert all('to cpu: network/refiners/psa.py' in wait for wait in gpu.waits)


def test_the_boundary_walk_waits_only_for_its_result(gpu):
    net = on_gpu(resnet38_boundary.Net(WIDTH))
    samples = []
    for channels in (2, 1):
        [picture] = pictures_of((90, 85))
        cam = torch.empty(channels, 23, 22)
        samples.append({'picture': picture, 'cam': cam, 'size': (90, 85)})
    args = Namespace(beta=10, logt=8, bg_score=0.25)
    for group in (samples[:1], samples):
        gpu.forget()
        walked = find_refiner('irn').walk(net, group, GPU, args)
        assert [scores.shape for scores in walked] == [(3, 90, 85), (2, 90, 85)][: len(group)]
        assert len(gpu.waits) == len(group)
        assert all('to cpu: network/refiners/irn.py' in wait for wait in gpu.waits)


def test_logits_of_deeplab_wait_for_nothing(gpu):
    config = config_of('EPS_deeplabv1_resnet101', **DEEPLABS['deeplabv1'])
    net = on_gpu(generate_net(config))
    views = [torch.empty(3, 48, 40), torch.empty(3, 96, 80)]
    for count in (1, 3):
        gpu.forget()
        logits = mean_logits(net, [views] * count, (96, 80), GPU)
        assert logits.shape == (count, 21, 96, 80)
        assert gpu.waits == []


def test_the_crf_of_deeplabs_test_waits_for_nothing(gpu):
    vertices = 500
    lattices = []
    for dimensions, ordered in ((2, 0), (5, vertices)):
        corners = dimensions + 1
        lattices.append(
            [
                torch.zeros(96 * 80, corners, dtype=torch.int32),
                torch.zeros(96 * 80, corners),
                torch.zeros(ordered, dtype=torch.int32),
                torch.zeros(corners, vertices, 2, dtype=torch.int32),
            ]
        )
    probs = torch.empty(21, 96, 80, device=GPU)
    gpu.forget()
    mask = crf_labels(probs, lattices, DEEPLAB_CRF)
    assert mask.device == GPU and mask.dtype == torch.uint8 and mask.shape == (96, 80)
    assert gpu.waits == []
    assert sum(gpu.copies.values()) == 8  # the fields of the lattices
    # of ten steps; ten directions, two splats and two slices each
    assert gpu.launches['_embedding_bag_forward_only'] == 40
    assert sum(gpu.launches.values()) < 1000


def test_a_gpu_computes_channels_last_and_deeplabs_logits_in_float32(gpu):
    config = config_of('EPS_deeplabv1_resnet101', **DEEPLABS['deeplabv1'])
    options = TrainOptions('', 2, 1, seed=0)
    net, _ = place(to_device(generate_net(config), GPU), GPU, options)
    weight = net.backbone.b4.conv_branch2a.weight
    assert weight.device == GPU and weight.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast('cuda', torch.bfloat16):
        assert net(torch.empty(2, 3, 48, 40, device=GPU)).dtype == torch.float32


def test_the_fake_gpu_notices_waits_and_other_devices(gpu):
    """The tests above can fail."""
    on_device = torch.empty(4, device=GPU)
    on_host = torch.empty(4)
    on_host.to(GPU)
    on_host.to(GPU, non_blocking=True)
    on_device.cpu()
    on_device.sum().item()
    on_device[0] = False
    with pytest.raises(Exception, match='nonzero|data-dependent|Dynamic'):
        on_device[on_device > 0]
    lines = [wait.split(': ')[0] for wait in gpu.waits]
    assert lines[:4] == [
        'copy of 4 values to cuda',
        'copy of 4 values to cpu',
        'a value is read',
        'copy of 1 values to cuda',
    ]
    assert len(lines) == 5
    assert all('tests/test_gpu.py:' in wait for wait in gpu.waits)
    with pytest.raises(RuntimeError, match='device'):
        on_device + on_host
