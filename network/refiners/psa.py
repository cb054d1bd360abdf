"""AffinityNet as a refiner (docs/method.md §2.3, §4, §7); its published code is called PSA."""

import argparse
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from network.backbone import Backbone
from network.refiners.flags import REQUIRED
from network.refiners.refiner import Refiner
from network.views import images_of, passes
from network.weights import AFFINITY
from tool.files.places import same_place
from tool.files.stage_of_input import AFFINITY_MAPS, need_stage
from tool.method.affinity import FEATURE_STRIDE, affinity_loss, pair_counts, pair_labels
from tool.method.class_set import ClassSet
from tool.method.random_walk import BETA, LOGT, random_walk
from tool.run.errors import UserError
from tool.train.inputs import Input, files_input
from tool.train.optimiser import chosen_optimizer
from voc12.aff_data import AffinityTrainSet, WalkSet, padded
from voc12.layout import check_maps
from voc12.normalisation import Normalisation


class Psa(Refiner):
    """AffinityNet: similar features mean a high affinity. The attributes are explained in Refiner.

    The background walks too, from a constant score.
    """

    name = 'psa'
    networks = AFFINITY
    mark = 'f8_5.weight'
    stride = FEATURE_STRIDE
    training_flags = {
        'la_crf_dir': REQUIRED,
        'ha_crf_dir': REQUIRED,
        'batch_size': 8,
        'crop_size': 448,
        'max_epochs': 8,
        'lr': 0.01,
        'lr_new_factor': 10.0,
        'wt_dec': 5e-4,
    }
    walk_flags = {'beta': BETA, 'logt': LOGT, 'bg_score': 0.27}
    # none, as in the states of the time when there was no other refiner
    settings: Mapping[str, Any] = {}

    def read_inputs(
        self, args: argparse.Namespace, names: list[str], classes: ClassSet
    ) -> tuple[list[Input], list[str]]:
        fix = 'make the maps with aff_prepare.py from these pictures'
        layouts: dict[str, dict[str, int]] = {}
        check_map_folders(args.la_crf_dir, args.ha_crf_dir)
        for folder in (args.la_crf_dir, args.ha_crf_dir):
            layouts[folder] = check_maps(folder, args.voc12_root, names, fix)
        low = [os.path.join(args.la_crf_dir, name + '.npy') for name in names]
        high = [os.path.join(args.ha_crf_dir, name + '.npy') for name in names]
        learned_from = [
            files_input('low-α maps', args.la_crf_dir, low),
            files_input('high-α maps', args.ha_crf_dir, high),
        ]
        return learned_from, layout_notes(layouts, classes)

    def train_set(
        self, args: argparse.Namespace, names: list[str], normalisation: Normalisation
    ) -> AffinityTrainSet:
        return AffinityTrainSet(
            args.voc12_root,
            names,
            args.la_crf_dir,
            args.ha_crf_dir,
            args.crop_size,
            args.seed,
            normalisation,
        )

    def losses(
        self, output: torch.Tensor, batch: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        background, foreground, negative = pair_labels(batch['label'])
        return affinity_loss(output, background, foreground, negative, batch['counts'])

    def pair_counts(self, label: torch.Tensor) -> torch.Tensor:
        return pair_counts(label)

    def optimizer(self, net: Backbone, args: argparse.Namespace) -> torch.optim.Optimizer:
        return chosen_optimizer(net, args)

    def walk_set(self, args: argparse.Namespace, names: list[str]) -> WalkSet:
        return WalkSet(args.voc12_root, names, args.cam_dir, args.bg_score)

    @torch.inference_mode()
    def walk(
        self, net: Backbone, samples: list[dict], device: torch.device, args: argparse.Namespace
    ) -> list[np.ndarray]:
        pictures = [sample['picture'] for sample in samples]
        images = padded(images_of(pictures, net.normalisation, device))  # [N, 3, H', W']
        pairs_of_passes = [net(part) for part in passes(images)]
        padded_size = images.shape[2:]
        height, width = samples[0]['size']
        walked = []
        for sample, pairs in zip(samples, torch.cat(pairs_of_passes)):
            cam = sample['cam'].to(device, non_blocking=True)
            scores = random_walk(cam, pairs, beta=args.beta, logt=args.logt)[None]
            scores = F.interpolate(scores, padded_size, mode='bilinear', align_corners=False)[0]
            walked.append(scores[:, :height, :width])
        return [scores.cpu().numpy() for scores in walked]


def check_map_folders(la_dir: str, ha_dir: str) -> None:
    """Check that the folders of maps are two, of aff_prepare.py, and of a low and a high α.

    What a folder of another tool holds is not known, so its α is not checked.

    Raises:
        UserError: they are one folder, hold something else, or are exchanged.
    """
    if same_place(la_dir, ha_dir):
        raise UserError(
            f'--la_crf_dir {la_dir} and --ha_crf_dir {ha_dir} are the same folder; give the maps '
            'of a low and of a high α'
        )
    low = need_stage(la_dir, AFFINITY_MAPS, '--la_crf_dir').get('alpha')
    high = need_stage(ha_dir, AFFINITY_MAPS, '--ha_crf_dir').get('alpha')
    if low is not None and high is not None and low >= high:
        raise UserError(
            f'--la_crf_dir {la_dir} has the maps of α = {low} and --ha_crf_dir {ha_dir} those of '
            f'α = {high}; the low α must be the smaller one'
        )


def layout_notes(layouts: dict[str, dict[str, int]], classes: ClassSet) -> list[str]:
    """A line for the log on each folder of maps; {folder: {layout: files}}."""
    described = {
        'dict': 'dicts of background and present classes',
        'array': f'arrays of all {classes.num_classes} maps (the older layout)',
    }
    notes = []
    for folder, counts in layouts.items():
        found = ', '.join(f'{count} {described[layout]}' for layout, count in counts.items())
        notes.append(f'{folder}: {found}')
    return notes


REFINER = Psa()
