"""Pseudo masks from CRF maps.

    python -m tool.make_pseudo_masks --crf_dir aff_crf/8.00 --out_dir pseudo_masks

Reads  <crf_dir>/<name>.npy of aff_prepare.py: a dict with the maps of the background and of the
       classes in the picture, or an array with the maps of all classes.
Writes <out_dir>/<name>.png, the most probable class of every pixel.

EPS's pseudo masks are made from the maps of aff_prepare.py --unary probs --alpha 8 --crf_iters 5.
"""

import argparse
import os

import numpy as np

from tool.files.atomic import need_folder
from tool.files.lists import read_list
from tool.files.manifest import fingerprint
from tool.files.maps import read_maps
from tool.files.picture_stage import Output, PictureStage
from tool.files.pictures import write_mask
from tool.files.records import Inputs
from tool.files.stage_of_input import PROBABILITIES, need_stage
from tool.method.class_set import ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.shard import is_first
from voc12.layout import check_files, class_set


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.data.add_argument(
        '--crf_dir',
        required=True,
        help='folder of CRF maps: that of one α in aff_prepare.py --out_crf',
    )
    parser.output.add_argument('--out_dir', required=True, help='folder for the masks')
    parser.data.add_argument(
        '--list',
        help='list of pictures to make masks of (default: every map in --crf_dir, also those of '
        'pictures that were taken out of the list since)',
    )
    parser.data.add_argument(
        '--voc12_root',
        default='VOC2012',
        help='data folder whose classes.txt names the classes of the maps',
    )
    command_line.add_jobs_flag(parser, 'reading and writing')
    command_line.add_on_error_flag(parser)
    command_line.add_dry_run_flag(parser)
    parser.output.add_argument(
        '--overwrite', action='store_true', help='replace masks that were made from other maps'
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    names = read_names(args)
    stage = PictureStage('pseudo masks', names, args.overwrite, args.on_error, args.dry_run)
    settings = {'stage': 'make_pseudo_masks', 'crf_dir': fingerprint(args.crf_dir)}
    masks = Output(args.out_dir, '.png', settings)

    def map_file(name: str) -> str:
        return os.path.join(args.crf_dir, name + '.npy')

    stage.claim([masks], lambda name: Inputs((map_file(name),)))

    classes = class_set(args.voc12_root)
    tasks = [(name, (map_file(name), masks.path(name), classes)) for name in stage.todo]
    stage.map(make_mask, tasks, args.jobs)
    stage.report()


def read_names(args: argparse.Namespace) -> list[str]:
    """Names of the pictures to make masks of.

    The folder does not say which of its maps are of a list that aff_prepare.py was given last, so
    without --list a line says that all of them are taken.

    Raises:
        UserError: --crf_dir or the map file of a picture is missing.
    """
    fix = 'make the maps with aff_prepare.py'
    need_folder(args.crf_dir, fix)
    need_stage(args.crf_dir, PROBABILITIES, '--crf_dir')
    if args.list:
        names = read_list(args.list)
        check_files(args.crf_dir, names, '.npy', fix)
        return names
    names = sorted(name[:-4] for name in os.listdir(args.crf_dir) if name.endswith('.npy'))
    if not names:
        raise UserError(f'{args.crf_dir}: holds no .npy file; {fix}')
    if is_first():
        print(
            f'no --list: masks of all {len(names)} maps in {args.crf_dir}, also those of pictures '
            'that were taken out of the list since',
            flush=True,
        )
    return names


def make_mask(source: str, target: str, classes: ClassSet) -> None:
    """Make the mask of one picture: read the CRF maps `source`, write the mask `target`."""
    maps = read_maps(source, classes)
    if not maps:
        raise UserError(f'{source}: holds no map; make it again with aff_prepare.py')
    class_ids = np.array(sorted(maps), np.uint8)
    stacked = np.stack([maps[class_id] for class_id in class_ids])  # [classes, H, W]
    most_probable = np.argmax(stacked, axis=0)
    write_mask(target, class_ids[most_probable])


if __name__ == '__main__':
    command_line.run(main, parse_args)
