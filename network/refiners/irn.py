"""IRN's class boundaries as a refiner (docs/method.md §10.13)."""

import argparse
import os

import numpy as np
import torch

from network.backbone import Backbone
from network.refiners.flags import REQUIRED
from network.refiners.refiner import Refiner
from network.views import add_mirrored_back, images_of, passes, with_mirror_images
from network.weights import BOUNDARY
from tool.files.atomic import need_folder
from tool.files.stage_of_input import BOUNDARY_LABELS, need_stage
from tool.method.affinity import affinity_loss, pair_counts, pair_labels
from tool.method.boundary import (
    BETA,
    BOUNDARY_STRIDE,
    LOGT,
    TRAIN_RADIUS,
    boundary_affinity,
    boundary_walk,
    scores_with_background,
)
from tool.method.class_set import ClassSet
from tool.run.errors import UserError
from tool.train.inputs import Input, files_input
from tool.train.optimiser import make_optimizer
from voc12.aff_data import BoundaryTrainSet, WalkSet, padded
from voc12.layout import check_masks
from voc12.normalisation import Normalisation

# The backbone where neither --backbone nor the weights name one.
DEFAULT_BACKBONE = 'resnet50'


class Irn(Refiner):
    """The boundary head: no boundary between two pixels means a high affinity.

    Only the foreground classes walk. The background has a constant score afterwards. The attributes
    are explained in Refiner.
    """

    name = 'irn'
    networks = BOUNDARY
    mark = 'boundary.weight'
    stride = BOUNDARY_STRIDE
    training_flags = {
        'label_dir': REQUIRED,
        'batch_size': 32,
        'crop_size': 512,
        'max_epochs': 3,
        'lr': 0.1,
        'lr_new_factor': 1.0,
        'wt_dec': 1e-4,
    }
    walk_flags = {'beta': BETA, 'logt': LOGT, 'bg_score': 0.25}

    def check_flags(self, args: argparse.Namespace) -> None:
        no_effect = {
            '--freeze': args.freeze is not None,
            '--layer_decay': args.layer_decay is not None,
            '--grad_checkpointing': args.grad_checkpointing,
        }
        for flag, is_given in no_effect.items():
            if is_given:
                raise UserError(f'{flag}: the backbone of irn is frozen as a whole; leave it out')

    def backbone(self, args: argparse.Namespace) -> str | None:
        if args.backbone is None and args.weights == 'imagenet':
            return DEFAULT_BACKBONE
        return args.backbone

    def read_inputs(
        self, args: argparse.Namespace, names: list[str], classes: ClassSet
    ) -> tuple[list[Input], list[str]]:
        fix = 'make the label maps with aff_prepare.py --irn from these pictures'
        need_folder(args.label_dir, fix)
        need_stage(args.label_dir, BOUNDARY_LABELS, '--label_dir')
        check_masks(args.label_dir, args.voc12_root, names, fix)
        labels = [os.path.join(args.label_dir, name + '.png') for name in names]
        return [files_input('label maps', args.label_dir, labels)], []

    def train_set(
        self, args: argparse.Namespace, names: list[str], normalisation: Normalisation
    ) -> BoundaryTrainSet:
        return BoundaryTrainSet(
            args.voc12_root, names, args.label_dir, args.crop_size, args.seed, normalisation
        )

    def losses(
        self, output: torch.Tensor, batch: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        pairs = boundary_affinity(output.sigmoid(), TRAIN_RADIUS)
        background, foreground, negative = pair_labels(batch['label'], TRAIN_RADIUS)
        return affinity_loss(pairs, background, foreground, negative, batch['counts'])

    def pair_counts(self, label: torch.Tensor) -> torch.Tensor:
        return pair_counts(label, TRAIN_RADIUS)

    def optimizer(self, net: Backbone, args: argparse.Namespace) -> torch.optim.Optimizer:
        """One group of all that is trained, the head: published are one rate and one decay."""
        head = [parameter for parameter in net.parameters() if parameter.requires_grad]
        lr = args.lr * args.lr_new_factor
        groups = [{'params': head, 'lr': lr, 'weight_decay': args.wt_dec}]
        return make_optimizer(args.optimizer, groups, lr, args.wt_dec, args.momentum)

    def walk_set(self, args: argparse.Namespace, names: list[str]) -> WalkSet:
        return WalkSet(args.voc12_root, names, args.cam_dir, None, stride=BOUNDARY_STRIDE)

    @torch.inference_mode()
    def walk(
        self, net: Backbone, samples: list[dict], device: torch.device, args: argparse.Namespace
    ) -> list[np.ndarray]:
        pictures = [sample['picture'] for sample in samples]
        images = padded(images_of(pictures, net.normalisation, device), BOUNDARY_STRIDE)
        walked = []
        for sample, boundary in zip(samples, mean_boundaries(net, images)):
            cam = sample['cam'].to(device, non_blocking=True)
            scores = boundary_walk(cam, boundary, beta=args.beta, logt=args.logt)
            walked.append(scores_with_background(scores, sample['size'], args.bg_score))
        return [scores.cpu().numpy() for scores in walked]


def mean_boundaries(net: Backbone, images: torch.Tensor) -> torch.Tensor:
    """B, the boundaries of pictures: σ of the mean of the logits of each and its mirror image.

    Args:
        net: the network of a boundary head.
        images: normalised, [N, 3, H, W], H and W multiples of 4.
    Returns:
        [N, H/4, W/4].
    """
    logits = torch.cat([net(part) for part in passes(with_mirror_images(images))])
    both = add_mirrored_back(logits[:, None])[:, 0]
    return (both / 2).sigmoid()


REFINER = Irn()
