"""A training step of every stage on generated tensors, as the stage's script does it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from network import resnet38_aff, resnet38_boundary
from network.baselines import BASELINES
from network.baselines.baseline import LossOptions
from network.device import to_device
from network.refiners import find_refiner
from network.weights import find_net
from tool.train.optimiser import make_optimizer, param_groups
from tool.train.precision import fast_forward, grad_scaler
from voc12.classes import NUM_CLASSES, NUM_FOREGROUND

STAGES = ('seam', 'eps', 'affinity', 'boundary', 'deeplab')
# The stages in which a refiner's network is trained: {stage: name of the refiner}.
REFINED = {'affinity': 'psa', 'boundary': 'irn'}


@dataclass(frozen=True)
class Setting:
    """The size of everything that is measured."""

    # where it runs
    device: torch.device
    # factor on the channels of ResNet-38
    width: float = 1.0
    # side of the training crops in pixels
    crop: int = 448
    # pictures in a step
    batch: int = 8
    # steps that are timed
    steps: int = 10
    # pixels (H, W) of a picture in inference, and the scales of its views
    picture: tuple[int, int] = (375, 500)
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    # pictures that are timed in inference
    pictures: int = 16
    # folder with VOC's layout whose pictures the dense CRF gets; None: generated ones
    voc12_root: str | None = None


@dataclass(frozen=True)
class StageStep:
    """A training step of a stage."""

    net: nn.Module
    # called with the number of the step, which seeds its random choices; returns the loss terms
    run: Callable[[int], dict[str, torch.Tensor]]


def make_step(
    stage: str, setting: Setting, amp: str = 'off', *, random_choices: bool = True
) -> StageStep:
    """The step of a stage, over a ResNet-38 with frozen BatchNorm, as when fine-tuning.

    Weights and inputs are the same for every device.

    Args:
        stage: one of STAGES.
        setting: the sizes.
        amp: a value of --amp.
        random_choices: with dropout, and hard pixel sampling in the contrast; without them the
            loss terms of two devices can be compared.
    """
    device = setting.device
    torch.manual_seed(0)
    net = _make_net(stage, setting.width)
    if not random_choices:
        for module in net.modules():
            if isinstance(module, nn.Dropout | nn.Dropout2d):
                module.p = 0.0
    net = to_device(net, device).train()
    forward = fast_forward(net, device, amp)
    losses_of = _losses(stage, forward, setting, random_choices)
    groups = param_groups(net, net.new_layers(), 1e-4, 5e-4)
    optimizer = make_optimizer('sgd', groups, 1e-4, 5e-4)
    scaler = grad_scaler(amp)
    batch = _batch(stage, setting)

    def run(number: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(number)
        on_device = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
        optimizer.zero_grad()
        terms = losses_of(on_device, number)
        scaler.scale(terms['loss']).backward()
        scaler.step(optimizer)
        scaler.update()
        return {name: value.detach() for name, value in terms.items()}

    return StageStep(net, run)


def _make_net(stage: str, width: float) -> Any:
    """The network of a stage, with random weights, on the CPU."""
    if stage in BASELINES:
        return find_net(BASELINES[stage].network)(width)
    if stage == 'affinity':
        return resnet38_aff.Net(width)
    if stage == 'boundary':
        return resnet38_boundary.Net(width)
    # segmentation/lib is no package but a folder of them
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'segmentation' / 'lib'))
    from net import generate_net

    net = generate_net(
        {
            'MODEL_NAME': 'deeplabv1',
            'MODEL_BACKBONE': 'resnet38',
            'MODEL_BACKBONE_WIDTH': width,
        }
    )
    net.backbone.fine_tune = True
    net.backbone.freeze(True)
    return net


def _batch(stage: str, setting: Setting) -> dict[str, torch.Tensor]:
    """Random inputs of a step, on the CPU, in page-locked memory for a GPU."""
    generator = torch.Generator().manual_seed(1)
    size = (setting.batch, setting.crop, setting.crop)
    batch = {'image': torch.randn(size[0], 3, *size[1:], generator=generator)}
    if stage in REFINED:
        refiner = find_refiner(REFINED[stage])
        cells = -(-setting.crop // refiner.stride)
        label = torch.randint(0, 3, (setting.batch, cells, cells), generator=generator)
        batch['label'] = label.to(torch.uint8)
        batch['counts'] = refiner.pair_counts(batch['label'])
    elif stage == 'deeplab':
        batch['mask'] = torch.randint(0, NUM_CLASSES, size, generator=generator)
    else:
        batch['label'] = torch.zeros(setting.batch, NUM_FOREGROUND)
        batch['label'][:, 14] = 1  # two classes a picture, one of them in all
        for picture in range(setting.batch):
            batch['label'][picture, picture % 14] = 1
        batch['saliency'] = torch.rand(size[0], 1, *size[1:], generator=generator)
    if setting.device.type == 'cuda':
        batch = {key: value.pin_memory() for key, value in batch.items()}
    return batch


def _losses(
    stage: str, forward: Callable, setting: Setting, random_choices: bool
) -> Callable[[dict, int], dict[str, torch.Tensor]]:
    """losses(batch, number of the step) of a stage."""
    if stage in REFINED:
        refiner = find_refiner(REFINED[stage])

        def refined(batch: dict, number: int) -> dict[str, torch.Tensor]:
            return refiner.losses(forward(batch['image']), batch)

        return refined
    if stage == 'deeplab':

        def deeplab(batch: dict, number: int) -> dict[str, torch.Tensor]:
            logits = forward(batch['image'])
            losses = nn.functional.cross_entropy(logits, batch['mask'], reduction='none')
            return {'loss': losses.mean()}

        return deeplab

    baseline = BASELINES[stage]
    options = LossOptions(
        view2_size=min(128, setting.crop // 2),
        max_classes=2,
        contrast=baseline.contrast_options(hard_pixels=random_choices),
    )
    generator = torch.Generator(setting.device)

    def cams(batch: dict, number: int) -> dict[str, torch.Tensor]:
        generator.manual_seed(number)
        return baseline.losses(forward, batch, options, generator)

    return cams
