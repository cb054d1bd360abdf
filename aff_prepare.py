"""Stage 2, preparation: dense CRF turns CAMs into the maps that AffinityNet learns from.

Maps of a low and of a high α (docs/method.md §4) tell AffinityNet which regions are sure.

    python aff_prepare.py --infer_list voc12/train_aug.txt --voc12_root VOC2012 \\
        --cam_dir runs/cam --out_crf runs/aff_crf

Reads  the pictures of --infer_list and their CAMs (--cam_dir/<name>.npy).
Writes <out_crf>/4.00/<name>.npy and so on, a folder for each α: dicts of the background and the
       present classes. What is already there is skipped, so the same command again continues.
"""

import argparse
import functools
import os
from dataclasses import dataclass

import numpy as np

from tool.files.lists import read_list
from tool.files.manifest import fingerprint
from tool.files.maps import read_cam
from tool.files.npy import write_npy
from tool.files.picture_stage import Output, PictureStage
from tool.files.pictures import read_image
from tool.files.stage_of_input import CAMS, need_stage
from tool.method.class_set import ClassSet
from tool.method.crf import affinity_maps
from tool.run import command_line
from tool.run.errors import UserError
from voc12.layout import check_cams, check_images, class_set, image_path, map_bytes, picture_and_map


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
        '--out_crf', required=True, help='output folder; it gets a folder for each α'
    )
    parser.method.add_argument(
        '--alpha',
        type=command_line.number(float, 0),
        nargs='+',
        default=[4, 8, 16, 24, 32],
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
        default='labels',
        help='what the unary term of the CRF is made of: labels, the argmax of the scores, as '
        'published for this method; probs, the scores themselves, as in SEAM, PSA and EPS',
    )
    parser.output.add_argument(
        '--dtype',
        choices=('float32', 'float16'),
        default='float32',
        help='number format of the maps on disk; float16 halves their size',
    )
    command_line.add_jobs_flag(parser, 'the CRF')
    command_line.add_on_error_flag(parser)
    command_line.add_dry_run_flag(parser)
    parser.output.add_argument(
        '--overwrite', action='store_true', help='replace the output of other settings'
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    folders = folders_of(args.alpha)
    names = read_list(args.infer_list)
    check_images(args.voc12_root, names)
    stage = PictureStage('aff_prepare', names, args.overwrite, args.on_error, args.dry_run)
    check_cams(args.cam_dir, args.voc12_root, stage.names, args.on_error)
    need_stage(args.cam_dir, CAMS, '--cam_dir')
    made_of = functools.partial(picture_and_map, args.voc12_root, args.cam_dir)
    stage.claim(wanted_outputs(args, folders), made_of, args.crf_backend)

    classes = class_set(args.voc12_root)
    options = MapOptions(args.unary, args.crf_iters, args.dtype, args.crf_backend, classes)
    tasks = []
    for name, missing_outputs in stage.todo.items():
        image_file = image_path(args.voc12_root, name)
        cam_file = os.path.join(args.cam_dir, name + '.npy')
        alphas = {output.path(name): output.settings['alpha'] for output in missing_outputs}
        tasks.append((name, (image_file, cam_file, alphas, options)))
    stage.map(prepare, tasks, args.jobs)
    stage.report(f' ({args.infer_list}), α {" ".join(folders)}', where=args.out_crf)


def folders_of(alphas: list[float]) -> dict[str, float]:
    """The folder of each α, {name of the folder: α}, for example {'4.00': 4}.

    Raises:
        UserError: an α has more decimals than the name of its folder.
    """
    folders = {f'{alpha:.2f}': alpha for alpha in alphas}
    for folder, alpha in folders.items():
        if float(folder) != alpha:
            raise UserError('--alpha: at most two decimals, the folders are named by them')
    return folders


def wanted_outputs(args: argparse.Namespace, folders: dict[str, float]) -> list[Output]:
    """The output folders, one for each α, with the settings that decide their files."""
    settings = {
        'stage': 'aff_prepare',
        'cam_dir': fingerprint(args.cam_dir),
        'crf_iters': args.crf_iters,
        'unary': args.unary,
        'dtype': args.dtype,
        'crf_backend': args.crf_backend,
    }
    value_bytes = np.dtype(args.dtype).itemsize

    def size(name: str) -> int:
        """The maps of the background and of the classes that have a CAM."""
        cam = os.path.getsize(os.path.join(args.cam_dir, name + '.npy'))
        background = map_bytes(args.voc12_root, name, 1, value_bytes)
        return cam * value_bytes // 4 + background

    return [
        Output(os.path.join(args.out_crf, folder), '.npy', {**settings, 'alpha': alpha}, size)
        for folder, alpha in folders.items()
    ]


@dataclass(frozen=True)
class MapOptions:
    """Settings that the maps of a picture are made with, the same for all pictures."""

    # what the CRF's unary term is made of: 'labels' or 'probs'
    unary: str
    # mean-field iterations of the CRF
    crf_iters: int
    # number format of the maps on disk: 'float32' or 'float16'
    dtype: str
    # what computes the CRF: one of tool.method.crf.BACKENDS
    crf_backend: str
    # the classes of the data
    classes: ClassSet


def prepare(image_file: str, cam_file: str, outputs: dict[str, float], options: MapOptions) -> None:
    """Make and write the maps of one picture.

    Args:
        image_file: the picture.
        cam_file: its CAMs.
        outputs: the files to write, {file: α}.
        options: how the maps are made.
    """
    image = np.array(read_image(image_file))
    cam = read_cam(cam_file, options.classes, image.shape[:2])
    every_map = affinity_maps(
        image,
        cam,
        outputs.values(),
        options.unary,
        options.crf_iters,
        options.crf_backend,
        num_labels=options.classes.num_classes,
    )
    for path, maps in zip(outputs, every_map):
        converted = {label: prob.astype(options.dtype) for label, prob in maps.items()}
        write_npy(path, converted)


if __name__ == '__main__':
    command_line.run(main, parse_args)
