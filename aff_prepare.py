"""Stage 2, preparation: dense CRF turns CAMs into what the network of a refiner learns from.

For AffinityNet, maps of a low and of a high α (docs/method.md §4) tell which regions are sure. With
--irn, for IRN's boundary head, a label map does (§10.13).

    python aff_prepare.py --infer_list voc12/train_aug.txt --voc12_root VOC2012 \\
        --cam_dir runs/cam --out_crf runs/aff_crf
    python aff_prepare.py --irn --infer_list voc12/train_aug.txt --voc12_root VOC2012 \\
        --cam_dir runs/cam --out_crf runs/irn_label

Reads  the pictures of --infer_list and their CAMs (--cam_dir/<name>.npy).
Writes <out_crf>/4.00/<name>.npy and so on, a folder for each α: dicts of the background and the
       present classes; with --irn <out_crf>/<name>.png: class ids, 0 for the background, 255 where
       unsure. What is already there is skipped, so the same command again continues.
"""

import argparse
import functools

from network import refiners
from network.refiners import flags
from tool.files.lists import read_list
from tool.files.picture_stage import PictureStage
from tool.files.stage_of_input import CAMS, need_stage
from tool.run import command_line
from voc12.layout import check_cams, check_images, class_set, picture_and_map

PREPARATIONS = {name: refiners.find_preparation(name) for name in refiners.NAMES}
# The flags that depend on the refiner.
FLAGS = {name: preparation.flags for name, preparation in PREPARATIONS.items()}


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.data.add_argument(
        '--infer_list', default='voc12/train_aug.txt', help='list of the images to prepare'
    )
    parser.data.add_argument('--voc12_root', default='VOC2012', help="the devkit's VOC2012 folder")
    parser.data.add_argument(
        '--cam_dir', required=True, help='folder of the CAMs (contrast_infer.py --out_cam)'
    )
    parser.output.add_argument(
        '--out_crf',
        required=True,
        help='output folder; it gets a folder for each α, or with --irn the label maps',
    )
    parser.additions.add_argument(
        '--irn',
        dest='refiner',
        action='store_const',
        const='irn',
        help="make label maps for IRN's boundary head instead of maps for AffinityNet",
    )
    parser.additions.add_argument(
        '--conf_fg_thres',
        type=command_line.number(float, 0, 1),
        help='with --irn: a class is sure where its CAM wins against this background score',
    )
    parser.additions.add_argument(
        '--conf_bg_thres',
        type=command_line.number(float, 0, 1),
        help='with --irn: the background is sure where no CAM wins against this background score',
    )
    parser.method.add_argument(
        '--alpha',
        type=command_line.number(float, 0),
        nargs='+',
        help='background exponents: (1 − max CAM)^α; aff_train needs a low and a high one',
    )
    parser.method.add_argument(
        '--crf_iters',
        type=command_line.number(int, 1),
        default=10,
        help='mean-field iterations of the CRF',
    )
    command_line.add_crf_backend_flag(parser)
    parser.method.add_argument(
        '--unary',
        choices=('labels', 'probs'),
        help='what the unary term of the CRF is made of: labels, the argmax of the scores, as '
        'published for this method; probs, the scores themselves, as in SEAM, PSA and EPS',
    )
    parser.output.add_argument(
        '--dtype',
        choices=('float32', 'float16'),
        help='number format of the maps on disk; float16 halves their size',
    )
    command_line.add_jobs_flag(parser, 'the CRF')
    command_line.add_on_error_flag(parser)
    command_line.add_dry_run_flag(parser)
    parser.output.add_argument(
        '--overwrite', action='store_true', help='replace the output of other settings'
    )
    flags.set_defaults(parser, FLAGS)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    refiner = args.refiner or refiners.NAMES[0]
    flags.settle(args, FLAGS, refiner)
    preparation = PREPARATIONS[refiner]
    about = preparation.about(args)
    names = read_list(args.infer_list)
    check_images(args.voc12_root, names)
    stage = PictureStage('aff_prepare', names, args.overwrite, args.on_error, args.dry_run)
    check_cams(args.cam_dir, args.voc12_root, stage.names, args.on_error)
    need_stage(args.cam_dir, CAMS, '--cam_dir')
    made_of = functools.partial(picture_and_map, args.voc12_root, args.cam_dir)
    stage.claim(preparation.outputs(args), made_of, args.crf_backend)

    classes = class_set(args.voc12_root)
    tasks = []
    for name, missing_outputs in stage.todo.items():
        arguments = preparation.arguments(args, classes, name, missing_outputs)
        tasks.append((name, (*made_of(name).files, *arguments)))
    stage.map(preparation.prepare, tasks, args.jobs)
    stage.report(f' ({args.infer_list}), {about}', where=args.out_crf)


if __name__ == '__main__':
    command_line.run(main, parse_args)
