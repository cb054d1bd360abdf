"""Agreement of masks with their own refinement by dense CRF: a score without ground truth.

    python -m tool.agreement --list data/lists/train_aug.txt --voc12_root data \\
        --predict_dir runs/walk

Reads  the pictures and their masks <predict_dir>/<name>.png. Some pictures are enough, evenly
       spaced over the list (--pictures).
Writes the agreement to the terminal, and to --json where asked for.

Masks that follow the edges of a picture are changed less by a dense CRF than others. So of several
folders of masks of the same pictures, made from the same CAMs, the one with the highest agreement
is a good choice where there is no ground truth. The agreement does not tell how good masks are:
masks that are all background agree perfectly. docs/results.md has what the choice costs against a
choice by ground truth.
"""

import argparse
import functools
import json
import os

import numpy as np

from tool.files.atomic import check_writable, write_text
from tool.files.lists import read_list, spaced
from tool.files.pictures import check_size, read_image, read_mask
from tool.files.places import keep_apart
from tool.files.stage_of_input import MASKS, need_stage
from tool.method.agreement import agreement, refinement_confusion
from tool.method.class_set import IGNORE, ClassSet
from tool.run import command_line
from tool.run.pool import pool_map
from tool.run.progress import progress
from voc12.layout import check_files, check_images, class_set, image_path


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.data.add_argument('--list', required=True, help='list of pictures to choose from')
    parser.data.add_argument('--voc12_root', default='VOC2012', help="the devkit's VOC2012 folder")
    parser.data.add_argument('--predict_dir', required=True, help='folder of masks')
    parser.data.add_argument(
        '--pictures',
        type=command_line.number(int, 1),
        default=200,
        help='number of pictures to look at, evenly spaced over the list',
    )
    parser.output.add_argument('--json', help='file for the result as JSON, in percent')
    command_line.add_crf_backend_flag(parser)
    command_line.add_jobs_flag(parser, 'the CRF')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    keep_apart([('--json', args.json)], [('--list', args.list)])
    check_writable(args.json)
    names = spaced(read_list(args.list), args.pictures)
    check_images(args.voc12_root, names)
    check_files(args.predict_dir, names, '.png', f'check --predict_dir and {args.list}')
    need_stage(args.predict_dir, MASKS, '--predict_dir')
    command_line.need_crf_backend(args.crf_backend)
    classes = class_set(args.voc12_root)
    count = functools.partial(
        count_picture, args.voc12_root, args.predict_dir, classes, args.crf_backend
    )
    total = np.zeros((classes.num_classes, classes.num_classes + 1), np.int64)
    results = pool_map(count, names, args.jobs)
    for matrix in progress(results, total=len(names), desc='agreement'):
        total += matrix
    value = agreement(total)
    print(f'{len(names)} images of {args.list}, masks {args.predict_dir}: agreement {value:.3f}')
    if args.json:
        result = {
            'list': args.list,
            'images': len(names),
            'predict_dir': args.predict_dir,
            'agreement': value,
        }
        write_text(args.json, json.dumps(result, indent=1) + '\n')


def count_picture(
    root: str, predict_dir: str, classes: ClassSet, crf_backend: str, name: str
) -> np.ndarray:
    """The `refinement_confusion` of one picture's mask; pixels to ignore are background.

    Raises:
        UserError: a file is missing or damaged, or has another size than the picture.
    """
    image = np.asarray(read_image(image_path(root, name)))
    path = os.path.join(predict_dir, f'{name}.png')
    mask = read_mask(path, classes)
    check_size(path, mask.shape, image.shape[:2])
    without_ignore = np.where(mask == IGNORE, 0, mask).astype(np.uint8)
    return refinement_confusion(image, without_ignore, classes.num_classes, crf_backend)


if __name__ == '__main__':
    command_line.run(main, parse_args)
