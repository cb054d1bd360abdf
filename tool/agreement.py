"""Agreement of masks with their own refinement by dense CRF: a score without ground truth.

    python -m tool.agreement --list data/lists/train_aug.txt --voc12_root data \\
        --predict_dir runs/cam --type npy --curve
    python -m tool.agreement --list data/lists/train_aug.txt --voc12_root data \\
        --predict_dir runs/walk

Reads  the pictures and <predict_dir>/<name>.png (masks), or with --type npy the CAMs
       <predict_dir>/<name>.npy. --curve tries 15 background scores, 0.02 … 0.58. Some pictures are
       enough, evenly spaced over the list (--pictures).
Writes the agreement to the terminal, and to --json where asked for.

Masks that follow the edges of a picture are changed less by a dense CRF than others. So the
agreement tells which background score of the CAMs, or which of several folders of masks, is good
where there is no ground truth. It compares masks of the same pictures and says nothing about how
good the best of them are. docs/results.md has what it costs against a choice by ground truth.
"""

import argparse
import functools
import json
import os
from dataclasses import dataclass

import numpy as np

from tool.files.atomic import write_text
from tool.files.lists import read_list, spaced
from tool.files.maps import read_cam
from tool.files.pictures import check_size, read_image, read_mask
from tool.method.agreement import AGREEMENT_THRESHOLDS, agreement, refinement_confusions
from tool.method.class_set import IGNORE, ClassSet
from tool.method.metrics import cam_prediction
from tool.run import command_line
from tool.run.pool import pool_map
from tool.run.progress import progress
from voc12.layout import check_files, check_images, class_set, image_path


@dataclass(frozen=True)
class Inputs:
    """The files that pictures are scored from, and the way they are read."""

    root: str
    predict_dir: str
    # 'png': masks, 'npy': CAMs
    kind: str
    # background scores of the CAMs; none for masks
    thresholds: tuple[float, ...]
    classes: ClassSet
    # one of tool.method.crf.BACKENDS
    crf_backend: str


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.data.add_argument('--list', required=True, help='list of pictures to choose from')
    parser.data.add_argument('--voc12_root', default='VOC2012', help="the devkit's VOC2012 folder")
    parser.data.add_argument('--predict_dir', required=True, help='folder of masks or CAMs')
    parser.data.add_argument(
        '--type',
        choices=('png', 'npy'),
        default='png',
        help='what --predict_dir holds: masks (png) or CAMs (npy)',
    )
    parser.data.add_argument(
        '--pictures',
        type=command_line.number(int, 1),
        default=100,
        help='number of pictures to look at, evenly spaced over the list',
    )
    parser.method.add_argument(
        '--t',
        type=command_line.number(float, 0, 1),
        help='background score of CAMs (--type npy), 0…1',
    )
    parser.method.add_argument(
        '--curve', action='store_true', help='try 15 background scores of CAMs (--type npy)'
    )
    parser.output.add_argument('--json', help='file for the result as JSON, in percent')
    command_line.add_crf_backend_flag(parser)
    command_line.add_jobs_flag(parser, 'the CRF')
    args = parser.parse_args()
    if args.type == 'png' and (args.curve or args.t is not None):
        parser.error('--curve and --t need --type npy: masks have no background score left to vary')
    if args.type == 'npy' and args.curve == (args.t is not None):
        parser.error('--type npy needs a background score: --t 0.26, or --curve for 15 of them')
    return args


def main(args: argparse.Namespace) -> None:
    names = spaced(read_list(args.list), args.pictures)
    check_images(args.voc12_root, names)
    check_files(args.predict_dir, names, f'.{args.type}', f'check --predict_dir and {args.list}')
    command_line.need_crf_backend(args.crf_backend)
    inputs = Inputs(
        args.voc12_root,
        args.predict_dir,
        args.type,
        thresholds_of(args),
        class_set(args.voc12_root),
        args.crf_backend,
    )
    count = functools.partial(count_picture, inputs)
    total: np.ndarray | int = 0
    for matrices in progress(pool_map(count, names, args.jobs), total=len(names), desc='agreement'):
        total = total + matrices
    values = agreement(np.asarray(total))
    result = {'list': args.list, 'images': len(names), 'predict_dir': args.predict_dir}
    result |= describe(values, inputs)
    if args.json:
        write_text(args.json, json.dumps(result, indent=1) + '\n')


def thresholds_of(args: argparse.Namespace) -> tuple[float, ...]:
    """The background scores that the command line asks for."""
    if args.curve:
        return tuple(AGREEMENT_THRESHOLDS.tolist())
    return () if args.t is None else (args.t,)


def count_picture(inputs: Inputs, name: str) -> np.ndarray:
    """The confusion matrices [masks, C, C + 1] of one picture, see `refinement_confusions`.

    Raises:
        UserError: a file is missing or damaged, or has another size than the picture.
    """
    image = np.asarray(read_image(image_path(inputs.root, name)))
    size = image.shape[:2]
    path = os.path.join(inputs.predict_dir, f'{name}.{inputs.kind}')
    if inputs.kind == 'npy':
        cam = read_cam(path, inputs.classes, size)
        masks = [cam_prediction(cam, size, threshold) for threshold in inputs.thresholds]
        present = [class_index + 1 for class_index in cam]
    else:
        mask = read_mask(path, inputs.classes)
        check_size(path, mask.shape, size)
        masks = [np.where(mask == IGNORE, 0, mask)]
        present = np.unique(masks[0]).tolist()
    return refinement_confusions(
        image, masks, present, inputs.classes.num_classes, inputs.crf_backend
    )


def describe(values: np.ndarray, inputs: Inputs) -> dict:
    """Print the agreement, and return its part of the JSON.

    Args:
        values: the agreement in percent at every background score, or of the masks, [any].
    """
    if len(inputs.thresholds) <= 1:
        print(f'{inputs.predict_dir}: agreement {values[0]:.3f}')
        return {'agreement': float(values[0])}
    for threshold, value in zip(inputs.thresholds, values):
        print(f'background score {threshold:.2f}  agreement {value:.3f}')
    best = int(values.argmax())
    print(f'best: background score {inputs.thresholds[best]:.2f}')
    return {
        'agreement': float(values[best]),
        't': inputs.thresholds[best],
        'curve_t': list(inputs.thresholds),
        'curve_agreement': values.tolist(),
    }


if __name__ == '__main__':
    command_line.run(main, parse_args)
