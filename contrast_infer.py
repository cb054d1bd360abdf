"""Stage 1, inference: seeds (CAMs) of a trained CAM network at several scales with mirror images.

    python contrast_infer.py --weights runs/seam.pth --infer_list voc12/train.txt --voc12_root
    VOC2012 \\
        --out_cam cam --out_cam_pred cam_png --out_crf cam_crf

Reads  the pictures of --infer_list and their image-level labels.
Writes any of: --out_cam <name>.npy {class 0…19: float32 (H, W)}, --out_cam_pred <name>.png (the
CAMs against the background
       score --out_cam_pred_alpha), --out_crf <name>.png (those labels after dense CRF). What is
       already there from the same weights and settings is skipped.
"""

import torch
from torch.utils.data import DataLoader, Subset

from network.baselines import BASELINES, baseline_of
from network.device import to_device
from network.weights import net_from_checkpoint
from tool.files.checkpoints import load_checkpoint
from tool.files.lists import read_labels, read_list
from tool.files.manifest import claim_all, fingerprint, missing
from tool.files.stage_outputs import SeedOutputs, write_seed
from tool.method.crf import check_backend
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.pool import Pool
from tool.run.progress import progress
from tool.run.shard import is_first, own_share
from tool.train.memory import return_freed_memory
from tool.train.precision import amp_dtype, hold_convolutions, resolved
from voc12.classes import NUM_CLASSES, VOC
from voc12.data import MultiScaleSet, pick_labels
from voc12.layout import check_images, image_path

# Weights from which on freed memory goes back at once on a CPU: light networks (Lite0 has 4
# million) and those in 16 bits have
# small blocks, and would lose a fifth of their time to page faults.
WIDE = 30_000_000
PCM_FLAGS = (
    'gate_pcm',
    'fill_empty',
)  # refused where the PCM does not make the seeds, part of the manifest where it does


def parse_args():
    parser = command_line.Parser(__doc__)
    parser.add_argument(
        '--weights', required=True, help='state dict of contrast_train.py or a published one'
    )
    parser.add_argument(
        '--baseline',
        choices=sorted(BASELINES),
        help='only to be sure: it is read from the checkpoint',
    )
    parser.add_argument('--network', help="module of the network (default: the baseline's)")
    parser.add_argument('--infer_list', default='voc12/train.txt', help='images')
    parser.add_argument('--voc12_root', default='VOC2012', help="the devkit's VOC2012 folder")
    parser.add_argument('--cls_labels', default='voc12/cls_labels.npy', help='image-level labels')
    parser.add_argument('--out_cam', help='folder for the CAMs (.npy)')
    parser.add_argument('--out_cam_pred', help='folder for CAM masks (.png)')
    parser.add_argument(
        '--out_cam_pred_alpha',
        type=command_line.number(float, 0, 1),
        help="background score of the masks and of the CRF's labels (default: seam 0.26, eps 0.22)",
    )
    parser.add_argument('--out_crf', help='folder for masks after dense CRF (.png)')
    parser.add_argument(
        '--crf_iters',
        type=command_line.number(int, 1),
        default=10,
        help='mean-field iterations of the CRF',
    )
    command_line.add_crf_backend_flag(parser)
    parser.add_argument(
        '--scales',
        type=command_line.number(float, 0.1, 8),
        nargs='+',
        default=[0.5, 1.0, 1.5, 2.0],
        help='factors on the image size; each is run with its mirror image',
    )
    parser.add_argument(
        '--gate_pcm',
        action='store_true',
        help='classes that the image labels do not name take no part in the PCM (not published; '
        'SEAM only)',
    )
    parser.add_argument(
        '--fill_empty',
        action='store_true',
        help='a class of the image labels whose seed would be 0 everywhere '
        'is inferred again from its CAM without ReLU (not published; SEAM only)',
    )
    command_line.add_workers_flag(parser)
    command_line.add_amp_flag(parser)
    command_line.add_device_flag(parser)
    command_line.add_jobs_flag(parser, 'writing and the CRF')
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace what other weights or settings have written',
    )
    return parser.parse_args()


def main(args):
    if not (args.out_cam or args.out_cam_pred or args.out_crf):
        raise UserError('nothing to write: give --out_cam, --out_cam_pred or --out_crf')
    device = command_line.pick_device(args.device)
    args.amp = resolved(args.amp, device)
    dtype = amp_dtype(args.amp, device)
    names = read_list(args.infer_list)
    labels = pick_labels(read_labels(args.cls_labels, VOC), names, args.cls_labels)
    check_images(args.voc12_root, names)
    state = load_checkpoint(args.weights)
    if (
        device.type == 'cpu'
        and dtype is None
        and sum(value.numel() for value in state.values()) > WIDE
    ):
        return_freed_memory()
    baseline, why = baseline_of(state, args.weights, args.baseline)
    for flag in PCM_FLAGS:
        if getattr(args, flag) and not baseline.pcm_seeds:
            raise UserError(
                f'--{flag}: the seeds of the {baseline.name} baseline are not made by the PCM; '
                'leave the flag out'
            )
    net = net_from_checkpoint(args.network or baseline.networks, args.weights, state)
    net = to_device(net, device)
    del state  # or the weights would be there twice once the network has others
    if dtype is not None:
        hold_convolutions(net, dtype)
    elif args.channels_last:
        net.to(memory_format=torch.channels_last)
    threshold = (
        baseline.png_threshold if args.out_cam_pred_alpha is None else args.out_cam_pred_alpha
    )
    outputs = SeedOutputs(
        args.out_cam,
        args.out_cam_pred,
        args.out_crf,
        threshold,
        args.crf_iters,
        args.crf_backend,
        NUM_CLASSES,
    )
    share = own_share(names, args.overwrite)
    claim_outputs(args, outputs)
    wanted = set(missing(share, outputs.files()))
    todo = [index for index, name in enumerate(names) if name in wanted]
    if is_first():
        print(
            f'{baseline.name} baseline ({why}), {net.description}, {device}; {len(share)} of '
            f'{len(names)} images here, {len(share) - len(todo)} already complete',
            flush=True,
        )

    if todo and args.out_crf:
        check_backend(args.crf_backend)
    dataset = Subset(
        MultiScaleSet(args.voc12_root, names, labels, args.scales, net.normalisation), todo
    )
    loader = DataLoader(
        dataset, batch_size=None, num_workers=args.num_workers, pin_memory=device.type == 'cuda'
    )
    with Pool(args.jobs) as pool:
        for item in progress(loader, desc='infer', quiet=not is_first()):
            cam = seeds(net, baseline, item, device, dtype, args.gate_pcm, args.fill_empty)
            pool.submit(
                write_seed,
                item['name'],
                cam,
                item['size'],
                image_path(args.voc12_root, item['name']),
                outputs,
            )


@torch.inference_mode()
def seeds(
    net,
    baseline,
    item: dict,
    device: torch.device,
    dtype: torch.dtype = None,
    gate_pcm: bool = False,
    fill_empty: bool = False,
) -> dict:
    """CAM dict {class 0…19: float32 [H, W]} of one item of MultiScaleSet; the network computes in
    `dtype`.

    With `fill_empty` a class whose map is 0 everywhere gets one of its lifted CAM, from a PCM that
    knows only the picture's
    classes: the others may be weak there too, and would win its pixels.
    """
    if not item['classes']:
        return {}

    def summed(gate_pcm: bool, lifted: torch.Tensor = None) -> torch.Tensor:
        return sum(
            baseline.maps(
                net,
                view.to(device, non_blocking=True),
                item['classes'],
                item['size'],
                gate_pcm,
                lifted,
            )
            for view in item['views']
        )

    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        maps = summed(gate_pcm)
        if fill_empty and (empty := maps.amax((1, 2)) <= 0).any():
            maps = torch.where(empty.view(-1, 1, 1), summed(True, empty), maps)
    return dict(zip(item['classes'], baseline.finish(maps).cpu().numpy()))


def claim_outputs(args, outputs: SeedOutputs) -> None:
    """Make the output folders this run's own, or refuse."""
    settings = {
        'stage': 'contrast_infer',
        'weights': fingerprint(args.weights),
        'scales': args.scales,
    }
    if args.amp != 'off':
        settings['amp'] = args.amp
    if args.channels_last:
        settings['channels_last'] = True
    settings |= {flag: True for flag in PCM_FLAGS if getattr(args, flag)}
    masks = {**settings, 'alpha': outputs.threshold}
    folders = (
        (outputs.cam, settings),
        (outputs.png, masks),
        (outputs.crf, {**masks, **outputs.crf_settings()}),
    )
    claim_all([(folder, decides) for folder, decides in folders if folder], args.overwrite)


if __name__ == '__main__':
    command_line.run(main, parse_args)
