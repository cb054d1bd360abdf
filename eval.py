"""mIoU of any stage's output against ground-truth masks.

    python eval.py --list voc12/train.txt --predict_dir cam_crf --gt_dir VOC2012/SegmentationClass
    python eval.py --list voc12/train.txt --predict_dir cam --gt_dir VOC2012/SegmentationClass \\
        --type npy --curve

Reads  <predict_dir>/<name>.png (class ids), or with --type npy the CAMs <predict_dir>/<name>.npy. A
       pixel of a CAM belongs to the background where no class scores more than the background
       score --t. --curve scores the 60 background scores 0.00 … 0.59 in one pass over the files.
       The classes are those of the classes.txt of the folder that --gt_dir lies in, or VOC's where
       there is none. Where this folder has a masks.json, the result names the rule of the masks.
Writes the IoU of every class and the mIoU to the terminal, and where asked for to --logfile
       (appended), --json and --plot.

Seeds and pseudo masks are scored on `train` (1,464 pictures in VOC 2012), not on `train_aug`.
"""

import argparse
import datetime
import functools
import io
import json
import os
from dataclasses import dataclass

import numpy as np

from tool.files.atomic import cannot_be_written, check_writable, write_bytes, write_text
from tool.files.class_sets import read_classes
from tool.files.lists import read_list
from tool.files.manifest import read_manifest
from tool.files.maps import read_cam
from tool.files.pictures import check_size, read_mask
from tool.files.places import keep_apart
from tool.files.shown_classes import need_a_class
from tool.files.stage_of_input import CAMS, MASKS, PREDICTING, describe, need_stage
from tool.method.class_set import MASK_COLOURS, ClassSet
from tool.method.metrics import (
    THRESHOLDS,
    cam_prediction,
    confusion,
    curve_confusions,
    curve_histogram,
    iou,
    occurring,
    scores,
    table,
)
from tool.run import command_line, interrupts
from tool.run.errors import UserError
from tool.run.pool import pool_map
from tool.run.progress import progress
from tool.run.shard import is_first, own_share, shard_index
from voc12.layout import check_files, class_set_beside, mask_rule_beside

CHUNK = 8  # pictures that a process of the pool counts in one call
OCCURRING = 'occurring'  # a value of --classes
# keys of the result that --json writes, besides the IoU of each class
RESULT_KEYS = (
    'list',
    'images',
    'gt_dir',
    'predict_dir',
    'comment',
    'classes',
    't',
    'curve_t',
    'curve_mIoU',
    'pixels',
    'mIoU',
)


@dataclass(frozen=True)
class Inputs:
    """The files that pictures are scored from, and the way they are read."""

    predict_dir: str
    gt_dir: str
    # 'png': masks, 'npy': CAMs
    kind: str
    # background score of the CAMs; None for masks and for the curve
    threshold: float | None
    # score the CAMs at all background scores
    curve: bool
    classes: ClassSet
    # one of MASK_COLOURS, how masks are read
    mask_colours: str = MASK_COLOURS[0]


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.data.add_argument('--list', required=True, help='list of pictures to score')
    parser.data.add_argument('--predict_dir', required=True, help='folder of predictions')
    parser.data.add_argument(
        '--gt_dir',
        required=True,
        help='folder of ground-truth masks, e.g. VOC2012/SegmentationClass',
    )
    parser.data.add_argument(
        '--type',
        choices=('png', 'npy'),
        default='png',
        help='what --predict_dir holds: masks (png) or CAMs (npy)',
    )
    command_line.add_mask_colours_flag(parser)
    parser.method.add_argument(
        '--t',
        type=command_line.number(float, 0, 1),
        help='background score of CAMs (--type npy), 0…1',
    )
    parser.method.add_argument(
        '--curve',
        type=command_line.boolean,
        nargs='?',
        const=True,
        default=False,
        help='score CAMs (--type npy) at all 60 background scores; also --curve True or False',
    )
    parser.method.add_argument(
        '--classes',
        nargs='+',
        metavar='CLASS',
        help='classes to take the mean over, or "occurring" for those with more than 1,000 '
        'ground-truth pixels (default: all classes, the background too)',
    )
    parser.data.add_argument(
        '--classes_txt',
        metavar='FILE',
        help='file with the foreground classes, one a line (default: the classes.txt of the folder '
        "that --gt_dir lies in; where there is none, VOC's classes)",
    )
    parser.output.add_argument('--comment', help='a remark for the log')
    parser.output.add_argument('--logfile', help='text file to append the result to')
    parser.output.add_argument('--json', help='file for the result as JSON, with IoU in percent')
    parser.output.add_argument('--plot', help='file (.png, .pdf) for a plot of the curve')
    command_line.add_jobs_flag(parser, 'reading and counting')
    args = parser.parse_args()
    if args.curve and args.type != 'npy':
        parser.error('--curve needs --type npy: masks have no threshold left to vary')
    if args.plot and not args.curve:
        parser.error('--plot draws the curve: give --curve too')
    if args.type == 'npy' and args.t is None and not args.curve:
        parser.error('--type npy needs a background score: --t 0.26, or --curve for all of them')
    return args


def main(args: argparse.Namespace) -> None:
    keep_apart(
        [('--logfile', args.logfile), ('--json', args.json), ('--plot', args.plot)],
        [
            ('--list', args.list),
            ('--classes_txt', args.classes_txt),
            ('--predict_dir', args.predict_dir),
            ('--gt_dir', args.gt_dir),
        ],
    )
    for path in (args.logfile, args.json, args.plot):
        check_writable(path)
    names = read_list(args.list)
    classes = scored_classes(args)
    check_files(args.predict_dir, names, '.' + args.type, f'check --predict_dir and {args.list}')
    check_files(args.gt_dir, names, '.png', f'check --gt_dir and {args.list}')
    need_stage(args.predict_dir, CAMS if args.type == 'npy' else MASKS, '--predict_dir')
    note_predicted_truth(args.gt_dir)
    truths = [os.path.join(args.gt_dir, name + '.png') for name in names]
    need_a_class(truths, classes, f'--gt_dir {args.gt_dir}', args.mask_colours)
    inputs = Inputs(
        args.predict_dir, args.gt_dir, args.type, args.t, args.curve, classes, args.mask_colours
    )
    total = count_all(inputs, own_share(names), args.jobs)
    if not is_first():
        return
    result, text = summary(args, len(names), classes, total)
    write_results(args, result, text)


def note_predicted_truth(gt_dir: str) -> None:
    """Print a line where the ground truth is the output of a stage, as where flags are swapped."""
    settings = read_manifest(gt_dir) or {}
    if settings.get('stage') in PREDICTING and is_first():
        print(f'--gt_dir {gt_dir} is no ground truth: it holds the output of {describe(settings)}')


def scored_classes(args: argparse.Namespace) -> ClassSet:
    """The class set of the masks.

    Raises:
        UserError: --classes names an unknown class, or the class set has a class whose name means
            something else in the result.
    """
    if args.classes_txt:
        classes = read_classes(args.classes_txt)
    else:
        classes = class_set_beside(args.gt_dir)
    asked = args.classes or []
    unknown = [name for name in asked if name not in (*classes.names, OCCURRING)]
    if unknown or (OCCURRING in asked and len(asked) > 1):
        raise UserError(
            f'--classes {" ".join(asked)}: give "{OCCURRING}" alone, or any of '
            f'{", ".join(classes.names)}'
        )
    taken = sorted({*RESULT_KEYS, OCCURRING} & set(classes.names))
    if taken:
        raise UserError(
            f'the class {taken[0]} has a name that stands for something else in the result; '
            'give it another name in classes.txt'
        )
    return classes


def count_all(inputs: Inputs, names: list[str], jobs: int) -> np.ndarray:
    """Counts of `count_picture`, summed over the pictures of all processes.

    Args:
        names: the pictures of this process.
        jobs: worker processes of this process.
    """
    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
    num_classes = inputs.classes.num_classes
    if inputs.curve:
        total = np.zeros((num_classes, num_classes, len(THRESHOLDS) + 1), np.int64)
    else:
        total = np.zeros((num_classes, num_classes + 1), np.int64)
    count = functools.partial(count_chunk, inputs)
    if len(chunks) <= 1:
        jobs = 0
    with progress(total=len(names), desc='eval', quiet=not is_first()) as bar:
        for part, pictures in pool_map(count, chunks, jobs):
            total += part
            bar.update(pictures)
    if shard_index()[1] > 1:
        return sum_over_processes(total)
    return total


def sum_over_processes(total: np.ndarray) -> np.ndarray:
    """The sum of an array over all processes of torchrun."""
    # imported here, because a single process does not need torch
    import torch

    from tool.train import processes

    processes.start('cpu')
    with interrupts.at_once():
        total = processes.total(torch.from_numpy(total)).numpy()
    processes.stop()
    return total


def count_chunk(inputs: Inputs, names: list[str]) -> tuple[np.ndarray, int]:
    """(counts of `count_picture` summed over pictures, number of pictures)."""
    total = count_picture(inputs, names[0])
    for name in names[1:]:
        total = total + count_picture(inputs, name)
    return total, len(names)


def count_picture(inputs: Inputs, name: str) -> np.ndarray:
    """Pixel counts of one picture.

    Returns:
        The confusion matrix [C, C + 1] of `confusion`, or for the curve the joint histogram
        [C, C, thresholds + 1] of `curve_histogram`.
    Raises:
        UserError: a file is missing or damaged, or has another size than the ground truth.
    """
    num_classes = inputs.classes.num_classes
    truth_path = os.path.join(inputs.gt_dir, name + '.png')
    truth = read_mask(truth_path, inputs.classes, inputs.mask_colours)
    path = os.path.join(inputs.predict_dir, f'{name}.{inputs.kind}')
    check_truth = functools.partial(
        check_size,
        path,
        expected=truth.shape,
        of=f'its ground truth {truth_path}',
        fix='make the prediction at the size of the picture',
    )
    if inputs.kind == 'npy':
        cam = read_cam(path, inputs.classes)
        for class_map in cam.values():
            check_truth(class_map.shape, what='maps are')
        if inputs.curve:
            return curve_histogram(cam, truth, num_classes)
        prediction = cam_prediction(cam, truth.shape, inputs.threshold)
        return confusion(prediction, truth, num_classes)
    prediction = read_mask(path, inputs.classes, inputs.mask_colours)
    check_truth(prediction.shape)
    return confusion(prediction, truth, num_classes)


def summary(
    args: argparse.Namespace, images: int, classes: ClassSet, total: np.ndarray
) -> tuple[dict, str]:
    """The result of all pictures.

    Args:
        images: how many pictures were scored.
        total: the counts of `count_all`.
    Returns:
        The result for --json, and the text for the terminal.
    """
    confusions = curve_confusions(total) if args.curve else total[None]
    # the ground truth, and so the sum of a row, is the same at every background score
    pixels = dict(zip(classes.names, confusions[0].sum(1).tolist()))
    averaged = averaged_classes(args, classes, pixels)
    result = describe_inputs(args, images, averaged)
    lines = [headline(args, images, averaged)]
    rule = mask_rule_beside(args.gt_dir)
    if rule:
        lines.append(f'ground truth {rule}')
    best = 0
    if args.curve:
        indices = [classes.names.index(name) for name in averaged]
        curve = iou(confusions)[:, indices].mean(1)
        best = int(curve.argmax())
        result |= {
            't': float(THRESHOLDS[best]),
            'curve_t': THRESHOLDS.tolist(),
            'curve_mIoU': curve.tolist(),
        }
        for threshold, value in zip(THRESHOLDS, curve):
            lines.append(f'background score {threshold:.2f}  mIoU {value:.3f}')
        lines.append(f'best: background score {THRESHOLDS[best]:.2f}')
    elif args.type == 'npy':
        result['t'] = args.t
    found = scores(confusions[best], classes.names, averaged)
    result |= found
    result['pixels'] = pixels
    lines.append(table(found))
    return result, '\n'.join(lines)


def averaged_classes(
    args: argparse.Namespace, classes: ClassSet, pixels: dict[str, int]
) -> list[str]:
    """Names of the classes that the mIoU is the mean over.

    Args:
        pixels: {class: its ground-truth pixels in all pictures}.
    Raises:
        UserError: "occurring" was asked for, but no class has enough pixels.
    """
    if not args.classes:
        return list(classes.names)
    if args.classes != [OCCURRING]:
        return args.classes
    averaged = occurring(pixels)
    if not averaged:
        raise UserError(
            f'{args.gt_dir}: no class has more than 1,000 ground-truth pixels; leave --classes out'
        )
    return averaged


def describe_inputs(args: argparse.Namespace, images: int, averaged: list[str]) -> dict:
    """The first entries of the result: what was scored, and over which classes the mean is."""
    result = {
        'list': args.list,
        'images': images,
        'gt_dir': args.gt_dir,
        'predict_dir': args.predict_dir,
    }
    if args.comment:
        result['comment'] = args.comment
    if args.classes:
        result['classes'] = averaged
    return result


def headline(args: argparse.Namespace, images: int, averaged: list[str]) -> str:
    """The first line of the text: what was scored."""
    text = (
        f'{images} images of {args.list}, predictions {args.predict_dir}, '
        f'ground truth {args.gt_dir}'
    )
    if args.classes:
        text += f', mean over {len(averaged)} classes: {", ".join(averaged)}'
    if args.type == 'npy' and not args.curve:
        text += f', background score {args.t}'
    return text


def write_results(args: argparse.Namespace, result: dict, text: str) -> None:
    """Write the result to the terminal and to the files that were asked for."""
    print(text)
    if args.logfile:
        append_to_log(args.logfile, args.comment or '', text)
    if args.json:
        write_text(args.json, json.dumps(result, indent=1) + '\n')
    if args.plot:
        draw_curve(args.plot, result)


def append_to_log(path: str, comment: str, text: str) -> None:
    """Append the time, a comment and the text of a result to a log file."""
    time = f'{datetime.datetime.now():%Y-%m-%d %H:%M:%S}'
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(path, 'a', encoding='utf-8') as file:
            file.write(f'{time}  {comment}\n{text}\n\n')
    except OSError as error:
        raise cannot_be_written(path, error) from None


def draw_curve(path: str, result: dict) -> None:
    """Plot the mIoU against the background score and mark the best one."""
    # imported here, because it takes a second and few runs plot
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout='constrained')
    axes = figure.subplots()
    axes.plot(result['curve_t'], result['curve_mIoU'])
    best = f'best: {result["mIoU"]:.2f} at {result["t"]:.2f}'
    axes.plot(result['t'], result['mIoU'], 'o', label=best)
    axes.set(
        xlabel='background score',
        ylabel='mIoU (%)',
        title=f'{result["images"]} images of {result["list"]}',
    )
    axes.legend()
    kind = os.path.splitext(path)[1][1:] or 'png'
    # drawn in memory, because the writer of PNGs does not tell when a disk is full
    drawing = io.BytesIO()
    try:
        figure.savefig(drawing, format=kind, dpi=150)
    except ValueError as error:
        raise UserError(f'{path}: {error}') from None
    write_bytes(path, drawing.getvalue())


if __name__ == '__main__':
    command_line.run(main, parse_args)
