"""Saliency maps made from masks, to try the EPS baseline without a saliency network.

    python -m voc12.make_saliency --mask_dir VOC2012/SegmentationClassAug --out_dir SALImages \\
        --list voc12/train_aug.txt

Reads  <mask_dir>/<name>.png, and the classes.txt of the folder that <mask_dir> lies in, if there
       is one.
Writes <out_dir>/<name>.png, 8-bit grey: white where the mask has an object, black elsewhere, then
       blurred.
"""

import argparse
import os

import numpy as np
from PIL import Image, ImageFilter

from tool.files.folder_locks import FolderLocks
from tool.files.lists import read_list
from tool.files.pictures import read_mask, write_picture
from tool.files.places import keep_apart
from tool.files.shown_classes import need_a_class
from tool.run import command_line
from tool.run.progress import progress
from voc12.classes import IGNORE
from voc12.layout import check_files, class_set_beside, data_places


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.data.add_argument(
        '--mask_dir', required=True, help='folder of masks, e.g. VOC2012/SegmentationClassAug'
    )
    parser.output.add_argument('--out_dir', required=True, help='folder for the saliency maps')
    parser.data.add_argument(
        '--list', required=True, help='list of pictures to make saliency maps of'
    )
    command_line.add_mask_colours_flag(parser)
    parser.method.add_argument(
        '--blur',
        type=command_line.number(float, 0),
        default=5,
        help='radius of the Gaussian blur in pixels',
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    names = read_list(args.list)
    data_folder = os.path.dirname(os.path.abspath(args.mask_dir))
    keep_apart(
        [('--out_dir', args.out_dir)],
        [('--mask_dir', args.mask_dir), *data_places(data_folder, 'folder')],
    )
    classes = class_set_beside(args.mask_dir)
    check_files(args.mask_dir, names, '.png', 'check --mask_dir and --list')
    masks = [os.path.join(args.mask_dir, name + '.png') for name in names]
    need_a_class(masks, classes, f'--mask_dir {args.mask_dir}', args.mask_colours)
    with FolderLocks([args.out_dir]):
        for name in progress(names, desc='saliency'):
            mask = read_mask(os.path.join(args.mask_dir, name + '.png'), classes, args.mask_colours)
            is_object = (mask != 0) & (mask != IGNORE)
            objects = Image.fromarray(is_object.astype(np.uint8) * 255)
            saliency = objects.filter(ImageFilter.GaussianBlur(args.blur))
            write_picture(os.path.join(args.out_dir, name + '.png'), saliency)


if __name__ == '__main__':
    command_line.run(main, parse_args)
