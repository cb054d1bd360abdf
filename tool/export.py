"""Masks as annotations that people correct by hand in other tools.

    python -m tool.export --masks runs/own/walk_crf --voc12_root data --to coco --out masks.json
    python -m tool.export --masks runs/own/walk_crf --voc12_root data --to labelme --out labelme
    python -m tool.export --masks runs/own/walk_crf --voc12_root data --to cvat --out cvat.zip
    python -m tool.export --masks runs/own/walk_crf --voc12_root data --to labelstudio --out studio

Reads  the masks <masks>/<name>.png and, for their names and sizes, the files of the pictures.
Writes --out: for coco a JSON file, for cvat a zip archive of the format "Segmentation mask 1.1",
       for labelme a folder with a JSON file for each picture, for labelstudio a folder with
       tasks.json and labels.xml.

Pixels of one class that touch are one object. Objects of fewer than --min_area pixels are left out:
their pixels become background. Pixels of 255 (ignore) are exported as nothing, which is background
too. All else is exact, except with --polygons, which fills the holes of objects.

All files are checked before anything is written. Files that are already there are refused, because
somebody may have corrected them, unless --overwrite is given. A device, such as /dev/stdout, is
written to and never replaced.
"""

import argparse
import os
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tool.files.annotations import coco, cvat, labelme, labelstudio
from tool.files.annotations.objects import AnnotatedPicture, objects_of
from tool.files.atomic import check_writable, is_device, need_folder
from tool.files.class_sets import read_classes
from tool.files.lists import read_list
from tool.files.pictures import check_size, image_size, read_mask
from tool.files.places import keep_apart
from tool.method.class_set import IGNORE, ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.progress import progress
from voc12.layout import PICTURES, check_files, class_set, class_set_beside, pictures_in
from voc12.make_lists import mask_names

FORMATS = ('coco', 'labelme', 'cvat', 'labelstudio')
WITH_POLYGONS = ('coco', 'labelme')
# the formats that name the files of pictures
WITH_PICTURES = ('labelme', 'labelstudio')
# the formats whose --out is a folder
WITH_FOLDER = ('labelme', 'labelstudio')


@dataclass(frozen=True)
class Inputs:
    """The masks to export, and what belongs to them."""

    # folder of the masks
    masks: str
    # names of the masks and their pictures
    names: list[str]
    classes: ClassSet
    # folder of the pictures; None: not known
    images: str | None

    def mask_path(self, name: str) -> str:
        """Path of the mask of a picture."""
        return os.path.join(self.masks, f'{name}.png')

    def picture_path(self, name: str) -> str:
        """Path of a picture; <name>.jpg where its folder is not known."""
        if self.images is None:
            return f'{name}.jpg'
        return os.path.join(self.images, pictures_in(self.images)[name])


@dataclass
class Counts:
    """The numbers of objects and pixels that were exported or left out."""

    objects: int = 0
    # objects of fewer than --min_area pixels
    small_objects: int = 0
    small_pixels: int = 0
    # pixels of 255
    ignored_pixels: int = 0
    # ids of the classes that the masks show
    class_ids: set[int] = field(default_factory=set)


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.data.add_argument('--masks', required=True, help='folder of masks <name>.png')
    parser.data.add_argument(
        '--list', help='list of pictures to export (default: all masks of --masks)'
    )
    parser.data.add_argument(
        '--voc12_root',
        help='data folder of the pictures, which names their classes (default: the folder that '
        '--masks lies in)',
    )
    parser.data.add_argument(
        '--classes_txt',
        metavar='FILE',
        help='file with the foreground classes, one a line (default: the classes.txt of '
        "--voc12_root; where there is none, VOC's classes)",
    )
    parser.data.add_argument(
        '--images',
        help='folder of the pictures (default: JPEGImages of --voc12_root); coco and cvat do '
        'without, and sizes are not checked then',
    )
    parser.output.add_argument('--to', required=True, choices=FORMATS, help='format')
    parser.output.add_argument(
        '--out', required=True, help='file (coco, cvat) or folder (labelme, labelstudio) to write'
    )
    parser.output.add_argument(
        '--min_area',
        type=command_line.number(int, 1),
        default=1,
        help='leave out objects of fewer pixels, which become background',
    )
    parser.output.add_argument(
        '--polygons',
        action='store_true',
        help='polygons in place of exact masks (coco, labelme); they fill the holes of objects',
    )
    parser.output.add_argument(
        '--url_prefix',
        metavar='URL',
        help="address of the pictures' folder in Label Studio, to which the names of files are "
        'appended (default: /data/local-files/?d=NAME/, where NAME is that of the folder)',
    )
    parser.output.add_argument(
        '--overwrite', action='store_true', help='replace files that are already there'
    )
    args = parser.parse_args()
    if args.polygons and args.to not in WITH_POLYGONS:
        parser.error(f'--polygons: the format {args.to} has masks only; leave the flag out')
    if args.url_prefix is not None and args.to != 'labelstudio':
        parser.error('--url_prefix is for --to labelstudio only; leave the flag out')
    return args


def main(args: argparse.Namespace) -> None:
    keep_apart(
        [('--out', args.out)],
        [('--masks', args.masks), ('--list', args.list), ('--classes_txt', args.classes_txt)],
    )
    inputs = find_inputs(args)
    if args.to not in WITH_FOLDER:  # labelme's files may lie beside the pictures
        keep_apart([('--out', args.out)], [('--images', inputs.images)])
    check_out(args, inputs)
    if args.to not in WITH_FOLDER:
        check_writable(args.out)
    check_masks(inputs)
    if args.to == 'cvat':
        check_object_counts(inputs, args.min_area)
    counts = Counts()
    pictures = annotated_pictures(inputs, args.min_area, counts)
    if args.to == 'coco':
        coco.write(args.out, pictures, inputs.classes, args.polygons)
    elif args.to == 'labelme':
        labelme.write(args.out, pictures, inputs.classes, args.polygons)
    elif args.to == 'cvat':
        cvat.write(args.out, pictures, inputs.classes)
    else:
        labelstudio.write(args.out, pictures, inputs.classes, url_prefix(args, inputs))
    report(args, inputs, counts)


def find_inputs(args: argparse.Namespace) -> Inputs:
    """The masks, their classes and their pictures.

    Raises:
        UserError: a mask or a picture is missing, or the list or the classes cannot be read.
    """
    need_folder(args.masks, 'check --masks')
    if args.list:
        names = read_list(args.list)
        check_files(args.masks, names, '.png', f'check --masks and {args.list}')
    else:
        names = all_masks(args.masks)
    images = picture_folder(args)
    if images is None and args.to in WITH_PICTURES:
        raise UserError(
            f'--to {args.to}: the format names the files of the pictures; give their folder as '
            '--images, or a data folder as --voc12_root'
        )
    if images is not None:
        index = pictures_in(images)
        lost = [name for name in names if name not in index]
        if lost:
            raise UserError(
                f'{os.path.join(images, lost[0])}.jpg: no such file, nor one with another ending '
                f'of a picture (of the {len(names)} masks, {len(lost)} have none); check --images '
                'and --voc12_root, or give a --list of the pictures that are there'
            )
    return Inputs(args.masks, names, find_classes(args), images)


def all_masks(folder: str) -> list[str]:
    """The sorted names of the masks in a folder.

    Raises:
        UserError: there are none.
    """
    names = sorted(mask_names(folder))
    if not names:
        raise UserError(f'{folder}: holds no masks <name>.png; check --masks')
    return names


def picture_folder(args: argparse.Namespace) -> str | None:
    """The folder of the pictures; None where no flag names one and there is none beside the masks.

    Raises:
        UserError: there is no such folder.
    """
    if args.images:
        return need_folder(args.images, 'check --images')
    if args.voc12_root:
        return need_folder(os.path.join(args.voc12_root, PICTURES), 'check --voc12_root')
    beside = os.path.join(os.path.dirname(os.path.abspath(args.masks)), PICTURES)
    return beside if os.path.isdir(beside) else None


def find_classes(args: argparse.Namespace) -> ClassSet:
    """The classes of the masks.

    Raises:
        UserError: classes.txt cannot be read.
    """
    if args.classes_txt:
        return read_classes(args.classes_txt)
    if args.voc12_root:
        return class_set(args.voc12_root)
    return class_set_beside(args.masks)


def check_out(args: argparse.Namespace, inputs: Inputs) -> None:
    """Check that --out is of the right kind, and that nothing there is replaced by accident.

    Raises:
        UserError: it is not, or files are there and --overwrite is not given.
    """
    if args.to in WITH_FOLDER and os.path.isfile(args.out):
        raise UserError(
            f'{args.out}: is a file; --to {args.to} writes a folder, name another --out'
        )
    if args.to not in WITH_FOLDER and os.path.isdir(args.out):
        raise UserError(f'{args.out}: is a folder; --to {args.to} writes a file, name it in --out')
    if is_device(args.out):  # it holds nothing that could be lost
        return
    existing = [path for path in out_files(args, inputs) if os.path.exists(path)]
    if existing and not args.overwrite:
        raise UserError(
            f'{existing[0]}: is already there and may have been corrected by hand; name another '
            '--out, or give --overwrite'
        )


def out_files(args: argparse.Namespace, inputs: Inputs) -> list[str]:
    """The files that will be written."""
    if args.to == 'labelme':
        return [labelme.json_path(args.out, inputs.picture_path(name)) for name in inputs.names]
    if args.to == 'labelstudio':
        return [os.path.join(args.out, file) for file in (labelstudio.TASKS, labelstudio.LABELS)]
    return [args.out]


def check_masks(inputs: Inputs) -> None:
    """Check that every mask holds its classes only and is as large as its picture.

    Raises:
        UserError: a mask does not, or a file is damaged.
    """
    for name in progress(inputs.names, desc='check', unit='mask'):
        path = inputs.mask_path(name)
        mask = read_mask(path, inputs.classes)
        if inputs.images is not None:
            check_size(path, mask.shape, image_size(inputs.picture_path(name)))


def check_object_counts(inputs: Inputs, min_area: int) -> None:
    """Check that no mask has more objects than CVAT's format numbers.

    Raises:
        UserError: some do; the message names the --min_area that suits all masks.
    """
    needed = min_area
    counts = {}
    for name in progress(inputs.names, desc='count', unit='mask'):
        mask = read_mask(inputs.mask_path(name), inputs.classes)
        areas = [item.area for item in objects_of(mask) if item.area >= min_area]
        needed = max(needed, cvat.smallest_min_area(areas))
        if len(areas) > cvat.MAX_OBJECTS:
            counts[name] = len(areas)
    if counts:
        name, count = next(iter(counts.items()))
        raise UserError(
            f'{inputs.mask_path(name)}: has {count} objects, and the format cvat numbers '
            f'{cvat.MAX_OBJECTS} in a picture (of the {len(inputs.names)} masks, {len(counts)} '
            f'have more); --min_area {needed} is the smallest that suits all of them'
        )


def annotated_pictures(inputs: Inputs, min_area: int, counts: Counts) -> Iterator[AnnotatedPicture]:
    """The pictures with the objects of their masks, read one by one.

    Args:
        inputs: the masks and their pictures.
        min_area: objects of fewer pixels are left out.
        counts: what became of the pixels is added here.
    """
    for name in progress(inputs.names, desc='export', unit='mask'):
        mask = read_mask(inputs.mask_path(name), inputs.classes)
        kept = []
        for item in objects_of(mask):
            if item.area >= min_area:
                kept.append(item)
                counts.class_ids.add(item.class_id)
            else:
                counts.small_objects += 1
                counts.small_pixels += item.area
        counts.objects += len(kept)
        counts.ignored_pixels += int(np.count_nonzero(mask == IGNORE))
        yield AnnotatedPicture(name, inputs.picture_path(name), mask.shape, tuple(kept))


def url_prefix(args: argparse.Namespace, inputs: Inputs) -> str:
    """The address of the pictures' folder in Label Studio.

    The default is that of a local folder that Label Studio serves: --images is a folder directly
    in its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT.
    """
    if args.url_prefix is not None:
        return args.url_prefix
    folder = os.path.basename(os.path.abspath(str(inputs.images)))
    return f'/data/local-files/?d={urllib.parse.quote(folder)}/'


def report(args: argparse.Namespace, inputs: Inputs, counts: Counts) -> None:
    """Print what was written and what was left out."""
    shown = [inputs.classes.names[class_id] for class_id in sorted(counts.class_ids)]
    names = f' ({", ".join(shown)})' if shown else ''
    print(f'{len(inputs.names)} masks, {counts.objects} objects{names}: {args.out}')
    if counts.small_objects:
        print(
            f'{counts.small_objects} objects of fewer than {args.min_area} pixels became '
            f'background: {counts.small_pixels} pixels'
        )
    if counts.ignored_pixels:
        print(
            f'{counts.ignored_pixels} pixels of {IGNORE} (ignore) are exported as nothing, which '
            'is background'
        )


if __name__ == '__main__':
    command_line.run(main, parse_args)
