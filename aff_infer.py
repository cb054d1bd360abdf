"""Stage 2, inference: pseudo masks from CAMs by a random walk over AffinityNet's affinities.

The random walk is described in docs/method.md §7, the dense CRF in §6.

    python aff_infer.py --weights runs/aff.pth --infer_list voc12/train.txt \\
        --voc12_root VOC2012 --cam_dir runs/cam --out_rw runs/rw

Reads  the pictures of --infer_list and their CAMs (--cam_dir/<name>.npy).
Writes one or more of these. What is already there from the same weights and settings is skipped.
       <out_rw>/<name>.png: masks; with --crf after dense CRF
       <out_rw_crf>/<name>.png: masks after dense CRF, beside those without
       <out_rw_prob>/<name>.npy: the walk's probabilities, dicts of background and present classes
"""

import argparse
import functools
import os

import numpy as np
import torch
import torch.nn.functional as F

from network.backbone import Backbone
from network.device import to_device
from network.views import images_of, passes
from network.weights import AFFINITY, net_from_checkpoint
from tool.files.lists import read_list
from tool.files.manifest import fingerprint
from tool.files.picture_stage import CatchesProblems, Output, PictureStage
from tool.files.stage_of_input import CAMS, need_stage
from tool.files.stage_outputs import write_walk
from tool.method.class_set import ClassSet
from tool.method.random_walk import random_walk
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.groups import group_size, groups_of_equal_size
from tool.run.loader import load
from tool.run.shard import is_first
from tool.train.precision import allow_tf32
from voc12.aff_data import WalkSet, padded
from voc12.layout import (
    check_cams,
    check_images,
    class_set,
    image_path,
    map_bytes,
    mask_bytes,
    picture_and_map,
)


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    add_data_flags(parser)
    add_model_flags(parser)
    add_method_flags(parser)
    add_output_flags(parser)
    add_run_flags(parser)
    return parser.parse_args()


def add_data_flags(parser: command_line.Parser) -> None:
    parser.data.add_argument(
        '--infer_list', default='voc12/train.txt', help='list of the images to make masks of'
    )
    parser.data.add_argument('--voc12_root', default='VOC2012', help="the devkit's VOC2012 folder")
    parser.data.add_argument(
        '--cam_dir', required=True, help='folder of the CAMs (contrast_infer.py --out_cam)'
    )


def add_model_flags(parser: command_line.Parser) -> None:
    parser.model.add_argument(
        '--weights', required=True, help='checkpoint of AffinityNet (aff_train.py)'
    )
    parser.model.add_argument(
        '--network',
        help="module of the network (default: AffinityNet over the checkpoint's backbone)",
    )


def add_method_flags(parser: command_line.Parser) -> None:
    parser.method.add_argument(
        '--beta',
        type=command_line.number(float, 0),
        default=8,
        help='exponent of the affinities; with a larger one scores spread less',
    )
    parser.method.add_argument(
        '--logt',
        type=command_line.number(int, 0, 20),
        default=6,
        help='the walk takes 2^logt steps',
    )
    parser.method.add_argument(
        '--bg_score',
        type=command_line.number(float, 0, 1),
        default=0.27,
        help='background score before the walk',
    )
    parser.method.add_argument(
        '--crf', action='store_true', help='refine the masks of --out_rw with dense CRF'
    )
    parser.method.add_argument(
        '--alpha', type=float, help='has no effect; accepted because published commands have it'
    )


def add_output_flags(parser: command_line.Parser) -> None:
    parser.output.add_argument('--out_rw', help='output folder of the masks')
    parser.output.add_argument(
        '--out_rw_prob', help="output folder of the walk's probabilities, before any CRF"
    )
    parser.output.add_argument(
        '--out_rw_crf',
        help='output folder of masks refined with dense CRF, in addition to those of --out_rw',
    )
    parser.output.add_argument(
        '--overwrite', action='store_true', help='replace the output of other weights or settings'
    )


def add_run_flags(parser: command_line.Parser) -> None:
    command_line.add_crf_backend_flag(parser)
    command_line.add_workers_flag(parser)
    command_line.add_group_flag(parser)
    command_line.add_jobs_flag(parser, 'CRF and writing')
    command_line.add_on_error_flag(parser)
    command_line.add_dry_run_flag(parser)
    command_line.add_tf32_flag(parser)
    command_line.add_device_flag(parser)


def main(args: argparse.Namespace) -> None:
    check_flags(args)
    device = command_line.pick_device(args.device)
    allow_tf32(args.tf32 == 'on')
    classes = class_set(args.voc12_root)
    names = read_list(args.infer_list)
    check_images(args.voc12_root, names)
    stage = PictureStage('aff_infer', names, args.overwrite, args.on_error, args.dry_run)
    check_cams(args.cam_dir, args.voc12_root, stage.names, args.on_error)
    need_stage(args.cam_dir, CAMS, '--cam_dir')
    net = make_net(args, classes, device)
    plain, refined = mask_folders(args)
    crf_backend = args.crf_backend if refined else None
    made_of = functools.partial(picture_and_map, args.voc12_root, args.cam_dir)
    stage.claim(wanted_outputs(args, plain, refined), made_of, crf_backend)

    todo = list(stage.todo)
    walk_set = WalkSet(args.voc12_root, todo, args.cam_dir, args.bg_score)
    loading = load(
        CatchesProblems(walk_set, todo),
        range(len(todo)),
        args.num_workers,
        pin_memory=device.type == 'cuda',
    )
    count = group_size(args.batch_size, device)
    with stage.writers(args.jobs) as submit, loading as samples:
        for group in groups_of_equal_size(stage.usable(samples), count):
            walked = walk(net, group, device, args.beta, args.logt)
            for sample, scores in zip(group, walked):
                submit(
                    sample['name'],
                    write_walk,
                    sample['name'],
                    scores,
                    sample['labels'],
                    classes.num_classes,
                    plain,
                    args.out_rw_prob,
                    refined,
                    image_path(args.voc12_root, sample['name']),
                    args.crf_backend,
                )
    stage.report(f' ({args.infer_list})')


def check_flags(args: argparse.Namespace) -> None:
    """Raise UserError for flags that contradict each other; print which flag has no effect."""
    if not (args.out_rw or args.out_rw_prob or args.out_rw_crf):
        raise UserError('nothing to write: give --out_rw, --out_rw_crf or --out_rw_prob')
    if args.crf and (args.out_rw_crf or not args.out_rw):
        raise UserError(
            '--crf refines the masks of --out_rw; give that folder and no --out_rw_crf, or only '
            '--out_rw_crf'
        )
    if args.alpha is not None and is_first():
        print(
            f'--alpha {args.alpha:g} is unused here: the walk takes its background from --bg_score '
            f'{args.bg_score}'
        )


def mask_folders(args: argparse.Namespace) -> tuple[str | None, str | None]:
    """The folders of the masks without and with dense CRF; None for masks not asked for."""
    if args.crf:
        return None, args.out_rw
    return args.out_rw, args.out_rw_crf


def make_net(args: argparse.Namespace, classes: ClassSet, device: torch.device) -> Backbone:
    """The trained AffinityNet on its device."""
    network = args.network or AFFINITY
    net = net_from_checkpoint(network, args.weights, classes=classes)
    return to_device(net, device)


def wanted_outputs(
    args: argparse.Namespace, plain: str | None, refined: str | None
) -> list[Output]:
    """The output folders that are asked for, with the settings that decide their files.

    Args:
        args: the command line.
        plain, refined: the folders of masks without and with dense CRF, see `mask_folders`.
    """
    settings = {
        'stage': 'aff_infer',
        'weights': fingerprint(args.weights),
        'cam_dir': fingerprint(args.cam_dir),
        'beta': args.beta,
        'logt': args.logt,
        'bg_score': args.bg_score,
    }
    if args.tf32 == 'off':
        settings['tf32'] = False
    with_crf = {**settings, 'crf': True, 'crf_backend': args.crf_backend}
    mask_size = functools.partial(mask_bytes, args.voc12_root)

    def prob_size(name: str) -> int:
        """The maps of the background and of the classes that have a CAM."""
        cam = os.path.getsize(os.path.join(args.cam_dir, name + '.npy'))
        return cam + map_bytes(args.voc12_root, name, 1)

    outputs = [
        Output(plain, '.png', {**settings, 'crf': False}, mask_size),
        Output(refined, '.png', with_crf, mask_size),
        Output(args.out_rw_prob, '.npy', settings, prob_size),
    ]
    return [output for output in outputs if output.folder]


@torch.inference_mode()
def walk(
    net: Backbone, samples: list[dict], device: torch.device, beta: float, logt: int
) -> list[np.ndarray]:
    """Scores of pictures of equal size after the random walk (docs/method.md §7).

    The network takes the pictures together, the walk takes them one by one.

    Args:
        net: AffinityNet.
        samples: items of WalkSet.
        device: where the network and the walk run.
        beta: exponent of the affinities.
        logt: the walk takes 2^logt steps.
    Returns:
        For every picture float32 [labels, H, W], a map for each of the sample's labels.
    """
    pictures = [sample['picture'] for sample in samples]
    images = padded(images_of(pictures, net.normalisation, device))  # [N, 3, H', W']
    pairs_of_passes = [net(part) for part in passes(images)]
    padded_size = images.shape[2:]
    height, width = samples[0]['size']
    walked = []
    for sample, pairs in zip(samples, torch.cat(pairs_of_passes)):
        cam = sample['cam'].to(device, non_blocking=True)
        scores = random_walk(cam, pairs, beta=beta, logt=logt)
        scores = F.interpolate(scores[None], padded_size, mode='bilinear', align_corners=False)[0]
        walked.append(scores[:, :height, :width])
    return [scores.cpu().numpy() for scores in walked]


if __name__ == '__main__':
    command_line.run(main, parse_args)
