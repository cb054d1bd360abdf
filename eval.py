"""mIoU of any stage's output against ground-truth masks.

    python eval.py --list voc12/train.txt --predict_dir cam_crf --gt_dir VOC2012/SegmentationClass
    python eval.py --list voc12/train.txt --predict_dir cam --gt_dir VOC2012/SegmentationClass \\
        --type npy --curve

Reads  <predict_dir>/<name>.png (class ids), or with --type npy CAM dicts that are set against the
       background score --t; --curve scores 60 background scores 0.00 … 0.59 in one pass over the
       files. The classes are those of the classes.txt beside --gt_dir, without one VOC's.
Writes per-class IoU and mIoU to the terminal, and on request to --logfile (appended), --json and
       --plot. Seeds and pseudo masks are scored on `train` (1,464 pictures in VOC 2012), not on
`train_aug`.
"""

import argparse
import datetime
import functools
import json
import os

import numpy as np

from tool.files.atomic import atomic, write_text
from tool.files.class_sets import read_classes
from tool.files.lists import read_list
from tool.files.maps import read_cam
from tool.files.pictures import check_size, read_mask
from tool.method.class_set import ClassSet
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
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.pool import pool_map
from tool.run.progress import progress
from tool.run.shard import is_first, own_share, shard_index
from voc12.layout import check_files, class_set_beside

CHUNK = 8  # pictures a pool call
OCCURRING = 'occurring'  # a value of --classes
RESULTS = (  # what --json holds besides the IoU of each class
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


def parse_args():
    parser = command_line.Parser(__doc__)
    parser.data.add_argument('--list', required=True, help='images to score')
    parser.data.add_argument('--predict_dir', required=True, help='folder of predictions')
    parser.data.add_argument(
        '--gt_dir',
        required=True,
        help='folder of ground-truth masks, e.g. VOC2012/SegmentationClass',
    )
    parser.data.add_argument(
        '--type', choices=('png', 'npy'), default='png', help='masks (png) or CAM dicts (npy)'
    )
    parser.method.add_argument(
        '--t', type=command_line.number(float, 0, 1), help='background score for --type npy'
    )
    parser.method.add_argument(
        '--curve',
        type=command_line.boolean,
        nargs='?',
        const=True,
        default=False,
        help='score all 60 background scores (--type npy); --curve, --curve True and --curve False '
        'work',
    )
    parser.method.add_argument(
        '--classes',
        nargs='+',
        metavar='CLASS',
        help='classes the mean is over, or "occurring": those with more than 1,000 ground-truth '
        'pixels (default: all, the background too)',
    )
    parser.data.add_argument(
        '--classes_txt',
        metavar='FILE',
        help='foreground classes, one a line (default: the classes.txt of the folder that --gt_dir '
        "lies in; where there is none, VOC's)",
    )
    parser.output.add_argument('--comment', help='a remark for the log')
    parser.output.add_argument('--logfile', help='text file the result is appended to')
    parser.output.add_argument('--json', help='file for the result as JSON, IoU in percent')
    parser.output.add_argument('--plot', help='picture (.png, .pdf) of the curve')
    command_line.add_jobs_flag(parser, 'reading and counting')
    args = parser.parse_args()
    if args.curve and args.type != 'npy':
        parser.error('--curve needs --type npy: masks have no threshold left to vary')
    if args.plot and not args.curve:
        parser.error('--plot draws the curve: give --curve too')
    if args.type == 'npy' and args.t is None and not args.curve:
        parser.error('--type npy needs a background score: --t 0.26, or --curve for all of them')
    return args


def main(args):
    names, class_set = read_list(args.list), scored_classes(args)
    check_files(args.predict_dir, names, '.' + args.type, f'check --predict_dir and {args.list}')
    check_files(args.gt_dir, names, '.png', f'check --gt_dir and {args.list}')
    total = count_all(args, own_share(names), class_set)
    if not is_first():
        return

    result = {
        'list': args.list,
        'images': len(names),
        'gt_dir': args.gt_dir,
        'predict_dir': args.predict_dir,
    }
    if args.comment:
        result['comment'] = args.comment
    text = [
        f'{len(names)} images of {args.list}, predictions {args.predict_dir}, ground truth '
        f'{args.gt_dir}'
    ]
    confusions = curve_confusions(total) if args.curve else total[None]
    pixels = dict(zip(class_set.names, confusions[0].sum(1).tolist()))
    classes = args.classes or list(class_set.names)
    if args.classes == [OCCURRING]:
        classes = occurring(pixels)
    if not classes:
        raise UserError(
            f'{args.gt_dir}: no class has more than 1,000 ground-truth pixels; leave --classes out'
        )
    if args.classes:
        result['classes'] = classes
        text[0] += f', mean over {len(classes)} classes: {", ".join(classes)}'
    if args.curve:
        averaged = [class_set.names.index(name) for name in classes]
        curve = iou(confusions)[:, averaged].mean(1)
        best = int(curve.argmax())
        text += [
            f'background score {t:.2f}  mIoU {value:.3f}' for t, value in zip(THRESHOLDS, curve)
        ]
        text += [f'best: background score {THRESHOLDS[best]:.2f}']
        result |= {
            't': float(THRESHOLDS[best]),
            'curve_t': THRESHOLDS.tolist(),
            'curve_mIoU': curve.tolist(),
        }
        confusions = confusions[best:]
    elif args.type == 'npy':
        text[0] += f', background score {args.t}'
        result['t'] = args.t
    found = scores(confusions[0], class_set.names, classes)
    result |= found | {'pixels': pixels}
    text.append(table(found))
    write_results(args, result, '\n'.join(text))


def scored_classes(args: argparse.Namespace) -> ClassSet:
    """The class set of the masks.

    Raises:
        UserError: --classes has names that it does not have, or one of its classes is called like
            something else that --json holds.
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
    if taken := sorted({*RESULTS, OCCURRING} & set(classes.names)):
        raise UserError(
            f'the class {taken[0]} has a name that stands for something else in the result; '
            'give it another name in classes.txt'
        )
    return classes


def count_all(args: argparse.Namespace, names: list[str], classes: ClassSet) -> np.ndarray:
    """Summed counts of the pictures; under torchrun `names` are this process's and the sum is over
    all processes."""
    chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
    count = functools.partial(
        count_chunk, args.predict_dir, args.gt_dir, args.type, args.t, args.curve, classes
    )
    size = classes.num_classes
    shape = (size, size, len(THRESHOLDS) + 1) if args.curve else (size, size + 1)
    total = np.zeros(shape, np.int64)
    with progress(total=len(names), desc='eval', quiet=not is_first()) as bar:
        for part, pictures in pool_map(count, chunks, args.jobs if len(chunks) > 1 else 0):
            total += part
            bar.update(pictures)
    if shard_index()[1] > 1:
        import torch  # only several processes need it

        from tool.train import processes

        processes.start('cpu')
        total = processes.total(torch.from_numpy(total)).numpy()
        processes.stop()
    return total


def count_chunk(
    predict_dir: str,
    gt_dir: str,
    kind: str,
    threshold: float,
    curve: bool,
    classes: ClassSet,
    names: list[str],
) -> tuple[np.ndarray, int]:
    """(summed counts, number of pictures): confusion matrix [C, C + 1], or the curve's joint
    histogram."""
    total, num_classes = 0, classes.num_classes
    for name in names:
        truth_path = os.path.join(gt_dir, name + '.png')
        truth, path = read_mask(truth_path, classes), os.path.join(predict_dir, f'{name}.{kind}')
        if kind == 'npy':
            cam = read_cam(path, classes, truth.shape)
            total = total + (
                curve_histogram(cam, truth, num_classes)
                if curve
                else confusion(cam_prediction(cam, truth.shape, threshold), truth, num_classes)
            )
        else:
            prediction = read_mask(path, classes)
            check_size(
                path,
                prediction.shape,
                truth.shape,
                of=f'its ground truth {truth_path}',
                fix='make the prediction at the size of the picture',
            )
            total = total + confusion(prediction, truth, num_classes)
    return total, len(names)


def write_results(args, result: dict, text: str) -> None:
    """The result to the terminal and to the files asked for."""
    print(text)
    if args.logfile:
        os.makedirs(os.path.dirname(os.path.abspath(args.logfile)), exist_ok=True)
        with open(args.logfile, 'a', encoding='utf-8') as file:
            file.write(
                f'{datetime.datetime.now():%Y-%m-%d %H:%M:%S}  {args.comment or ""}\n{text}\n\n'
            )
    if args.json:
        write_text(args.json, json.dumps(result, indent=1) + '\n')
    if args.plot:
        draw_curve(args.plot, result)


def draw_curve(path: str, result: dict) -> None:
    """mIoU against the background score, the best one marked."""
    from matplotlib.figure import Figure  # takes a second to import, seldom needed

    axes = (figure := Figure(figsize=(6, 4), layout='constrained')).subplots()
    axes.plot(result['curve_t'], result['curve_mIoU'])
    axes.plot(
        result['t'], result['mIoU'], 'o', label=f'best: {result["mIoU"]:.2f} at {result["t"]:.2f}'
    )
    axes.set(
        xlabel='background score',
        ylabel='mIoU (%)',
        title=f'{result["images"]} images of {result["list"]}',
    )
    axes.legend()
    kind = os.path.splitext(path)[1][1:] or 'png'
    with atomic(path) as temporary:
        try:
            figure.savefig(temporary, format=kind, dpi=150)
        except ValueError as error:
            raise UserError(f'{path}: {error}') from None


if __name__ == '__main__':
    command_line.run(main, parse_args)
