"""Stand-in saliency maps from masks, to try EPS without a saliency network.

    python -m voc12.make_saliency --mask_dir VOC2012/SegmentationClassAug --out_dir SALImages \\
        --list voc12/train_aug.txt

Reads  <mask_dir>/<name>.png and the classes.txt beside <mask_dir>, if there is one.
Writes <out_dir>/<name>.png, 8-bit grey: where the mask holds an object, blurred.
"""

import os

import numpy as np
from PIL import Image, ImageFilter

from tool.files.atomic import atomic
from tool.files.lists import read_list
from tool.files.pictures import read_mask
from tool.run import command_line
from tool.run.progress import progress
from voc12.classes import IGNORE
from voc12.layout import check_files, class_set_beside


def parse_args():
    parser = command_line.Parser(__doc__)
    parser.data.add_argument(
        '--mask_dir', required=True, help='folder of masks, e.g. VOC2012/SegmentationClassAug'
    )
    parser.output.add_argument('--out_dir', required=True, help='folder for the maps')
    parser.data.add_argument('--list', required=True, help='images')
    parser.method.add_argument(
        '--blur', type=command_line.number(float, 0), default=5, help='radius of the blur in pixels'
    )
    return parser.parse_args()


def main(args):
    names, classes = read_list(args.list), class_set_beside(args.mask_dir)
    check_files(args.mask_dir, names, '.png', 'check --mask_dir and --list')
    for name in progress(names, desc='saliency'):
        mask = read_mask(os.path.join(args.mask_dir, name + '.png'), classes)
        objects = Image.fromarray(((mask != 0) & (mask != IGNORE)).astype(np.uint8) * 255)
        with atomic(os.path.join(args.out_dir, name + '.png')) as temporary:
            objects.filter(ImageFilter.GaussianBlur(args.blur)).save(temporary, 'PNG')


if __name__ == '__main__':
    command_line.run(main, parse_args)
