"""Stage 2, inference: pseudo masks from CAMs by a random walk over learned affinities.

The affinities are AffinityNet's, or those of IRN's class boundaries, whichever the checkpoint is
of. The random walk is described in docs/method.md §7 and §10.13, the dense CRF in §6.

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

import torch

from network import refiners
from network.backbone import Backbone
from network.device import to_device
from network.refiners import flags
from network.refiners.refiner import Refiner
from network.weights import net_from_checkpoint
from tool.files.checkpoints import load_checkpoint
from tool.files.lists import read_list
from tool.files.manifest import fingerprint
from tool.files.picture_stage import CatchesProblems, Output, PictureStage
from tool.files.stage_of_input import CAMS, need_stage
from tool.files.stage_outputs import WalkOutputs, write_walk
from tool.method.class_set import ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.groups import group_size, groups_of_equal_size
from tool.run.loader import load
from tool.run.shard import is_first
from tool.train.precision import allow_tf32
from voc12.layout import (
    check_cams,
    check_images,
    class_set,
    image_path,
    maps_bytes,
    mask_bytes,
    picture_and_map,
)

# The flags that depend on the refiner.
FLAGS = {name: refiners.find_refiner(name).walk_flags for name in refiners.NAMES}


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    add_data_flags(parser)
    add_model_flags(parser)
    add_method_flags(parser)
    add_output_flags(parser)
    add_run_flags(parser)
    flags.set_defaults(parser, FLAGS)
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
        '--weights', required=True, help='checkpoint of aff_train.py, of any refiner'
    )
    parser.model.add_argument(
        '--network',
        help="module of the network (default: that of the checkpoint's refiner and backbone)",
    )


def add_method_flags(parser: command_line.Parser) -> None:
    parser.method.add_argument(
        '--beta',
        type=command_line.number(float, 0),
        help='exponent of the affinities; with a larger one scores spread less',
    )
    parser.method.add_argument(
        '--logt',
        type=command_line.number(int, 0, 20),
        help='the walk takes 2^logt steps',
    )
    parser.method.add_argument(
        '--bg_score',
        type=command_line.number(float, 0, 1),
        help='background score, before the walk; of a boundary checkpoint after it',
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
        '--out_rw_prob',
        help="output folder of the walk's probabilities, before any CRF: its scores, divided by "
        'their sum over the labels of the picture',
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
    refiner, net = make_net(args, classes, device)
    flags.settle(args, FLAGS, refiner.name)
    tell_unused(args)
    outputs = walk_outputs(args, classes)
    crf_backend = args.crf_backend if outputs.crf else None
    made_of = functools.partial(picture_and_map, args.voc12_root, args.cam_dir)
    stage.claim(wanted_outputs(args, refiner, outputs), made_of, crf_backend)

    todo = list(stage.todo)
    walk_set = refiner.walk_set(args, todo)
    loading = load(
        CatchesProblems(walk_set, todo),
        range(len(todo)),
        args.num_workers,
        pin_memory=device.type == 'cuda',
    )
    count = group_size(args.batch_size, device)
    with stage.writers(args.jobs) as submit, loading as samples:
        for group in groups_of_equal_size(stage.usable(samples), count):
            walked = refiner.walk(net, group, device, args)
            for sample, scores in zip(group, walked):
                name = sample['name']
                picture = image_path(args.voc12_root, name)
                submit(name, write_walk, name, scores, sample['labels'], picture, outputs)
    stage.report(f' ({args.infer_list})')


def check_flags(args: argparse.Namespace) -> None:
    """Raise UserError for flags that contradict each other."""
    if not (args.out_rw or args.out_rw_prob or args.out_rw_crf):
        raise UserError('nothing to write: give --out_rw, --out_rw_crf or --out_rw_prob')
    if args.crf and (args.out_rw_crf or not args.out_rw):
        raise UserError(
            '--crf refines the masks of --out_rw; give that folder and no --out_rw_crf, or only '
            '--out_rw_crf'
        )


def tell_unused(args: argparse.Namespace) -> None:
    """Print which flag has no effect."""
    if args.alpha is not None and is_first():
        print(
            f'--alpha {args.alpha:g} is unused here: the walk takes its background from --bg_score '
            f'{args.bg_score}'
        )


def walk_outputs(args: argparse.Namespace, classes: ClassSet) -> WalkOutputs:
    """The folders that are asked for."""
    if args.crf:  # the masks of --out_rw are those after dense CRF
        masks, crf = None, args.out_rw
    else:
        masks, crf = args.out_rw, args.out_rw_crf
    return WalkOutputs(masks, crf, args.out_rw_prob, args.crf_backend, classes.num_classes)


def make_net(
    args: argparse.Namespace, classes: ClassSet, device: torch.device
) -> tuple[Refiner, Backbone]:
    """The refiner that the checkpoint is of, and its trained network on its device."""
    state = load_checkpoint(args.weights)
    refiner = refiners.refiner_of(state)
    network = args.network or refiner.networks
    net = net_from_checkpoint(network, args.weights, state, classes)
    return refiner, to_device(net, device)


def wanted_outputs(
    args: argparse.Namespace, refiner: Refiner, outputs: WalkOutputs
) -> list[Output]:
    """The output folders that are asked for, with the settings that decide their files.

    Args:
        args: the command line.
        refiner: what the walk is of.
        outputs: the folders.
    """
    settings = {
        'stage': 'aff_infer',
        'weights': fingerprint(args.weights),
        'cam_dir': fingerprint(args.cam_dir),
        **{flag: getattr(args, flag) for flag in refiner.walk_flags},
    }
    if args.tf32 == 'off':
        settings['tf32'] = False
    mask_size = functools.partial(mask_bytes, args.voc12_root)
    prob_size = functools.partial(maps_bytes, args.voc12_root, args.cam_dir)
    return outputs.wanted(settings, mask_size, prob_size)


if __name__ == '__main__':
    command_line.run(main, parse_args)
