"""Testing of a segmentation network; every experiment's test.py runs it (docs/method.md §8).

    python test.py [--split {val,train,test}] [--set KEY=VALUE ...]
    python test.py --split test --submission results.tgz     (archive for the VOC evaluation server)
    torchrun --nproc_per_node 4 test.py ...                  (the processes share the pictures)

Reads  the trained checkpoint and DATA_ROOT.
Writes one palette PNG for every picture into --out_dir, and the prediction before the dense CRF
       into --out_no_crf.

An interrupted run continues where it stopped. For train and val the IoU of every class against
DATA_ROOT/SegmentationClass is printed.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from datasets import TestSet
from net import load_net, own_normalisation
from network.device import to_device
from network.views import add_mirrored_back, passes, stacked, with_mirror_images
from tool.files.manifest import fingerprint, missing
from tool.files.picture_stage import CatchesProblems, Output, PictureStage, claim_folders
from tool.files.records import Inputs
from tool.files.shown_classes import need_a_class
from tool.method.class_set import ClassSet
from tool.method.crf import TEST_CRFS
from tool.method.metrics import table
from tool.method.torch_crf import crf_labels
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.groups import group_size, groups_of_equal_size
from tool.run.loader import load
from tool.train import processes
from tool.train.precision import allow_tf32, fast_inference, resolved
from utils.config import add_config_flags, classes_of, names_of, read_config
from utils.keys import PREDICTION_KEYS
from utils.predictions import PredictionOutputs, evaluate, write_masks, write_prediction
from utils.submission import check_place, write_submission
from voc12.classes import VOC
from voc12.layout import check_images, image_path, mask_bytes


@torch.inference_mode()
def mean_logits(
    net: Callable,
    views: list[list[torch.Tensor]],
    size: tuple[int, int],
    device: torch.device,
    mirror: bool = True,
) -> torch.Tensor:
    """Logits of pictures of equal size, averaged over their views.

    Args:
        net: the network, or a function that calls it.
        views: of each picture, what `picture_views` gives: [3, h, w] for every scale.
        size: (H, W) of the pictures.
        device: where the network runs.
        mirror: average over the mirror images too (TEST_FLIP).
    Returns:
        [N, C, H, W].
    """
    logits = []
    for of_scale in zip(*views):
        images = stacked(of_scale, device)
        if mirror:
            images = with_mirror_images(images)
        maps_of_passes = []
        for part in passes(images, least=2):
            maps = F.interpolate(net(part), size=size, mode='bilinear', align_corners=True)
            maps_of_passes.append(maps)
        maps = torch.cat(maps_of_passes)
        if mirror:
            maps = add_mirrored_back(maps) / 2
        logits.append(maps)
    return torch.stack(logits).mean(0)


def predict(
    net: Callable,
    config: dict,
    stage: PictureStage,
    outputs: PredictionOutputs,
    device: torch.device,
    jobs: int,
    count: int = 1,
) -> None:
    """Write the missing predictions of `net`, the network or a function that calls it.

    `count` pictures of equal size go through the network together.

    The dense CRF and the writing go on in a pool of `jobs` processes while the network works on the
    next pictures. With the backend torch, the processes that load pictures build the lattices, and
    the mean field is computed here, on the device.
    """
    todo = list(stage.todo)
    on_device = outputs.preset if outputs.backend == 'torch' else None
    loading = load(
        CatchesProblems(TestSet(config, todo, on_device), todo),
        range(len(todo)),
        num_workers=min(config['DATA_WORKERS'], command_line.default_jobs()),
        pin_memory=device.type == 'cuda',
        flag='DATA_WORKERS',
    )
    with stage.writers(jobs) as submit, loading as items:
        for group in groups_of_equal_size(stage.usable(items), count):
            views = [item['views'] for item in group]
            size = group[0]['size']
            logits = mean_logits(net, views, size, device, config['TEST_FLIP'])
            labels = logits.argmax(1).byte().cpu().numpy() if outputs.plain else None
            probs = logits.softmax(1) if outputs.crf else None
            if probs is not None and on_device is None:
                probs = probs.cpu()
            for number, item in enumerate(group):
                name = item['name']
                plain = None if labels is None else labels[number]
                if probs is not None and on_device is not None:
                    refined = crf_labels(probs[number], item['lattices'], on_device).cpu().numpy()
                    submit(name, write_masks, name, plain, refined, outputs)
                else:
                    picture = np.asarray(item['picture'])
                    own_probs = None if probs is None else probs[number].numpy()
                    submit(name, write_prediction, name, picture, plain, own_probs, outputs)


def parse_args(config: dict) -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    add_config_flags(parser)
    parser.data.add_argument(
        '--split', choices=('val', 'train', 'test'), default='val', help='split to test'
    )
    parser.data.add_argument(
        '--list', help='list of pictures to test (default: the list of --split)'
    )
    parser.model.add_argument(
        '--weights', help='checkpoint to test (default: MODEL_SAVE_DIR/EXP_NAME.pth)'
    )
    parser.output.add_argument(
        '--out_dir',
        help='folder for the predictions (default: TEST_SAVE_DIR/EXP_NAME/<split>_crf_<TEST_CRF>)',
    )
    parser.output.add_argument(
        '--out_no_crf',
        metavar='DIR',
        help='also write the predictions before the dense CRF into this folder',
    )
    parser.output.add_argument(
        '--submission',
        metavar='FILE.tgz',
        help='also write this archive for the VOC evaluation server, and check it (--split test)',
    )
    parser.output.add_argument(
        '--overwrite',
        action='store_true',
        help='replace predictions of other weights or settings',
    )
    command_line.add_amp_flag(parser)
    command_line.add_group_flag(parser)
    command_line.add_jobs_flag(parser, 'the CRF, writing and the evaluation')
    command_line.add_on_error_flag(parser)
    command_line.add_dry_run_flag(parser)
    args = parser.parse_args()
    args.config = read_config(config, args.set)
    return args


def main(args: argparse.Namespace) -> None:
    classes = classes_of(args.config)
    check_flags(args, classes)
    config = args.config
    device = processes.start(args.device)
    if config['TEST_CRF_BACKEND'] == 'torch' and device.type not in ('cpu', 'cuda'):
        raise UserError(
            f'TEST_CRF_BACKEND torch: does not run on {device.type}; leave it at the default, numba'
        )
    args.amp = resolved(args.amp, device)
    allow_tf32(args.tf32 == 'on')
    names = names_of(config, args.list or args.split)
    check_images(config['DATA_ROOT'], names, 'DATA_ROOT')
    truth_dir = find_truth(config, args.split, names, classes)
    weights = args.weights or os.path.join(config['MODEL_SAVE_DIR'], config['EXP_NAME'] + '.pth')
    net = to_device(load_net(config, weights, classes), device).eval()
    config = own_normalisation(config, net)
    forward = fast_inference(net, device, args.amp, args.channels_last)

    outputs = prediction_outputs(args, config)
    wanted = wanted_outputs(args, config, weights, outputs)
    stage = PictureStage('test', names, on_error=args.on_error, dry_run=args.dry_run)
    backend = config['TEST_CRF_BACKEND'] if outputs.crf else None

    def replace() -> None:
        """Remove what was predicted with other settings, before any process writes."""
        claim_folders(wanted, overwrite=True).release()

    if args.overwrite and not args.dry_run:
        processes.once(replace)

    def made_of(name: str) -> Inputs:
        return Inputs((image_path(config['DATA_ROOT'], name),))

    stage.claim(wanted, made_of, backend, crf_option='TEST_CRF_BACKEND')
    todo = int(processes.total(torch.tensor(len(stage.todo))))
    if processes.is_main():
        print(
            f'{config["MODEL_NAME"]} over {config["MODEL_BACKBONE"]}, {weights}, {device}, CRF '
            f'{config["TEST_CRF"]}; {len(names)} pictures, {len(names) - todo} already complete',
            flush=True,
        )
    count = group_size(args.batch_size, device)
    predict(forward, config, stage, outputs, device, args.jobs, count)
    left_out = int(processes.total(torch.tensor(len(stage.left_out))))
    if left_out:
        if processes.is_main():
            print(f'{left_out} pictures were left out, so nothing is scored', flush=True)
        processes.stop()
        stage.exit_if_incomplete()
        sys.exit(1)
    if processes.is_main():
        print(f'wrote {", ".join(output.folder for output in wanted)}')
        out_dir = wanted[0].folder
        if truth_dir:
            colours = config['DATA_MASK_COLOURS']
            print(table(evaluate(out_dir, truth_dir, names, args.jobs, classes, colours)))
        if args.submission:
            write_submission(args.submission, out_dir, config['DATA_ROOT'], names)
            print(f'wrote {args.submission}: {len(names)} pictures, checked')
    processes.stop()


def check_flags(args: argparse.Namespace, classes: ClassSet) -> None:
    """Check that the flags fit each other, the config and the classes.

    Raises:
        UserError: they do not.
    """
    if args.submission and classes != VOC:
        raise UserError(
            f'--submission {args.submission}: the server takes the 20 classes of VOC 2012, '
            f'DATA_ROOT has {classes}; leave the flag out'
        )
    if args.submission and args.split != 'test':
        raise UserError(
            f'--submission {args.submission}: the server takes the test pictures; add --split test'
        )
    if args.submission:
        check_place(args.submission)
    if args.out_no_crf and args.config['TEST_CRF'] == 'none':
        raise UserError(
            f'--out_no_crf {args.out_no_crf}: with TEST_CRF=none these are in --out_dir; leave the '
            'flag out'
        )


def find_truth(config: dict, split: str, names: list[str], classes: ClassSet) -> str | None:
    """The folder of ground-truth masks; None for the test split, which has none.

    Raises:
        UserError: the mask of a picture is missing, or none shows a class.
    """
    if split == 'test':
        return None
    truth_dir = os.path.join(config['DATA_ROOT'], 'SegmentationClass')
    lost = missing(names, [(truth_dir, '.png')])
    if lost:
        raise UserError(
            f'{truth_dir}/{lost[0]}.png: no such mask ({len(lost)} of {len(names)} pictures have '
            'none); use --split test for pictures without ground truth'
        )
    paths = [os.path.join(truth_dir, name + '.png') for name in names]
    need_a_class(paths, classes, truth_dir, config['DATA_MASK_COLOURS'])
    return truth_dir


def prediction_outputs(args: argparse.Namespace, config: dict) -> PredictionOutputs:
    """The folders to write, with and without dense CRF."""
    crf = config['TEST_CRF']
    out_dir = args.out_dir
    if not out_dir:
        folder = f'{args.split}_crf_{crf}'
        out_dir = os.path.join(config['TEST_SAVE_DIR'], config['EXP_NAME'], folder)
    preset = TEST_CRFS[crf]
    backend = config['TEST_CRF_BACKEND']
    if preset is None:
        return PredictionOutputs(plain=out_dir, crf=None, preset=None, backend=backend)
    return PredictionOutputs(plain=args.out_no_crf, crf=out_dir, preset=preset, backend=backend)


def wanted_outputs(
    args: argparse.Namespace, config: dict, weights: str, outputs: PredictionOutputs
) -> list[Output]:
    """The folders to write, each with the settings for its manifest.

    The first one holds the predictions to score and to submit.
    """
    settings = {'stage': 'segmentation test', 'weights': fingerprint(weights)}
    for key in PREDICTION_KEYS:
        settings[key] = config[key]
    settings.update(command_line.precision_settings(args))
    size = functools.partial(mask_bytes, config['DATA_ROOT'])
    wanted = []
    if outputs.crf:
        crf_settings = {
            **settings,
            'TEST_CRF': config['TEST_CRF'],
            'TEST_CRF_BACKEND': config['TEST_CRF_BACKEND'],
        }
        wanted.append(Output(outputs.crf, '.png', crf_settings, size))
    if outputs.plain:
        wanted.append(Output(outputs.plain, '.png', {**settings, 'TEST_CRF': 'none'}, size))
    return wanted


def test(config: dict) -> None:
    """Run the test.py of an experiment with this config."""
    command_line.run(main, functools.partial(parse_args, config))
