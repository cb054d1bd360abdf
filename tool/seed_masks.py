"""Masks from CAMs at one background score.

    python -m tool.seed_masks --cam_dir runs/cam --list voc12/train_aug.txt \\
        --voc12_root VOC2012 --t 0.30 --out_crf runs/cam_crf

Reads  <cam_dir>/<name>.npy of contrast_infer.py --out_cam and, for the CRF, the pictures.
Writes --out_png <name>.png (the CAMs against the background score --t) and --out_crf <name>.png
       (those labels after dense CRF): what contrast_infer.py writes, without running the network
       again. So the best background score that eval.py --curve finds can be used. What is already
       there from the same CAMs and settings is skipped.
"""

import os

from tool.files.lists import read_list
from tool.files.manifest import fingerprint
from tool.files.maps import read_cam
from tool.files.picture_stage import PictureStage
from tool.files.pictures import image_size
from tool.files.stage_outputs import SeedOutputs, write_seed
from tool.method.class_set import ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from voc12.layout import check_files, check_images, class_set, image_path


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
    if not (args.out_png or args.out_crf):
        raise UserError('nothing to write: give --out_png, --out_crf or both')
    names = read_list(args.list)
    check_images(args.voc12_root, names)
    check_files(args.cam_dir, names, '.npy', 'make the CAMs with contrast_infer.py --out_cam')
    classes = class_set(args.voc12_root)
    stage = PictureStage('seed masks', names, args.overwrite)
    outputs = SeedOutputs(
        None,
        args.out_png,
        args.out_crf,
        args.t,
        args.crf_iters,
        args.crf_backend,
        classes.num_classes,
    )
    settings = {'stage': 'seed_masks', 'cam_dir': fingerprint(args.cam_dir), 't': args.t}
    stage.claim(outputs.wanted({}, settings), args.crf_backend if args.out_crf else None)

    tasks = [(args.voc12_root, args.cam_dir, outputs, classes, name) for name in stage.todo]
    stage.map(make_masks, tasks, args.jobs)
    stage.report(f' ({args.list}), background score {args.t}')


def make_masks(root: str, cam_dir: str, outputs: SeedOutputs, classes: ClassSet, name: str) -> None:
    """One picture: its CAM file → the wanted masks."""
    path = image_path(root, name)
    size = image_size(path)
    cam = read_cam(os.path.join(cam_dir, name + '.npy'), classes, size)
    write_seed(name, cam, size, path, outputs)


if __name__ == '__main__':
    command_line.run(main, parse_args)
