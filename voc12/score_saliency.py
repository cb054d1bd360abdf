"""Scores of saliency maps against the objects of ground-truth masks, whatever their classes.

    python -m voc12.score_saliency --saliency_dir SALImages --list voc12/train.txt \\
        --gt_dir VOC2012/SegmentationClass

Reads  <saliency_dir>/<name>.png and <gt_dir>/<name>.png, and the classes.txt of the folder that
       <gt_dir> lies in, if there is one.
Writes IoU and mean absolute error to the terminal, and to --json where asked for.

The IoU is that of the pixels above half of the scale with the pixels of any object, counted over
all pictures. The mean absolute error takes the values of the map as they are; it is the mean over
the pictures. Pixels of 255 (ignore) count in neither.
"""

import argparse
import functools
import json
import os

from tool.files.atomic import check_writable, write_text
from tool.files.lists import read_list
from tool.files.pictures import check_size, read_gray, read_mask
from tool.files.places import keep_apart
from tool.files.shown_classes import need_a_class
from tool.method.class_set import ClassSet
from tool.method.saliency_scores import SaliencyScore, mean_scores, saliency_score
from tool.run import command_line
from tool.run.pool import pool_map
from tool.run.progress import progress
from voc12.layout import check_files, class_set_beside


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.data.add_argument('--list', required=True, help='list of pictures to score')
    parser.data.add_argument('--saliency_dir', required=True, help='folder of saliency maps')
    parser.data.add_argument('--gt_dir', required=True, help='folder of ground-truth masks')
    command_line.add_mask_colours_flag(parser)
    parser.output.add_argument('--json', help='file for the scores as JSON, in percent')
    command_line.add_jobs_flag(parser, 'reading and counting')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    keep_apart(
        [('--json', args.json)],
        [
            ('--list', args.list),
            ('--saliency_dir', args.saliency_dir),
            ('--gt_dir', args.gt_dir),
        ],
    )
    check_writable(args.json)
    names = read_list(args.list)
    check_files(args.saliency_dir, names, '.png', 'check --saliency_dir and --list')
    check_files(args.gt_dir, names, '.png', 'check --gt_dir and --list')
    classes = class_set_beside(args.gt_dir)
    masks = [os.path.join(args.gt_dir, name + '.png') for name in names]
    need_a_class(masks, classes, f'--gt_dir {args.gt_dir}', args.mask_colours)
    score = functools.partial(
        score_picture, args.saliency_dir, args.gt_dir, classes, args.mask_colours
    )
    results = pool_map(score, names, args.jobs)
    scores = list(progress(results, total=len(names), desc='scoring saliency'))

    iou, error = mean_scores(scores)
    print(
        f'{len(names)} images of {args.list}, saliency maps {args.saliency_dir}: '
        f'IoU of objects {100 * iou:.1f} %, mean absolute error {error:.3f}'
    )
    if args.json:
        result = {
            'list': args.list,
            'images': len(names),
            'saliency_dir': args.saliency_dir,
            'IoU': 100 * iou,
            'MAE': 100 * error,
        }
        write_text(args.json, json.dumps(result, indent=1) + '\n')


def score_picture(
    saliency_dir: str, gt_dir: str, classes: ClassSet, colours: str, name: str
) -> SaliencyScore:
    """The score of one picture's map.

    Raises:
        UserError: a file is missing or damaged, or the map has another size than the mask.
    """
    truth = read_mask(os.path.join(gt_dir, f'{name}.png'), classes, colours)
    path = os.path.join(saliency_dir, f'{name}.png')
    saliency = read_gray(path, 'check --saliency_dir', indices=False)
    check_size(path, saliency.shape, truth.shape, what='saliency map is', of='the mask')
    return saliency_score(saliency, truth)


if __name__ == '__main__':
    command_line.run(main, parse_args)
