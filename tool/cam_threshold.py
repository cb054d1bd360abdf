"""A background score for CAMs where there is no ground truth, from the histogram of their scores.

    python -m tool.cam_threshold --list data/lists/train_aug.txt --voc12_root data \\
        --cam_dir runs/cam --json runs/threshold.json

Reads  <cam_dir>/<name>.npy of contrast_infer.py --out_cam.
Writes the background score to the terminal, and to --json where asked for.

The score of the strongest class is taken in every pixel of all pictures. Background pixels have low
scores, whose number decays; the scores of objects are spread evenly. The background score is where
the histogram has come down to this even level. docs/results.md has what it costs against the score
that ground truth would choose, which eval.py --curve finds.
"""

import argparse
import functools
import json
import os

import numpy as np

from tool.files.atomic import check_writable, write_text
from tool.files.lists import read_list
from tool.files.maps import read_cam
from tool.files.places import keep_apart
from tool.files.stage_of_input import CAMS, need_stage
from tool.method.background_score import (
    BINS,
    end_of_tail,
    relative_density,
    winning_histogram,
)
from tool.method.class_set import ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.pool import pool_map
from tool.run.progress import progress
from voc12.layout import check_files, class_set


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.data.add_argument('--list', required=True, help='list of pictures')
    parser.data.add_argument(
        '--voc12_root',
        default='VOC2012',
        help='data folder whose classes.txt names the classes of the CAMs',
    )
    parser.data.add_argument(
        '--cam_dir', required=True, help='folder of CAMs <name>.npy (contrast_infer.py --out_cam)'
    )
    parser.output.add_argument('--json', help='file for the result as JSON')
    command_line.add_jobs_flag(parser, 'reading')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    keep_apart([('--json', args.json)], [('--list', args.list)])
    check_writable(args.json)
    names = read_list(args.list)
    fix = 'make the CAMs with contrast_infer.py --out_cam'
    check_files(args.cam_dir, names, '.npy', fix)
    need_stage(args.cam_dir, CAMS, '--cam_dir')
    count = functools.partial(count_picture, args.cam_dir, class_set(args.voc12_root))
    histogram = np.zeros(BINS, np.int64)
    results = pool_map(count, names, args.jobs)
    for counts in progress(results, total=len(names), desc='cam_threshold'):
        histogram += counts
    if not histogram.any():
        raise UserError(
            f'{args.cam_dir}: no picture of {args.list} has a CAM of any class; check their labels'
        )
    threshold = end_of_tail(histogram)
    print(
        f'{len(names)} images of {args.list}, CAMs {args.cam_dir}: background score '
        f'{threshold:.2f}, where the histogram of the scores has come down to its plateau'
    )
    if args.json:
        result = {
            'list': args.list,
            'images': len(names),
            'predict_dir': args.cam_dir,
            't': threshold,
            'curve_t': (np.arange(BINS) / BINS).tolist(),
            'histogram': histogram.tolist(),
            'relative_density': relative_density(histogram).tolist(),
        }
        write_text(args.json, json.dumps(result, indent=1) + '\n')


def count_picture(cam_dir: str, classes: ClassSet, name: str) -> np.ndarray:
    """The `winning_histogram` of one picture's CAM file."""
    return winning_histogram(read_cam(os.path.join(cam_dir, name + '.npy'), classes))


if __name__ == '__main__':
    command_line.run(main, parse_args)
