"""Stage 1, inference: seeds (CAMs) of a trained CAM network at several scales with mirror images.

The inference is described in docs/method.md §5, the dense CRF in §6.

    python contrast_infer.py --weights runs/seam.pth --infer_list voc12/train.txt \\
        --voc12_root VOC2012 --out_cam cam --out_cam_pred cam_png --out_crf cam_crf

Reads  the pictures of --infer_list and their image-level labels; with --cls_labels predicted the
       network itself gives the classes of a picture, and no label file is read.
Writes one or more of these. What is already there from the same weights and settings is skipped.
       <out_cam>/<name>.npy: the CAMs, {class 0…K−1: float32 [H, W]}
       <out_cam_pred>/<name>.png: masks; the background's score is --out_cam_pred_alpha
       <out_crf>/<name>.png: these masks after dense CRF
"""

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Subset

from network.baselines import BASELINES
from network.baselines.baseline import Baseline
from network.cam_inference import (
    CLASS_THRESHOLD,
    SCALES,
    load_cam_net,
    nearest_to_1,
    predicted_classes,
    seeds,
)
from tool.files.lists import labels_of, read_labels, read_list
from tool.files.manifest import fingerprint
from tool.files.picture_stage import CatchesProblems, Output, PictureStage
from tool.files.records import Inputs
from tool.files.stage_outputs import SeedOutputs, write_seed
from tool.method.class_set import ClassSet
from tool.method.metrics import class_agreement, class_table
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.groups import group_size, groups_of_equal_size
from tool.run.loader import load
from tool.run.shard import is_first, shard_index
from tool.train.precision import allow_tf32, amp_dtype, resolved
from voc12.data import MultiScaleSet, pick_labels
from voc12.layout import check_images, class_set, image_path, map_bytes, mask_bytes

# Flags of additions to the PCM. A baseline whose seeds the PCM does not make refuses them; for the
# others they are part of the manifest.
PCM_FLAGS = ('gate_pcm', 'fill_empty')

# The value of --cls_labels that stands for the network's own classes.
PREDICTED = 'predicted'

# Classes in a picture on the average, to estimate the disk that CAMs of predicted classes need: the
# 1,145 real pictures of docs/results.md have 1.4.
CLASSES_A_PICTURE = 1.4


@dataclass(frozen=True)
class PredictedLabels:
    """The network in place of a label file (docs/method.md §10.9)."""

    # a picture has the classes whose probability is at least this
    threshold: float

    def __str__(self) -> str:
        """The value of --cls_labels that means this."""
        return f'{PREDICTED}:{self.threshold}'


def label_source(text: str) -> str | PredictedLabels:
    """Argument type of --cls_labels: the path of a label file, or predicted[:threshold]."""
    word, colon, threshold = text.partition(':')
    if word != PREDICTED:
        return text
    if not colon:
        return PredictedLabels(CLASS_THRESHOLD)
    try:
        return PredictedLabels(command_line.number(float, 0, 1)(threshold))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f'{text}: the threshold {error}') from None


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    add_data_flags(parser)
    add_model_flags(parser)
    add_method_flags(parser)
    add_output_flags(parser)
    add_run_flags(parser)
    add_addition_flags(parser)
    return parser.parse_args()


def add_data_flags(parser: command_line.Parser) -> None:
    parser.data.add_argument('--infer_list', default='voc12/train.txt', help='list of the images')
    parser.data.add_argument('--voc12_root', default='VOC2012', help="the devkit's VOC2012 folder")
    parser.data.add_argument(
        '--cls_labels',
        type=label_source,
        default='voc12/cls_labels.npy',
        metavar='FILE|predicted[:THRESHOLD]',
        help='file of the image-level labels; or predicted, for pictures without labels: the '
        'network runs once more, at the scale nearest to 1, and gives a picture the classes whose '
        f'probability is at least THRESHOLD, by default {CLASS_THRESHOLD}. A file of that name is '
        './predicted',
    )
    parser.data.add_argument(
        '--known_labels',
        metavar='FILE',
        help='with --cls_labels predicted: file of image-level labels that the predicted classes '
        'of the pictures made in this run are compared with; a table of precision and recall is '
        'printed',
    )


def add_model_flags(parser: command_line.Parser) -> None:
    parser.model.add_argument(
        '--weights', required=True, help='checkpoint of contrast_train.py, or a published one'
    )
    parser.model.add_argument(
        '--baseline',
        choices=sorted(BASELINES),
        help='refuse a checkpoint of another baseline (default: the one of the checkpoint)',
    )
    parser.model.add_argument('--network', help="module of the network (default: the baseline's)")


def add_method_flags(parser: command_line.Parser) -> None:
    parser.method.add_argument(
        '--out_cam_pred_alpha',
        type=command_line.number(float, 0, 1),
        help="background score of the masks and of the CRF's labels (default: seam 0.26, eps 0.22)",
    )
    parser.method.add_argument(
        '--crf_iters',
        type=command_line.number(int, 1),
        default=10,
        help='mean-field iterations of the CRF',
    )
    parser.method.add_argument(
        '--scales',
        type=command_line.number(float, 0.1, 8),
        nargs='+',
        default=list(SCALES),
        help='factors on the image size; each scale is run with its mirror image',
    )


def add_output_flags(parser: command_line.Parser) -> None:
    parser.output.add_argument('--out_cam', help='output folder of the CAMs (.npy)')
    parser.output.add_argument('--out_cam_pred', help='output folder of the CAM masks (.png)')
    parser.output.add_argument(
        '--out_crf', help='output folder of the masks after dense CRF (.png)'
    )
    parser.output.add_argument(
        '--overwrite',
        action='store_true',
        help='replace the output of other weights or settings',
    )


def add_run_flags(parser: command_line.Parser) -> None:
    command_line.add_crf_backend_flag(parser)
    command_line.add_workers_flag(parser)
    command_line.add_group_flag(parser)
    command_line.add_amp_flag(parser)
    command_line.add_on_error_flag(parser)
    command_line.add_dry_run_flag(parser)
    command_line.add_device_flag(parser)
    command_line.add_jobs_flag(parser, 'writing and the CRF')


def add_addition_flags(parser: command_line.Parser) -> None:
    """The flags of docs/method.md §10 that only this stage has."""
    parser.additions.add_argument(
        '--gate_pcm',
        action='store_true',
        help="SEAM: only the classes of a picture's image label take part in the PCM (pixel "
        'correlation module)',
    )
    parser.additions.add_argument(
        '--fill_empty',
        action='store_true',
        help='SEAM: infer a class of the image label again if its seed would be 0 everywhere, from '
        'its class map raised until the least value is 0',
    )


def main(args: argparse.Namespace) -> None:
    if not (args.out_cam or args.out_cam_pred or args.out_crf):
        raise UserError('nothing to write: give --out_cam, --out_cam_pred or --out_crf')
    predicts = isinstance(args.cls_labels, PredictedLabels)
    if args.known_labels and not predicts:
        raise UserError(
            f'--known_labels {args.known_labels}: is compared with predicted classes; add '
            '--cls_labels predicted, or leave it out'
        )
    device = command_line.pick_device(args.device)
    args.amp = resolved(args.amp, device)
    dtype = amp_dtype(args.amp, device)
    allow_tf32(args.tf32 == 'on')
    classes = class_set(args.voc12_root)
    names, labels = read_inputs(args, classes)
    known = read_known_labels(args, classes, names)
    stage = PictureStage('infer', names, args.overwrite, args.on_error, args.dry_run)
    net, baseline, why, _ = load_cam_net(
        args.weights,
        device,
        dtype,
        classes=classes,
        network=args.network,
        baseline_name=args.baseline,
        channels_last=args.channels_last,
    )
    check_pcm_flags(args, baseline)
    outputs = seed_outputs(args, baseline, classes)
    crf_backend = args.crf_backend if args.out_crf else None
    made_of = inputs_of(args, names, labels)
    stage.claim(wanted_outputs(args, outputs, made_of), made_of, crf_backend)
    if is_first():
        complete = len(stage.names) - len(stage.todo)
        print(
            f'{baseline.name} baseline ({why}), {net.description}, {device}; {len(stage.names)} of '
            f'{len(names)} images here, {complete} already complete',
            flush=True,
        )

    pictures = MultiScaleSet(args.voc12_root, names, labels, args.scales)
    todo = [index for index, name in enumerate(names) if name in stage.todo]
    loading = load(
        CatchesProblems(Subset(pictures, todo), list(stage.todo)),
        range(len(todo)),
        args.num_workers,
        pin_memory=device.type == 'cuda',
    )
    count = group_size(args.batch_size, device)
    predicted: dict[str, list[int]] = {}
    with stage.writers(args.jobs) as submit, loading as items:
        for group in groups_of_equal_size(stage.usable(items), count):
            if predicts:
                at_scale_1 = [item['pictures'][nearest_to_1(args.scales)] for item in group]
                threshold = args.cls_labels.threshold
                seen = predicted_classes(net, baseline, at_scale_1, device, threshold, dtype)
                for item, class_ids in zip(group, seen):
                    item['classes'] = class_ids
                    predicted[item['name']] = class_ids
            cams = seeds(net, baseline, group, device, dtype, args.gate_pcm, args.fill_empty)
            for item, cam in zip(group, cams):
                path = image_path(args.voc12_root, item['name'])
                submit(item['name'], write_seed, item['name'], cam, item['size'], path, outputs)
    if args.known_labels and is_first():
        print_agreement(args, stage, predicted, known, classes)
    stage.report(f' ({args.infer_list})')


def read_inputs(args: argparse.Namespace, classes: ClassSet) -> tuple[list[str], np.ndarray | None]:
    """Read the lists, and check that every image is there.

    Returns:
        The names of the images, and their labels, [N, K]; None in place of labels that the network
        predicts.
    """
    names = read_list(args.infer_list)
    labels = None
    if not isinstance(args.cls_labels, PredictedLabels):
        labels = pick_labels(read_labels(args.cls_labels, classes), names, args.cls_labels)
    check_images(args.voc12_root, names)
    return names, labels


def inputs_of(
    args: argparse.Namespace, names: list[str], labels: np.ndarray | None
) -> Callable[[str], Inputs]:
    """A function that says what the files of a picture are made from.

    Args:
        args: the command line.
        names: names of the pictures.
        labels: their labels, [N, K]; None where the network predicts them.
    """
    classes_of: dict[str, list[int] | None] = dict.fromkeys(names)
    if labels is not None:
        for name, label in zip(names, labels):
            classes_of[name] = np.flatnonzero(label).tolist()

    def inputs(name: str) -> Inputs:
        return Inputs((image_path(args.voc12_root, name),), classes_of[name])

    return inputs


def read_known_labels(
    args: argparse.Namespace, classes: ClassSet, names: list[str]
) -> dict[str, np.ndarray]:
    """The labels of --known_labels, {name: float32 [K]}, for those of the images that have one.

    Raises:
        UserError: the file cannot be read, or none of the images has a label in it.
    """
    if not args.known_labels:
        return {}
    labels = labels_of(read_labels(args.known_labels, classes), names)
    known = {name: label for name, label in zip(names, labels) if label is not None}
    if not known:
        raise UserError(
            f'{args.known_labels}: no label for any image of {args.infer_list}; give '
            '--known_labels the file that has them, or leave it out'
        )
    return known


def check_pcm_flags(args: argparse.Namespace, baseline: Baseline) -> None:
    """Raise UserError for an addition to the PCM where the PCM does not make the seeds."""
    if baseline.pcm_seeds:
        return
    for flag in PCM_FLAGS:
        if getattr(args, flag):
            raise UserError(
                f'--{flag}: the seeds of the {baseline.name} baseline are not made by the PCM; '
                'leave the flag out'
            )


def seed_outputs(args: argparse.Namespace, baseline: Baseline, classes: ClassSet) -> SeedOutputs:
    """The files that the command line asks for of each picture."""
    if args.out_cam_pred_alpha is None:
        threshold = baseline.png_threshold
    else:
        threshold = args.out_cam_pred_alpha
    return SeedOutputs(
        args.out_cam,
        args.out_cam_pred,
        args.out_crf,
        threshold,
        args.crf_iters,
        args.crf_backend,
        classes.num_classes,
    )


def wanted_outputs(
    args: argparse.Namespace, outputs: SeedOutputs, made_of: Callable[[str], Inputs]
) -> list[Output]:
    """The output folders that are asked for, with the settings that decide their files.

    Args:
        args: the command line.
        outputs: the folders.
        made_of: what the files of a picture are made from, see `inputs_of`.
    """
    settings = {
        'stage': 'contrast_infer',
        'weights': fingerprint(args.weights),
        'scales': args.scales,
    }
    settings.update(command_line.precision_settings(args))
    if isinstance(args.cls_labels, PredictedLabels):
        settings['cls_labels'] = str(args.cls_labels)
    for flag in PCM_FLAGS:
        if getattr(args, flag):
            settings[flag] = True

    def cam_bytes(name: str) -> int:
        classes = made_of(name).facts
        maps = CLASSES_A_PICTURE if classes is None else len(classes)
        return map_bytes(args.voc12_root, name, maps)

    return outputs.wanted(
        settings,
        {**settings, 'alpha': outputs.threshold},
        cam_bytes,
        functools.partial(mask_bytes, args.voc12_root),
    )


def print_agreement(
    args: argparse.Namespace,
    stage: PictureStage,
    predicted: dict[str, list[int]],
    known: dict[str, np.ndarray],
    classes: ClassSet,
) -> None:
    """Print precision and recall of the classes that this process has predicted.

    Args:
        args: the command line.
        stage: the stage, at its end.
        predicted: the predicted classes 0…K−1 of each picture made, {name: classes}.
        known: the known labels, {name: float32 [K]}, which may lack pictures.
        classes: those of the data.
    """
    compared = [name for name in predicted if name in known]
    _, processes = shard_index()
    share = f', by the first of {processes} processes' if processes > 1 else ''
    complete = len(stage.names) - len(stage.todo)
    unknown = len(predicted) - len(compared)
    print(
        f'classes ({args.cls_labels}) against {args.known_labels}, over {len(compared)} pictures '
        f'made in this run{share}; not among them: {complete} already complete, {unknown} without '
        'a known label'
    )
    if not compared:
        return
    is_predicted = np.zeros((len(compared), classes.num_foreground), bool)
    is_known = np.zeros_like(is_predicted)
    for row, name in enumerate(compared):
        is_predicted[row, predicted[name]] = True
        is_known[row] = known[name] > 0
    print(class_table(class_agreement(is_predicted, is_known), classes.foreground))


if __name__ == '__main__':
    command_line.run(main, parse_args)
