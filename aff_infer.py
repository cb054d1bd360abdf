"""Stage 2, inference: pseudo masks from CAMs by a random walk over AffinityNet's affinities.

    python aff_infer.py --weights runs/aff.pth --infer_list voc12/train.txt --voc12_root VOC2012
    --cam_dir runs/cam \\
        --out_rw runs/rw

Reads  the pictures of --infer_list and their CAMs (--cam_dir/<name>.npy).
Writes <out_rw>/<name>.png (palette masks) and <out_rw_prob>/<name>.npy (the walk's probabilities, a
dict of background and
       present classes). What is already there for the same weights and settings is skipped.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from network.device import to_device
from network.weights import AFFINITY, net_from_checkpoint
from tool.files.lists import read_list
from tool.files.manifest import claim_all, fingerprint, missing
from tool.files.stage_outputs import write_walk
from tool.method.crf import check_backend
from tool.method.random_walk import random_walk
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.pool import Pool
from tool.run.progress import progress
from tool.run.shard import is_first, own_share
from voc12.aff_data import WalkSet
from voc12.classes import NUM_CLASSES
from voc12.layout import check_images, check_maps, image_path


def parse_args():
    parser = command_line.Parser(__doc__)
    parser.add_argument('--weights', required=True, help='AffinityNet checkpoint (aff_train.py)')
    parser.add_argument(
        '--network',
        help="module of the network (default: AffinityNet over the checkpoint's backbone)",
    )
    parser.add_argument('--infer_list', default='voc12/train.txt', help='pictures to make masks of')
    parser.add_argument('--voc12_root', default='VOC2012', help="the devkit's VOC2012 folder")
    parser.add_argument(
        '--cam_dir', required=True, help='CAM .npy files (contrast_infer.py --out_cam)'
    )
    parser.add_argument('--out_rw', help='output folder of the masks')
    parser.add_argument(
        '--out_rw_prob', help="output folder of the walk's probabilities, before any CRF"
    )
    parser.add_argument(
        '--beta',
        type=command_line.number(float, 0),
        default=8,
        help='exponent of the affinities; larger walks less',
    )
    parser.add_argument(
        '--logt',
        type=command_line.number(int, 0, 20),
        default=6,
        help='the walk takes 2^logt steps',
    )
    parser.add_argument(
        '--bg_score',
        type=command_line.number(float, 0, 1),
        default=0.27,
        help='background score before the walk',
    )
    parser.add_argument(
        '--crf', action='store_true', help='refine the masks of --out_rw with dense CRF'
    )
    parser.add_argument(
        '--out_rw_crf',
        help='output folder of masks refined with dense CRF, beside those of --out_rw',
    )
    command_line.add_crf_backend_flag(parser)
    parser.add_argument(
        '--alpha', type=float, help='unused; accepted because published commands carry it'
    )
    command_line.add_workers_flag(parser)
    command_line.add_jobs_flag(parser, 'CRF and writing')
    command_line.add_device_flag(parser)
    parser.add_argument(
        '--overwrite', action='store_true', help='replace output of other weights or settings'
    )
    return parser.parse_args()


def main(args):
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
    device = command_line.pick_device(args.device)
    names = read_list(args.infer_list)
    check_images(args.voc12_root, names)
    names = own_share(names, args.overwrite)
    check_maps(
        args.cam_dir, args.voc12_root, names, 'make the CAMs with contrast_infer.py --out_cam'
    )
    net = to_device(net_from_checkpoint(args.network or AFFINITY, args.weights), device)

    settings = {
        'stage': 'aff_infer',
        'weights': fingerprint(args.weights),
        'cam_dir': fingerprint(args.cam_dir),
        'beta': args.beta,
        'logt': args.logt,
        'bg_score': args.bg_score,
    }
    plain, refined = (None, args.out_rw) if args.crf else (args.out_rw, args.out_rw_crf)
    with_crf = {**settings, 'crf': True, 'crf_backend': args.crf_backend}
    wanted = [
        (folder, extension, decides)
        for folder, extension, decides in (
            (plain, '.png', {**settings, 'crf': False}),
            (refined, '.png', with_crf),
            (args.out_rw_prob, '.npy', settings),
        )
        if folder
    ]
    claim_all([(folder, decides) for folder, _, decides in wanted], args.overwrite)
    outputs = [(folder, extension) for folder, extension, _ in wanted]
    todo = missing(names, outputs)
    if todo and refined:
        check_backend(args.crf_backend)
    bar = progress(
        total=len(names), initial=len(names) - len(todo), desc='aff_infer', quiet=not is_first()
    )
    loader = DataLoader(
        WalkSet(args.voc12_root, todo, args.cam_dir, args.bg_score, net.normalisation),
        batch_size=None,
        num_workers=args.num_workers,
        pin_memory=device.type == 'cuda',
    )
    with Pool(args.jobs) as pool:
        for sample in loader:
            scores = walk(net, sample, device, args.beta, args.logt)
            finished = pool.submit(
                write_walk,
                sample['name'],
                scores,
                sample['labels'],
                NUM_CLASSES,
                plain,
                args.out_rw_prob,
                refined,
                image_path(args.voc12_root, sample['name']),
                args.crf_backend,
            )
            bar.update(len(finished))
        for _ in pool.finish():
            bar.update()
    bar.close()
    if is_first():
        print(
            f'{len(names)} pictures ({args.infer_list}): {len(todo)} made, '
            f'{len(names) - len(todo)} were there; in '
            + ' and '.join(folder for folder, _ in outputs)
        )


@torch.inference_mode()
def walk(net, sample: dict, device: torch.device, beta: float, logt: int) -> np.ndarray:
    """Scores float32 [K, H, W] at picture size after the walk, one map for each of the sample's
    labels."""
    pairs = net(sample['image'][None].to(device))[0]
    scores = random_walk(sample['cam'].to(device), pairs, beta=beta, logt=logt)
    scores = F.interpolate(
        scores[None], sample['image'].shape[1:], mode='bilinear', align_corners=False
    )[0]
    height, width = sample['size']
    return scores[:, :height, :width].cpu().numpy()


if __name__ == '__main__':
    command_line.run(main, parse_args)
