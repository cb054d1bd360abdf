"""Testing of a segmentation network: what every experiment's test.py runs (method §8).

    python test.py [--split {val,train,test}] [--set KEY=VALUE ...]
    python test.py --split test --submission results.tgz      (what the VOC evaluation server takes)
    torchrun --nproc_per_node 4 test.py ...                   (the pictures are shared out)

Reads the trained checkpoint and DATA_ROOT. Writes one palette PNG a picture into --out_dir (and
what it is before the CRF into
--out_no_crf); a run that was broken off goes on where it stopped. For train and val it prints the
IoU of every class against DATA_ROOT/SegmentationClass.
"""

import argparse
import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from datasets import TestSet
from net import load_net, own_normalisation
from network.device import to_device
from tool.files.manifest import claim_all, fingerprint, missing
from tool.files.picture_stage import Output, PictureStage, lacking
from tool.method.class_set import ClassSet
from tool.method.crf import TEST_CRFS
from tool.method.metrics import table
from tool.run import command_line
from tool.run.errors import UserError
from tool.train import processes
from utils.config import add_config_flags, classes_of, names_of, read_config
from utils.predictions import PredictionOutputs, evaluate, write_prediction
from utils.submission import write_submission
from voc12.classes import VOC
from voc12.layout import check_images


@torch.inference_mode()
def mean_logits(net: nn.Module, views: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """Logits [C, H, W] at the picture's `size`, averaged over its views (the second of a view is
    the first, mirrored)."""
    logits = []
    for view in views:
        maps = F.interpolate(net(view), size=size, mode='bilinear', align_corners=True)
        logits.append(maps[0] if len(maps) == 1 else (maps[0] + maps[1].flip(2)) / 2)
    return torch.stack(logits).mean(0)


def predict(
    net: nn.Module,
    config: dict,
    stage: PictureStage,
    outputs: PredictionOutputs,
    device: torch.device,
    jobs: int,
) -> None:
    """Write the wanted files of every picture that is still to do; the CRF runs in a process pool
    beside the network."""
    loader = DataLoader(
        TestSet(config, list(stage.todo)),
        batch_size=None,
        num_workers=min(config['DATA_WORKERS'], command_line.default_jobs()),
        pin_memory=device.type == 'cuda',
    )
    with stage.writers(jobs if outputs.crf else 0) as submit:
        for item in loader:
            picture = np.asarray(item['picture'])
            views = [view.to(device, non_blocking=True) for view in item['views']]
            logits = mean_logits(net, views, picture.shape[:2])
            labels = logits.argmax(0).byte().cpu().numpy() if outputs.plain else None
            probs = logits.softmax(0).cpu().numpy() if outputs.crf else None
            submit(write_prediction, item['name'], picture, labels, probs, outputs)


def parse_args(config: dict) -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    add_config_flags(parser)
    parser.data.add_argument(
        '--split', choices=('val', 'train', 'test'), default='val', help='pictures to test'
    )
    parser.data.add_argument(
        '--list', help='an image list to test instead of all pictures of the split'
    )
    parser.model.add_argument(
        '--weights', help='checkpoint to test (default: MODEL_SAVE_DIR/EXP_NAME.pth)'
    )
    parser.output.add_argument(
        '--out_dir',
        help='folder of the PNGs (default: TEST_SAVE_DIR/EXP_NAME/<split>_crf_<TEST_CRF>)',
    )
    parser.output.add_argument(
        '--out_no_crf', metavar='DIR', help='also write the predictions as they are before the CRF'
    )
    parser.output.add_argument(
        '--submission',
        metavar='FILE.tgz',
        help='with --split test: also write and check this archive',
    )
    parser.output.add_argument(
        '--overwrite',
        action='store_true',
        help='replace what other weights or settings have written',
    )
    command_line.add_jobs_flag(parser, 'the CRF and the evaluation')
    args = parser.parse_args()
    args.config = read_config(config, args.set)
    return args


def main(args: argparse.Namespace) -> None:
    classes = classes_of(args.config)
    check_flags(args, classes)
    config, device = args.config, processes.start(args.device)
    names = names_of(config, args.list or args.split)
    check_images(config['DATA_ROOT'], names, 'DATA_ROOT')
    truth_dir = find_truth(config, args.split, names)
    weights = args.weights or os.path.join(config['MODEL_SAVE_DIR'], config['EXP_NAME'] + '.pth')
    net = to_device(load_net(config, weights, classes), device).eval()
    config = own_normalisation(config, net)

    outputs = prediction_outputs(args, config)
    wanted = wanted_outputs(config, weights, outputs)
    stage = PictureStage('test', names)
    backend = config['TEST_CRF_BACKEND'] if outputs.crf else None

    def claim() -> int:
        """Claim the folders in one process, before any other writes; returns how many pictures are
        to do."""
        claim_all([(output.folder, output.settings) for output in wanted], args.overwrite)
        return len(lacking(names, wanted))

    todo = processes.once(claim)
    stage.claim(wanted, backend, crf_option='TEST_CRF_BACKEND')
    if processes.is_main():
        print(
            f'{config["MODEL_NAME"]} over {config["MODEL_BACKBONE"]}, {weights}, {device}, CRF '
            f'{config["TEST_CRF"]}; {len(names)} pictures, {len(names) - todo} already complete',
            flush=True,
        )
    predict(net, config, stage, outputs, device, args.jobs)
    processes.barrier()
    if processes.is_main():
        print(f'wrote {", ".join(output.folder for output in wanted)}')
        out_dir = wanted[0].folder
        if truth_dir:
            print(table(evaluate(out_dir, truth_dir, names, args.jobs, classes)))
        if args.submission:
            write_submission(args.submission, out_dir, config['DATA_ROOT'], names)
            print(f'wrote {args.submission}: {len(names)} pictures, checked')
    processes.stop()


def check_flags(args: argparse.Namespace, classes: ClassSet) -> None:
    """UserError for flags that contradict each other, the config or the classes."""
    if args.submission and classes != VOC:
        raise UserError(
            f'--submission {args.submission}: the server takes the 20 classes of VOC 2012, '
            f'DATA_ROOT has {classes}; leave the flag out'
        )
    if args.submission and args.split != 'test':
        raise UserError(
            f'--submission {args.submission}: the server takes the test pictures; add --split test'
        )
    if args.out_no_crf and args.config['TEST_CRF'] == 'none':
        raise UserError(
            f'--out_no_crf {args.out_no_crf}: with TEST_CRF=none these are in --out_dir; leave the '
            'flag out'
        )


def find_truth(config: dict, split: str, names: list[str]) -> str | None:
    """The folder of ground truth, None for the test split; UserError where a mask is missing."""
    if split == 'test':
        return None
    truth_dir = os.path.join(config['DATA_ROOT'], 'SegmentationClass')
    lost = missing(names, [(truth_dir, '.png')])
    if lost:
        raise UserError(
            f'{truth_dir}/{lost[0]}.png: no such mask ({len(lost)} of {len(names)} pictures have '
            'none); use --split test for pictures without ground truth'
        )
    return truth_dir


def prediction_outputs(args: argparse.Namespace, config: dict) -> PredictionOutputs:
    """The folders to write, with and without dense CRF."""
    crf = config['TEST_CRF']
    out_dir = args.out_dir or os.path.join(
        config['TEST_SAVE_DIR'], config['EXP_NAME'], f'{args.split}_crf_{crf}'
    )
    preset = TEST_CRFS[crf]
    backend = config['TEST_CRF_BACKEND']
    if preset is None:
        return PredictionOutputs(out_dir, None, preset, backend)
    return PredictionOutputs(args.out_no_crf, out_dir, preset, backend)


def wanted_outputs(config: dict, weights: str, outputs: PredictionOutputs) -> list[Output]:
    """The folders with what decides their files; the one to score and to submit comes first."""
    settings = {
        'stage': 'segmentation test',
        'weights': fingerprint(weights),
        **{key: config[key] for key in ('DATA_MEAN', 'DATA_STD', 'TEST_MULTISCALE', 'TEST_FLIP')},
    }
    with_crf = {
        **settings,
        'TEST_CRF': config['TEST_CRF'],
        'TEST_CRF_BACKEND': config['TEST_CRF_BACKEND'],
    }
    both = [
        Output(outputs.crf, '.png', with_crf),
        Output(outputs.plain, '.png', {**settings, 'TEST_CRF': 'none'}),
    ]
    return [output for output in both if output.folder]


def test(config: dict) -> None:
    """Run an experiment's test.py."""
    command_line.run(main, lambda: parse_args(config))
