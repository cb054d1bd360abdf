"""Masks of any pictures from a trained network: no list, no labels, no data folder.

    python -m tool.predict photos 'one more.jpg' --weights runs/own/deeplab/deeplab.pth \\
        --out masks --overlay --crf
    python -m tool.predict photos --weights runs/seam.pth --classes cat dog --out masks

Reads  pictures, and all pictures below folders, in all their folders. A picture is turned by its
       EXIF orientation, as everywhere.
Writes <out>/<name>.png, a palette PNG whose values are the ids of the checkpoint's classes; with
       --overlay also <out>/overlay/<name>.png, the picture with the mask half transparent over it
       and the names of the classes below, and, of a checkpoint of stage 1, <out>/heat/<name>.png,
       the heat map of the strongest class. <name> is the picture's file without its ending.

--weights is a checkpoint of DeepLab (segmentation/experiment) or of stage 1 (contrast_train.py).
DeepLab's says what network it is of; to one from before it did, --config says so. Of stage 1 the
masks are the seeds: those of --classes, or of the classes that the network itself sees.

What is there from the same weights and settings is skipped. A picture that cannot be read or
predicted is left out and named at the end, and the exit code is 1.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from PIL import Image

from tool.files.manifest import fingerprint
from tool.files.picture_files import named_pictures
from tool.files.picture_stage import CatchesProblems, Output, PictureStage
from tool.files.pictures import read_image
from tool.files.prediction_outputs import MaskOutputs
from tool.files.records import Inputs
from tool.method.class_set import ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.groups import group_size, groups_of_equal_size
from tool.run.loader import load
from tool.run.shard import is_first

# Folders in --out for what --overlay asks for.
OVERLAYS = 'overlay'
HEAT_MAPS = 'heat'

# What resizing raises: OpenCV where a scale leaves no pixel, all where the memory is too small.
_CANNOT_BE_SCALED = (cv2.error, ValueError, RuntimeError, MemoryError)


class Predictor(Protocol):
    """The interface that the two kinds of networks have in common here.

    They are `network.cam_inference.CamPredictor` and `utils.predictor.SegmentationPredictor` of the
    segmentation, which describe the attributes.
    """

    classes: ClassSet
    background_score: float | None
    description: str
    settings: dict
    make_views: Callable[[Image.Image], list]
    write: Callable[..., None]
    device: Any

    def predict(self, views: list[list], size: tuple[int, int]) -> list: ...


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    add_data_flags(parser)
    add_model_flags(parser)
    add_method_flags(parser)
    add_output_flags(parser)
    add_run_flags(parser)
    return parser.parse_args()


def add_data_flags(parser: command_line.Parser) -> None:
    parser.data.add_argument(
        'pictures',
        nargs='+',
        metavar='PICTURE|DIR',
        help='pictures, and folders of them, with all folders below; give them first',
    )


def add_model_flags(parser: command_line.Parser) -> None:
    parser.model.add_argument(
        '--weights', required=True, help='checkpoint of DeepLab or of contrast_train.py'
    )
    parser.model.add_argument(
        '--config',
        nargs='+',
        metavar='KEY=VALUE|config.py',
        help='DeepLab: replaces values of the config that the checkpoint carries. One that carries '
        'none, from before checkpoints had it, needs the config.py of its experiment (which is '
        'read, not run), and the keys that its training had set besides',
    )


def add_method_flags(parser: command_line.Parser) -> None:
    parser.method.add_argument(
        '--scales',
        type=command_line.number(float, 0.1, 8),
        nargs='+',
        help='factors on the size of a picture, whose predictions are averaged; fewer are faster, '
        'and so are smaller ones (default: of DeepLab TEST_MULTISCALE of its config, 0.5 0.75 1 '
        '1.25 1.5 1.75 as published; of stage 1 0.5 1 1.5 2)',
    )
    parser.method.add_argument(
        '--crf',
        action='store_true',
        help='refine the masks by dense CRF: those of DeepLab as TEST_CRF=deeplab, those of stage '
        '1 as contrast_infer.py --out_crf',
    )
    parser.method.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='stage 1: the classes that all pictures show (default: those that the network sees)',
    )
    parser.method.add_argument(
        '--class_threshold',
        type=command_line.number(float, 0, 1),
        help='stage 1: the network sees the classes whose probability is at least this, as '
        'contrast_infer.py --cls_labels predicted:THRESHOLD (default: 0.5)',
    )
    parser.method.add_argument(
        '--t',
        type=command_line.number(float, 0, 1),
        help='stage 1: background score of the masks (default: seam 0.26, eps 0.22)',
    )


def add_output_flags(parser: command_line.Parser) -> None:
    parser.output.add_argument('--out', required=True, help='folder for the masks')
    parser.output.add_argument(
        '--overlay',
        action='store_true',
        help=f'also write pictures for the eye into the folder {OVERLAYS} of --out, and of stage 1 '
        f'heat maps into its folder {HEAT_MAPS}',
    )
    parser.output.add_argument(
        '--overwrite',
        action='store_true',
        help='replace the output of other weights, settings or pictures: all PNG files of --out',
    )


def add_run_flags(parser: command_line.Parser) -> None:
    command_line.add_on_error_flag(parser, default='skip')
    command_line.add_dry_run_flag(parser)
    command_line.add_crf_backend_flag(parser)
    command_line.add_workers_flag(parser)
    command_line.add_group_flag(parser)
    command_line.add_amp_flag(parser)
    command_line.add_device_flag(parser)
    command_line.add_jobs_flag(parser, 'the CRF')


def main(args: argparse.Namespace) -> None:
    pictures = named_pictures(args.pictures, args.out)
    predictor = make_predictor(args)
    outputs = mask_outputs(args, predictor)
    stage = PictureStage('predict', list(pictures), args.overwrite, args.on_error, args.dry_run)

    def made_of(name: str) -> Inputs:
        return Inputs((pictures[name],))

    stage.claim(wanted_outputs(args, predictor, outputs), made_of, outputs.crf_backend)
    check_same_pictures(stage, pictures)
    if is_first():
        complete = len(stage.names) - len(stage.todo)
        print(
            f'{args.weights}: {predictor.description}, {predictor.classes}; '
            f'{len(stage.names)} pictures, {complete} already complete',
            flush=True,
        )
    predict_all(args, stage, pictures, predictor, outputs)
    stage.report()


def make_predictor(args: argparse.Namespace) -> Predictor:
    """The trained network of --weights, of either kind, with the settings of the command line.

    Raises:
        UserError: the checkpoint is of neither kind, or a flag does not fit its kind.
    """
    # imported here, so that the processes of the CRF, which read this file too, do without torch
    from network.cam_inference import CLASS_THRESHOLD, CamPredictor
    from tool.files.checkpoints import load_checkpoint
    from tool.train.precision import allow_tf32, amp_dtype, resolved

    device = command_line.pick_device(args.device)
    args.amp = resolved(args.amp, device)
    dtype = amp_dtype(args.amp, device)
    allow_tf32(args.tf32 == 'on')
    is_segmentation = 'cls_conv.weight' in load_checkpoint(args.weights)
    if is_segmentation:
        refuse(args, ('classes', 'class_threshold', 't'), 'DeepLab')
        # segmentation/lib is no package but a folder of them
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'segmentation' / 'lib'))
        from utils.predictor import SegmentationPredictor

        return SegmentationPredictor(
            args.weights,
            device,
            args.amp,
            args.channels_last,
            args.scales,
            args.config or (),
            for_crf=args.crf,
        )
    refuse(args, ('config',), 'stage 1')
    if args.classes and args.class_threshold is not None:
        raise UserError(
            f'--class_threshold {args.class_threshold}: --classes gives the classes; leave one of '
            'them out'
        )
    threshold = CLASS_THRESHOLD if args.class_threshold is None else args.class_threshold
    return CamPredictor(
        args.weights, device, dtype, args.channels_last, args.scales, args.classes, threshold
    )


def refuse(args: argparse.Namespace, flags: tuple[str, ...], kind: str) -> None:
    """Raise UserError for a flag that a network of this kind does not have."""
    for flag in flags:
        if getattr(args, flag) is not None:
            raise UserError(
                f'--{flag}: {args.weights} is a checkpoint of {kind}, which has no such setting; '
                'leave the flag out'
            )


def mask_outputs(args: argparse.Namespace, predictor: Predictor) -> MaskOutputs:
    """The folders to write, and how the masks are made."""
    has_cams = predictor.background_score is not None
    score = predictor.background_score if args.t is None else args.t
    return MaskOutputs(
        masks=args.out,
        overlays=os.path.join(args.out, OVERLAYS) if args.overlay else None,
        heat_maps=os.path.join(args.out, HEAT_MAPS) if args.overlay and has_cams else None,
        classes=predictor.classes,
        crf_backend=args.crf_backend if args.crf else None,
        background_score=score or 0.0,
    )


def wanted_outputs(
    args: argparse.Namespace, predictor: Predictor, outputs: MaskOutputs
) -> list[Output]:
    """The folders to claim, with the settings that decide their files."""
    network = {'stage': 'predict', 'weights': fingerprint(args.weights), **predictor.settings}
    network.update(command_line.precision_settings(args))
    masks = {**network, 'crf_backend': outputs.crf_backend}
    if predictor.background_score is not None:
        masks['t'] = outputs.background_score
    wanted = [Output(outputs.masks, '.png', masks)]
    if outputs.overlays:
        wanted.append(Output(outputs.overlays, '.png', {**masks, 'shows': OVERLAYS}))
    if outputs.heat_maps:
        wanted.append(Output(outputs.heat_maps, '.png', {**network, 'shows': HEAT_MAPS}))
    return wanted


def check_same_pictures(stage: PictureStage, pictures: dict[str, str]) -> None:
    """Check that the masks that are there are of the pictures that are given, and not of others.

    Args:
        stage: the stage, which has claimed its folders.
        pictures: {name: file}.
    Raises:
        UserError: the mask of a name is of another picture.
    """
    for name, mask in stage.stale.items():
        raise UserError(
            f'{mask}: is of another picture than {pictures[name]}; choose another --out, or '
            'replace all masks there with --overwrite'
        )


class PictureSet:
    """The pictures of a run with their views.

    Args:
        pictures: {name: file}.
        make_views: the one of the predictor.
    """

    def __init__(self, pictures: dict[str, str], make_views: Callable[[Image.Image], list]):
        self.names = list(pictures)
        self.paths = list(pictures.values())
        self.make_views = make_views

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        """'name', 'size', (H, W), 'picture', uint8 [H, W, 3], and 'views'.

        Raises:
            UserError: the picture cannot be read or scaled.
        """
        path = self.paths[index]
        image = read_image(path, 'it was there a moment ago')
        try:
            views = self.make_views(image)
        except _CANNOT_BE_SCALED as error:
            raise UserError(f'{path}: cannot be scaled ({first_line(error)})') from None
        size = (image.height, image.width)
        name = self.names[index]
        return {'name': name, 'size': size, 'picture': np.array(image), 'views': views}


def predict_all(
    args: argparse.Namespace,
    stage: PictureStage,
    pictures: dict[str, str],
    predictor: Predictor,
    outputs: MaskOutputs,
) -> None:
    """Write the files that are missing; the dense CRF runs beside the network.

    Raises:
        UserError: with --on_error stop, for the first picture that cannot be predicted.
    """
    todo = {name: pictures[name] for name in stage.todo}
    loading = load(
        CatchesProblems(PictureSet(todo, predictor.make_views), list(todo)),
        range(len(todo)),
        args.num_workers,
        pin_memory=predictor.device.type == 'cuda',
    )
    count = group_size(args.batch_size, predictor.device)
    with stage.writers(min(args.jobs, len(todo)) if args.crf else 0) as submit, loading as items:
        for group in groups_of_equal_size(stage.usable(items), count):
            for item, prediction in predicted(group, stage, pictures, predictor):
                name = item['name']
                picture = np.asarray(item['picture'])
                submit(name, predictor.write, name, picture, prediction, outputs)


def predicted(
    group: list[dict], stage: PictureStage, pictures: dict[str, str], predictor: Predictor
) -> Iterator[tuple[dict, Any]]:
    """The items of a group with their predictions; those that cannot be predicted are left out.

    Where a group cannot be predicted, each of its pictures is tried by itself.
    """
    try:
        predictions = predictor.predict([item['views'] for item in group], group[0]['size'])
    except RuntimeError as error:  # the pictures are too large for the memory, or tiny
        if len(group) == 1:
            name = group[0]['name']
            problem = f'{pictures[name]}: cannot be predicted ({first_line(error)})'
            stage.leave_out(name, problem)
            return
    else:
        yield from zip(group, predictions)
        return
    for item in group:
        yield from predicted([item], stage, pictures, predictor)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


if __name__ == '__main__':
    command_line.run(main, parse_args)
