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
from tool.files.pictures import write_mask
from tool.method.crf import TEST_CRFS, check_backend
from tool.method.metrics import table
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.pool import Pool
from tool.run.progress import progress
from tool.train import processes
from utils.config import add_config_flags, names_of, read_config
from utils.predictions import evaluate, write_crf
from utils.submission import write_submission
from voc12.classes import NUM_CLASSES
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
    names: list[str],
    out_dir: str,
    device: torch.device,
    jobs: int,
    out_no_crf: str | None = None,
) -> None:
    """Write out_dir/<name>.png for every name; the CRF runs in a process pool beside the
    network."""
    preset, backend = TEST_CRFS[config['TEST_CRF']], config['TEST_CRF_BACKEND']
    if names and preset is not None:
        check_backend(backend)
    workers = min(config['DATA_WORKERS'], command_line.default_jobs())
    loader = DataLoader(
        TestSet(config, names),
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == 'cuda',
    )
    with Pool(jobs if preset else 0) as pool:
        for item in progress(loader, total=len(names), desc='test', quiet=not processes.is_main()):
            picture, file = np.asarray(item['picture']), item['name'] + '.png'
            logits = mean_logits(
                net,
                [view.to(device, non_blocking=True) for view in item['views']],
                picture.shape[:2],
            )
            plain_dir = out_dir if preset is None else out_no_crf
            if plain_dir:
                write_mask(os.path.join(plain_dir, file), logits.argmax(0).cpu().numpy())
            if preset is not None:
                pool.submit(
                    write_crf,
                    os.path.join(out_dir, file),
                    picture,
                    logits.softmax(0).cpu().numpy(),
                    preset,
                    backend,
                )


def parse_args(config: dict) -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    add_config_flags(parser)
    parser.add_argument(
        '--split', choices=('val', 'train', 'test'), default='val', help='pictures to test'
    )
    parser.add_argument('--list', help='an image list to test instead of all pictures of the split')
    parser.add_argument(
        '--weights', help='checkpoint to test (default: MODEL_SAVE_DIR/EXP_NAME.pth)'
    )
    parser.add_argument(
        '--out_dir',
        help='folder of the PNGs (default: TEST_SAVE_DIR/EXP_NAME/<split>_crf_<TEST_CRF>)',
    )
    parser.add_argument(
        '--out_no_crf', metavar='DIR', help='also write the predictions as they are before the CRF'
    )
    parser.add_argument(
        '--submission',
        metavar='FILE.tgz',
        help='with --split test: also write and check this archive',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace what other weights or settings have written',
    )
    command_line.add_jobs_flag(parser, 'the CRF and the evaluation')
    args = parser.parse_args()
    args.config = read_config(config, args.set)
    return args


def main(args: argparse.Namespace) -> None:
    if args.submission and args.split != 'test':
        raise UserError(
            f'--submission {args.submission}: the server takes the test pictures; add --split test'
        )
    if args.out_no_crf and args.config['TEST_CRF'] == 'none':
        raise UserError(
            f'--out_no_crf {args.out_no_crf}: with TEST_CRF=none these are in --out_dir; leave the '
            'flag out'
        )
    config, device = args.config, processes.start(args.device)
    names = names_of(config, args.list or args.split)
    check_images(config['DATA_ROOT'], names, 'DATA_ROOT')
    truth_dir = (
        None if args.split == 'test' else os.path.join(config['DATA_ROOT'], 'SegmentationClass')
    )
    lost = missing(names, [(truth_dir, '.png')]) if truth_dir else []
    if lost:
        raise UserError(
            f'{truth_dir}/{lost[0]}.png: no such mask ({len(lost)} of {len(names)} pictures have '
            'none); use --split test for pictures without ground truth'
        )
    weights = args.weights or os.path.join(config['MODEL_SAVE_DIR'], config['EXP_NAME'] + '.pth')
    net = to_device(load_net(config, weights), device).eval()
    config = own_normalisation(config, net)
    if net.cls_conv.out_channels != NUM_CLASSES:
        raise UserError(
            f'{weights}: has {net.cls_conv.out_channels} classes; VOC 2012 has {NUM_CLASSES}'
        )
    out_dir = args.out_dir or os.path.join(
        config['TEST_SAVE_DIR'], config['EXP_NAME'], f'{args.split}_crf_{config["TEST_CRF"]}'
    )
    outputs = [(out_dir, config['TEST_CRF'])] + (
        [(args.out_no_crf, 'none')] if args.out_no_crf else []
    )
    if processes.is_main():
        decides = {
            'stage': 'segmentation test',
            'weights': fingerprint(weights),
            **{
                key: config[key]
                for key in ('DATA_MEAN', 'DATA_STD', 'TEST_MULTISCALE', 'TEST_FLIP')
            },
        }
        claims = []
        for folder, crf in outputs:
            backend = {} if crf == 'none' else {'TEST_CRF_BACKEND': config['TEST_CRF_BACKEND']}
            claims.append((folder, {**decides, 'TEST_CRF': crf, **backend}))
        claim_all(claims, args.overwrite)
    processes.barrier()
    todo = missing(names, [(folder, '.png') for folder, _ in outputs])
    if processes.is_main():
        print(
            f'{config["MODEL_NAME"]} over {config["MODEL_BACKBONE"]}, {weights}, {device}, CRF '
            f'{config["TEST_CRF"]}; {len(names)} pictures, {len(names) - len(todo)} already '
            'complete',
            flush=True,
        )
    processes.barrier()  # nobody writes before everybody has listed the folder
    predict(
        net,
        config,
        todo[processes.rank() :: processes.world()],
        out_dir,
        device,
        args.jobs,
        args.out_no_crf,
    )
    processes.barrier()
    if processes.is_main():
        print(f'wrote {", ".join(folder for folder, _ in outputs)}')
        if truth_dir:
            print(table(evaluate(out_dir, truth_dir, names, args.jobs)))
        if args.submission:
            write_submission(args.submission, out_dir, config['DATA_ROOT'], names)
            print(f'wrote {args.submission}: {len(names)} pictures, checked')
    processes.stop()


def test(config: dict) -> None:
    """Run an experiment's test.py."""
    command_line.run(main, lambda: parse_args(config))
