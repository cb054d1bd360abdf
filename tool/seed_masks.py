"""Masks from CAMs at one background score.

    python -m tool.seed_masks --cam_dir runs/cam --list voc12/train_aug.txt \\
        --voc12_root VOC2012 --t 0.30 --out_crf runs/cam_crf

Reads  <cam_dir>/<name>.npy of contrast_infer.py --out_cam and, for the CRF, the pictures.
Writes --out_png <name>.png (the CAMs against the background score --t) and --out_crf <name>.png
       (those labels after dense CRF): what contrast_infer.py writes, without running the network
       again. So the best background score that eval.py --curve finds can be used. What is already
       there from the same CAMs and settings is skipped.
"""

import functools
import os

from tool.files.lists import read_list
from tool.files.manifest import claim_all, fingerprint, missing
from tool.files.maps import read_cam
from tool.files.pictures import image_size
from tool.files.stage_outputs import SeedOutputs, write_seed
from tool.method.crf import check_backend
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.pool import pool_map
from tool.run.progress import progress
from tool.run.shard import is_first, own_share
from voc12.classes import NUM_CLASSES, VOC
from voc12.layout import check_files, check_images, image_path


def parse_args():
    parser = command_line.Parser(__doc__)
    parser.data.add_argument(
        '--cam_dir', required=True, help='CAM .npy files (contrast_infer.py --out_cam)'
    )
    parser.data.add_argument('--list', default='voc12/train.txt', help='pictures to make masks of')
    parser.data.add_argument('--voc12_root', default='VOC2012', help="the devkit's VOC2012 folder")
    parser.method.add_argument(
        '--t',
        type=command_line.number(float, 0, 1),
        required=True,
        help='background score, 0…1; eval.py --curve finds the best',
    )
    parser.output.add_argument('--out_png', help='folder for CAM masks (.png)')
    parser.output.add_argument('--out_crf', help='folder for masks after dense CRF (.png)')
    parser.method.add_argument(
        '--crf_iters',
        type=command_line.number(int, 1),
        default=10,
        help='mean-field iterations of the CRF',
    )
    command_line.add_crf_backend_flag(parser)
    command_line.add_jobs_flag(parser, 'reading, the CRF and writing')
    parser.output.add_argument(
        '--overwrite', action='store_true', help='replace masks of other CAMs or settings'
    )
    return parser.parse_args()


def main(args):
    outputs = SeedOutputs(
        None, args.out_png, args.out_crf, args.t, args.crf_iters, args.crf_backend, NUM_CLASSES
    )
    if not outputs.files():
        raise UserError('nothing to write: give --out_png, --out_crf or both')
    names = read_list(args.list)
    check_images(args.voc12_root, names)
    check_files(args.cam_dir, names, '.npy', 'make the CAMs with contrast_infer.py --out_cam')
    names = own_share(names, args.overwrite)
    settings = {'stage': 'seed_masks', 'cam_dir': fingerprint(args.cam_dir), 't': args.t}
    folders = ((args.out_png, settings), (args.out_crf, {**settings, **outputs.crf_settings()}))
    claim_all([(folder, decides) for folder, decides in folders if folder], args.overwrite)
    todo = missing(names, outputs.files())
    if todo and args.out_crf:
        check_backend(args.crf_backend)
    made = pool_map(
        functools.partial(make_masks, args.voc12_root, args.cam_dir, outputs), todo, args.jobs
    )
    for _ in progress(made, total=len(todo), desc='seed masks', quiet=not is_first()):
        pass
    if is_first():
        print(
            f'{len(names)} pictures ({args.list}), background score {args.t}: {len(todo)} made, '
            f'{len(names) - len(todo)} were there; in '
            + ' and '.join(folder for folder, _ in outputs.files())
        )


def make_masks(root: str, cam_dir: str, outputs: SeedOutputs, name: str) -> None:
    """One picture: its CAM file → the wanted masks."""
    path = image_path(root, name)
    size = image_size(path)
    write_seed(name, read_cam(os.path.join(cam_dir, name + '.npy'), VOC, size), size, path, outputs)


if __name__ == '__main__':
    command_line.run(main, parse_args)
