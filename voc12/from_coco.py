"""A data folder in VOC 2012's layout from annotations in COCO's format.

    python -m voc12.from_coco --annotations annotations/instances_train2014.json \\
        --images train2014 --val_annotations annotations/instances_val2014.json \\
        --val_images val2014 --list annotated --overlap last --out coco

Reads  a file of COCO's object annotations (images, annotations, categories) and the pictures that
       it names below --images. The classes are its categories in their order, numbered from 1
       without gaps. Without --val_annotations, the list val is a share of the pictures (--val).
Writes into --out classes.txt, links to the pictures (JPEGImages), the masks that are drawn from
       the annotations (SegmentationClass, SegmentationClassAug), the image lists
       (ImageSets/Segmentation and lists), the labels lists/cls_labels.npy, and masks.json with the
       rule of the masks, which eval.py prints. bad_files.txt names the files that cannot be used.

Repositories draw these masks by different rules, and their scores cannot be compared: --list,
--overlap and --crowd are this rule. A picture's label has the classes of all its annotations,
crowds too. All files are checked before anything is written.
"""

import argparse
import functools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tool.files.atomic import need_file, need_folder, write_text
from tool.files.lists import picture_name
from tool.files.manifest import fingerprint
from tool.files.pictures import check_size, image_size, stored_size, write_mask
from tool.files.reading import read_json
from tool.method.class_set import IGNORE, ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.pool import pool_map
from tool.run.progress import progress
from voc12 import data_folder
from voc12.data_folder import Lists, Picture
from voc12.layout import MASK_RULE, MASKS

RULES = {
    'annotated': 'pictures with an annotation',
    'all': 'all pictures',
    'last': 'later annotations over earlier ones',
    'small': 'smaller objects over larger ones',
    'out': f'crowd regions are {IGNORE} where no object lies',
    'in': 'crowd regions are objects',
}


@dataclass(frozen=True)
class Annotation:
    """One region of a picture."""

    # its id in the file, for messages
    id: Any
    # mask value 1…K
    class_id: int
    # polygons [[x, y, x, y, …], …], or a run-length encoding {'size': [H, W], 'counts': …}
    segmentation: Any
    is_crowd: bool
    # number of pixels as the file says; None: not given
    area: float | None


@dataclass(frozen=True)
class AnnotatedPicture:
    """One picture of the file."""

    picture: Picture
    # (H, W) as the file says
    size: tuple[int, int]
    # in the order of the file
    annotations: tuple[Annotation, ...]


# ---------------------------------------------------------------- the file of annotations


def read_annotations(path: str, images: str) -> tuple[ClassSet, list[AnnotatedPicture]]:
    """The classes and all pictures of a file of annotations.

    Args:
        path: the file.
        images: folder that its file names start from.
    Raises:
        UserError: the file is not of this format.
    """
    need_file(path, 'give the file of annotations, e.g. instances_train2014.json')
    try:
        content = read_json(path)
        categories = content['categories']
        names = [str(category['name']).strip() for category in categories]
        class_ids = {category['id']: place for place, category in enumerate(categories, 1)}
        annotations_of: dict[Any, list[Annotation]] = {
            image['id']: [] for image in content['images']
        }
        for annotation in content['annotations']:
            area = annotation.get('area')
            region = Annotation(
                annotation.get('id'),
                class_ids[annotation['category_id']],
                annotation.get('segmentation'),
                bool(annotation.get('iscrowd', 0)),
                None if area is None else float(area),
            )
            annotations_of[annotation['image_id']].append(region)
        pictures = []
        for image in content['images']:
            size = (int(image['height']), int(image['width']))
            annotations = tuple(annotations_of[image['id']])
            pictures.append(_annotated(images, str(image['file_name']), size, annotations))
    except KeyError as error:
        raise UserError(
            f'{path}: lacks {error}, as a key or as the id of an image or a category; COCO object '
            'annotations (instances_*.json) are expected'
        ) from None
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f'{path}: not a readable file of COCO object annotations ({error}); download or export '
            'it again'
        ) from None
    if len(class_ids) < len(names):
        raise UserError(f'{path}: two categories have the same id; export it again')
    if len(annotations_of) < len(pictures):
        raise UserError(f'{path}: two images have the same id; export it again')
    return data_folder.make_class_set(names, path), pictures


def _annotated(
    images: str, file: str, size: tuple[int, int], annotations: tuple[Annotation, ...]
) -> AnnotatedPicture:
    """A picture with its annotations and the label that follows from them."""
    shown = {annotation.class_id - 1 for annotation in annotations}
    picture = Picture(picture_name(file), os.path.join(images, file), tuple(sorted(shown)))
    return AnnotatedPicture(picture, size, annotations)


# ---------------------------------------------------------------- masks


def region(annotation: Annotation, size: tuple[int, int]) -> np.ndarray:
    """The pixels of an annotation, bool [H, W].

    Raises:
        UserError: its segmentation cannot be decoded.
    """
    # imported here, because no other command needs it
    from pycocotools import mask as coco

    height, width = size
    segmentation = annotation.segmentation
    try:
        if not segmentation:
            raise ValueError('it has none')
        if isinstance(segmentation, list):
            _check_polygons(segmentation, size)
            encoded = coco.merge(coco.frPyObjects(segmentation, height, width))
        else:
            if tuple(segmentation['size']) != size:
                raise ValueError(f'its size {segmentation["size"]} is not that of the picture')
            counts = segmentation['counts']
            if isinstance(counts, str):
                counts = _uncompressed(counts)
            _check_counts(counts, size)
            encoded = coco.frPyObjects({'size': list(size), 'counts': counts}, height, width)
        return coco.decode(encoded).astype(bool)
    except Exception as error:  # pycocotools raises plain Exceptions too
        raise UserError(
            f'the segmentation of annotation {annotation.id} cannot be decoded ({error}); '
            'export the annotations again'
        ) from None


def _check_polygons(polygons: list, size: tuple[int, int]) -> None:
    """ValueError if polygons are none, or their outlines are too long for their picture.

    pycocotools makes five points for each pixel of an outline. It would crash, or fill the memory,
    for a few coordinates that are far outside, or that go to and fro.
    """
    height, width = size
    for polygon in polygons:
        points = np.array(polygon, np.float64)
        if points.ndim != 1 or len(points) < 4 or len(points) % 2:
            raise ValueError('a polygon is no list [x, y, x, y, …] of points')
        if not np.isfinite(points).all():
            raise ValueError('a polygon has a coordinate that is no number')
        steps = np.abs(np.diff(points.reshape(-1, 2), axis=0)).max(1)
        # pycocotools takes four numbers for a box [x, y, width, height]
        length = steps.sum() if len(points) > 4 else np.abs(points).sum()
        # no outline passes every pixel more than a few times
        if length > 4 * height * width + 1000:
            raise ValueError('the outline of a polygon is too long for the picture')


def _uncompressed(text: str) -> list[int]:
    """The run lengths in COCO's compressed text.

    A number is written in groups of five bits, the lowest first, each as the character 48 + group,
    + 32 where another group follows. From the fourth number on, it is the difference to the number
    two places before. pycocotools can decode such a text, too, but where its numbers do not fill
    the picture, the rest of the mask is whatever was in the memory.
    """
    counts: list[int] = []
    number = 0
    shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 60:
            raise ValueError('it is no compressed run-length encoding')
        number |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:  # the highest bit of the last group is the sign
            number -= 1 << shift
        if len(counts) > 2:
            number += counts[-2]
        counts.append(number)
        number = 0
        shift = 0
    return counts


def _check_counts(counts: list, size: tuple[int, int]) -> None:
    """ValueError if run lengths do not fill a picture exactly."""
    height, width = size
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError('a run length is no whole number')
    if sum(counts) != height * width:
        raise ValueError(f'its run lengths make {sum(counts)} pixels')


def draw_mask(
    annotations: Iterable[Annotation], size: tuple[int, int], overlap: str, crowd: str
) -> np.ndarray:
    """The mask of a picture.

    Args:
        annotations: its annotations, in the order of the file.
        size: (H, W).
        overlap: 'last': of two annotations on one pixel the later one wins; 'small': the one of
            smaller area, and of the same area the later one.
        crowd: 'out': crowd regions become 255 where no object lies; 'in': they are objects.
    Returns:
        uint8 [H, W]: class ids, 0 for the background, 255 for crowds that are left out.
    """
    mask = np.zeros(size, np.uint8)
    objects: list[tuple[float, int, np.ndarray]] = []
    for annotation in annotations:
        pixels = region(annotation, size)
        if annotation.is_crowd and crowd == 'out':
            mask[pixels] = IGNORE
            continue
        area = float(pixels.sum()) if annotation.area is None else annotation.area
        objects.append((area, annotation.class_id, pixels))
    if overlap == 'small':
        objects.sort(key=_area, reverse=True)  # those of one area keep their order
    for _, class_id, pixels in objects:
        mask[pixels] = class_id
    return mask


def _area(item: tuple[float, int, np.ndarray]) -> float:
    return item[0]


def check(item: AnnotatedPicture) -> tuple[str, str]:
    """(name of a picture, why it cannot be used; '' if it can)."""
    path = item.picture.source
    if not os.path.isfile(path):
        return item.picture.name, f'{path}: no such file; check --images'
    problem = data_folder.picture_problem(item.picture) or size_problem(item)
    if problem:
        return item.picture.name, problem
    try:
        for annotation in item.annotations:
            region(annotation, item.size)
    except UserError as error:
        message = str(error)
        return item.picture.name, message if path in message else f'{path}: {message}'
    return item.picture.name, ''


def size_problem(item: AnnotatedPicture) -> str:
    """Why a picture does not have the size that its annotations say, with the fix; '' if it has.

    The size that counts is that of the turned picture, because all stages turn pictures by their
    EXIF orientation.
    """
    path = item.picture.source
    size = image_size(path)
    if size != item.size and stored_size(path) == item.size:
        return (
            f'{path}: its EXIF orientation turns it to {size[1]}x{size[0]}, and it was annotated '
            f'unturned, as {item.size[1]}x{item.size[0]}; remove the orientation '
            '(exiftool -Orientation=1 -n)'
        )
    try:
        check_size(
            path,
            size,
            item.size,
            of='the annotations say it',
            fix='take the picture that was annotated',
        )
    except UserError as error:
        return str(error)
    return ''


def write_masks(item: AnnotatedPicture, out: str, overlap: str, crowd: str) -> None:
    """Write the mask of a picture into both folders of masks."""
    mask = draw_mask(item.annotations, item.size, overlap, crowd)
    for folder in MASKS:
        write_mask(os.path.join(out, folder, f'{item.picture.name}.png'), mask)


# ---------------------------------------------------------------- the command


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.data.add_argument(
        '--annotations', required=True, metavar='FILE.json', help='file of annotations'
    )
    parser.data.add_argument('--images', required=True, help='folder of its pictures')
    parser.data.add_argument(
        '--val_annotations',
        metavar='FILE.json',
        help='file of annotations whose pictures make the list val (default: a share, see --val)',
    )
    parser.data.add_argument(
        '--val_images', help='folder of the pictures of --val_annotations (default: --images)'
    )
    parser.data.add_argument(
        '--list',
        required=True,
        choices=('annotated', 'all'),
        help='which pictures: those with at least one annotation, or all of the file',
    )
    parser.data.add_argument(
        '--overlap',
        required=True,
        choices=('last', 'small'),
        help='which annotation a pixel of several belongs to: the last of the file, or the one of '
        'the smallest area',
    )
    parser.data.add_argument(
        '--crowd',
        choices=('out', 'in'),
        default='out',
        help=f'crowd regions are ignored ({IGNORE}) or are objects',
    )
    data_folder.add_flags(parser)
    args = parser.parse_args()
    if args.val_images and not args.val_annotations:
        parser.error('--val_images needs --val_annotations')
    return args


def main(args: argparse.Namespace) -> None:
    need_pycocotools()
    classes, items, for_val = read_inputs(args)
    pictures = [item.picture for item in items]
    data_folder.refuse_same_names(pictures)
    settings = settings_of(args)
    # before the pictures are read, which takes long
    picture_files = [picture.file for picture in pictures]
    sources = [picture.source for picture in pictures]
    data_folder.check_claim(args.out, settings, picture_files, args.overwrite, sources)

    bad: dict[str, str] = {}
    results = pool_map(check, items, args.jobs)
    for name, problem in progress(results, total=len(items), desc='check'):
        if problem:
            bad[name] = problem
    items = [item for item in items if item.picture.name not in bad]
    pictures = [item.picture for item in items]
    if for_val is None:
        train, val = data_folder.split(pictures, args.val, args.seed)
    else:
        train = sorted(picture.name for picture in pictures if picture.name not in for_val)
        val = sorted(picture.name for picture in pictures if picture.name in for_val)
    lists = Lists(train, val, train_aug=train)  # every picture has a mask
    outputs = outputs_of(pictures, lists)
    data_folder.check_claim(args.out, settings, outputs, args.overwrite)
    data_folder.report_bad(args.out, list(bad.values()), args.skip_bad)
    if not train:
        raise UserError(f'{args.annotations}: no picture is left for the list train')

    with data_folder.claimed(args.out, settings, outputs, args.overwrite):
        for picture in progress(pictures, desc='copy' if args.copy else 'link'):
            data_folder.place(picture.source, os.path.join(args.out, picture.file), args.copy)
        draw = functools.partial(write_masks, out=args.out, overlap=args.overlap, crowd=args.crowd)
        for _ in progress(pool_map(draw, items, args.jobs), total=len(items), desc='masks'):
            pass
        data_folder.write_lists(args.out, classes, pictures, lists)
        rule = rule_of(args)
        write_text(os.path.join(args.out, MASK_RULE), json.dumps(rule, indent=1) + '\n')

    data_folder.report(classes, pictures, lists, args.out)
    print(f'masks: {rule["rule"]}')


def need_pycocotools() -> None:
    """UserError if pycocotools is not installed."""
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'pycocotools is not installed ({error}); pip install pycocotools'
        ) from None


def read_inputs(
    args: argparse.Namespace,
) -> tuple[ClassSet, list[AnnotatedPicture], set[str] | None]:
    """The classes, the pictures of --list, and the names for val; None: --val decides them.

    Raises:
        UserError: a file or folder is missing, the two files have different categories or a
            picture in common, or there is no picture.
    """
    need_folder(args.images, 'give the folder of the pictures as --images')
    data_folder.refuse_inside(args.out, args.images)
    classes, items = read_annotations(args.annotations, args.images)
    for_val = None
    if args.val_annotations:
        val_images = args.val_images or args.images
        need_folder(val_images, 'give the folder of the pictures as --val_images')
        data_folder.refuse_inside(args.out, val_images, '--val_images')
        val_classes, val_items = read_annotations(args.val_annotations, val_images)
        if val_classes != classes:
            raise UserError(
                f'{args.val_annotations}: has other categories than {args.annotations}: '
                f'{classes.difference(val_classes)}'
            )
        for_val = {item.picture.name for item in val_items}
        both = sorted(for_val & {item.picture.name for item in items})
        if both:
            raise UserError(
                f'{args.val_annotations}: has the picture {both[0]}, as has {args.annotations}; '
                'train and val must have no picture in common'
            )
        items = items + val_items
    if args.list == 'annotated':
        items = [item for item in items if item.annotations]
    if not items:
        raise UserError(f'{args.annotations}: has no picture for --list {args.list}')
    return classes, items, for_val


def settings_of(args: argparse.Namespace) -> dict:
    """The settings in the manifest."""
    settings = data_folder.common_settings(args, 'from_coco')
    settings['annotations'] = fingerprint(args.annotations)
    settings['val_annotations'] = fingerprint(args.val_annotations) if args.val_annotations else ''
    settings['val_images'] = os.path.abspath(args.val_images) if args.val_images else ''
    for key in ('list', 'overlap', 'crowd'):
        settings[key] = getattr(args, key)
    return settings


def outputs_of(pictures: list[Picture], lists: Lists) -> list[str]:
    """Paths below the data folder of all files that are to be written."""
    outputs = [picture.file for picture in pictures]
    for folder in MASKS:
        outputs += [f'{folder}/{picture.name}.png' for picture in pictures]
    return [*outputs, MASK_RULE, *data_folder.text_files(lists)]


def rule_of(args: argparse.Namespace) -> dict:
    """The entries of masks.json: the flags, and the rule in words."""
    words = [RULES[args.list], RULES[args.overlap], RULES[args.crowd]]
    sources = [os.path.basename(args.annotations)]
    if args.val_annotations:
        sources.append(os.path.basename(args.val_annotations))
    return {
        'annotations': sources,
        'list': args.list,
        'overlap': args.overlap,
        'crowd': args.crowd,
        'rule': f'drawn from {" and ".join(sources)}: {"; ".join(words)}',
    }


if __name__ == '__main__':
    command_line.run(main, parse_args)
