"""Masks from CAMs at one background score.

    python -m tool.seed_masks --cam_dir runs/cam --list voc12/train_aug.txt \\
        --voc12_root VOC2012 --t 0.30 --out_crf runs/cam_crf

Reads  <cam_dir>/<name>.npy of contrast_infer.py --out_cam and, for the CRF, the pictures.
Writes <out_png>/<name>.png, the strongest of the CAMs and the background score --t in every pixel,
       and <out_crf>/<name>.png, these labels after dense CRF.

The files are those that contrast_infer.py writes, but the network does not run again. So masks at
the best background score, which eval.py --curve finds, are quick to make. Files that are already
there from the same CAMs and settings are skipped.
"""

import argparse
import functools
import os

from tool.files.lists import read_list
from tool.files.manifest import fingerprint
from tool.files.maps import read_cam
from tool.files.picture_stage import PictureStage
from tool.files.pictures import image_size
from tool.files.stage_of_input import CAMS, need_stage
from tool.files.stage_outputs import SeedOutputs, write_seed
from tool.method.class_set import ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from voc12.layout import (
    check_files,
    check_images,
    class_set,
    image_path,
    mask_bytes,
    picture_and_map,
)


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.data.add_argument(
        '--cam_dir', required=True, help='folder of CAMs <name>.npy (contrast_infer.py --out_cam)'
    )
    parser.data.add_argument(
        '--list', default='voc12/train.txt', help='list of pictures to make masks of'
    )
    parser.data.add_argument('--voc12_root', default='VOC2012', help="the devkit's VOC2012 folder")
    parser.method.add_argument(
        '--t',
        type=command_line.number(float, 0, 1),
        required=True,
        help='background score, 0…1; eval.py --curve finds the best one',
    )
    parser.output.add_argument('--out_png', help='folder for the masks of the CAMs (.png)')
    parser.output.add_argument('--out_crf', help='folder for the masks after dense CRF (.png)')
    parser.method.add_argument(
        '--crf_iters',
        type=command_line.number(int, 1),
        default=10,
        help='mean-field iterations of the CRF',
    )
    command_line.add_crf_backend_flag(parser)
    command_line.add_jobs_flag(parser, 'reading, the CRF and writing')
    command_line.add_on_error_flag(parser)
    command_line.add_dry_run_flag(parser)
    parser.output.add_argument(
        '--overwrite',
        action='store_true',
        help='replace masks that were made from other CAMs or settings',
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    if not (args.out_png or args.out_crf):
        raise UserError('nothing to write: give --out_png, --out_crf or both')
    names = read_list(args.list)
    check_images(args.voc12_root, names)
    check_files(args.cam_dir, names, '.npy', 'make the CAMs with contrast_infer.py --out_cam')
    need_stage(args.cam_dir, CAMS, '--cam_dir')
    classes = class_set(args.voc12_root)
    stage = PictureStage('seed masks', names, args.overwrite, args.on_error, args.dry_run)
    outputs = SeedOutputs(
        cam=None,
        png=args.out_png,
        crf=args.out_crf,
        threshold=args.t,
        crf_iters=args.crf_iters,
        crf_backend=args.crf_backend,
        num_classes=classes.num_classes,
    )
    settings = {'stage': 'seed_masks', 'cam_dir': fingerprint(args.cam_dir), 't': args.t}
    size = functools.partial(mask_bytes, args.voc12_root)
    wanted = outputs.wanted(cam_settings={}, mask_settings=settings, mask_bytes=size)
    made_of = functools.partial(picture_and_map, args.voc12_root, args.cam_dir)
    stage.claim(wanted, made_of, args.crf_backend if args.out_crf else None)

    tasks = []
    for name in stage.todo:
        tasks.append((name, (args.voc12_root, args.cam_dir, outputs, classes, name)))
    stage.map(make_masks, tasks, args.jobs)
    stage.report(f' ({args.list}), background score {args.t}')


def make_masks(root: str, cam_dir: str, outputs: SeedOutputs, classes: ClassSet, name: str) -> None:
    """Make the wanted masks of one picture from its CAM file."""
    path = image_path(root, name)
    size = image_size(path)
    cam = read_cam(os.path.join(cam_dir, name + '.npy'), classes, size)
    write_seed(name, cam, size, path, outputs)


if __name__ == '__main__':
    command_line.run(main, parse_args)
