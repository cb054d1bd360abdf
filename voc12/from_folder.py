"""A data folder in VOC 2012's layout from your own pictures and image-level labels.

    python -m voc12.from_folder --images photos --labels labels.csv --out data
    python -m voc12.from_folder --images photos --by_folder --masks masks --out data

Reads  the pictures below --images, and their labels from a table (--labels) or from the names of
       the folders directly in --images (--by_folder). The table has the columns file and labels,
       where ; separates labels, or the column file and one column of 0 and 1 for each class. An
       empty label, and the label background, mean that a picture shows none of the classes.
       --masks are ground truth <name>.png for scoring; training does not read them. The name of a
       picture is that of its file, or with --names path its path, cat_001 of cat/001.jpg.
Writes into --out classes.txt, links to the pictures (JPEGImages) and masks (SegmentationClass,
       SegmentationClassAug), the image lists (ImageSets/Segmentation and lists), the labels
       lists/cls_labels.npy, unlabelled.txt with the pictures that have no label, and
       bad_files.txt with the files that cannot be used.

All files are checked before anything is written. Pictures are turned by their EXIF orientation, as
in all stages (tool/files/pictures.py), so a mask must have the size of the turned picture.

The lists train and val are for scoring, train_aug is for training. Where only some pictures have a
mask, train and val hold only those; train_aug has every picture that is not in val.
"""

import argparse
import csv
import functools
import os
from dataclasses import dataclass

from tool.files.atomic import need_file, need_folder, write_text
from tool.files.class_sets import read_classes
from tool.files.lists import ENDINGS, picture_name
from tool.files.picture_files import find_pictures, lies_in
from tool.files.pictures import (
    check_size,
    image_size,
    is_turned,
    read_mask,
    stored_size,
    write_mask,
)
from tool.files.reading import open_text
from tool.files.shown_classes import need_a_class
from tool.method.class_set import BACKGROUND, MASK_COLOURS, ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.pool import pool_map
from tool.run.progress import progress
from voc12 import data_folder
from voc12.data_folder import Lists, Picture
from voc12.layout import MASKS

UNLABELLED = 'unlabelled.txt'
# what a cell of a class's column may hold, in lower case
YES = ('1', '1.0', 'true', 'yes')
NO = ('0', '0.0', 'false', 'no', '')


@dataclass(frozen=True)
class Row:
    """The label of one file."""

    # the file as the user wrote it: a path below --images, or a name
    file: str
    # names of its classes
    labels: tuple[str, ...]


# ---------------------------------------------------------------- labels


def read_table(path: str, separator: str) -> tuple[list[Row], list[str]]:
    """The rows of a table of labels.

    Args:
        path: a CSV file in UTF-8, with or without a byte-order mark.
        separator: what separates the labels in the column labels.
    Returns:
        The rows, and the classes in the order of their columns; no classes where the table has a
        column labels.
    Raises:
        UserError: it is no such table, or it names a file twice.
    """
    need_file(path, 'give the table of labels as --labels')
    try:
        with open_text(path, 'utf-8-sig', newline='') as table:
            reader = csv.reader(table, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'{path}: not a readable CSV file in UTF-8 ({error})') from None
    lines = [(number, cells) for number, cells in lines if any(cells)]
    header = lines[0][1] if lines else []
    columns = [name for name in header if name not in ('file', '')]
    if 'file' not in header or not columns:
        raise UserError(
            f'{path}: its first line must name the columns file and labels, or file and the '
            f'classes, with commas between them; it names {", ".join(header) or "none"}'
        )
    if len(set(columns)) < len(columns):
        raise UserError(f'{path}: two columns have the same name; rename one of them')
    has_labels = 'labels' in columns
    rows: list[Row] = []
    line_of: dict[str, int] = {}
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise UserError(
                f'{path}: line {number} has {len(cells)} cells, the first line {len(header)}; '
                'put a cell that holds a comma in double quotes'
            )
        cell_of = dict(zip(header, cells))
        file = os.path.normpath(cell_of['file']) if cell_of['file'] else ''
        if not file:
            raise UserError(f'{path}: line {number} names no file; add it or remove the line')
        if file in line_of:
            raise UserError(
                f'{path}: {file} stands in line {line_of[file]} and in line {number}; '
                'remove one of them'
            )
        line_of[file] = number
        if has_labels:
            words = [word.strip() for word in cell_of['labels'].split(separator)]
            labels = [word for word in words if word]
        else:
            labels = [name for name in columns if _is_set(cell_of[name], path, number, name)]
        rows.append(Row(file, tuple(labels)))
    if not rows:
        raise UserError(f'{path}: has no line besides the first; one line a picture is expected')
    return rows, [] if has_labels else columns


def _is_set(cell: str, path: str, number: int, column: str) -> bool:
    """True for a cell that says that a picture shows the class of a column."""
    if cell.lower() in YES:
        return True
    if cell.lower() in NO:
        return False
    raise UserError(
        f'{path}: line {number} has {cell!r} in the column {column}; 1 or 0 is expected, so decide '
        'or remove the line (or name the column of labels "labels")'
    )


def rows_of_folders(files: list[str]) -> list[Row]:
    """The rows that the folders of pictures stand for; a picture in no folder has none.

    Args:
        files: paths below --images.
    """
    rows = []
    for file in files:
        parts = file.split(os.sep)
        if len(parts) > 1:
            rows.append(Row(file, (parts[0],)))
    return rows


def class_set_of(rows: list[Row], columns: list[str], classes_txt: str | None) -> ClassSet:
    """The classes: of --classes_txt, or of the table's columns, or those of the rows, sorted.

    Raises:
        UserError: a row has another class than those of --classes_txt, or there is no class.
    """
    used: set[str] = set()
    for row in rows:
        used.update(row.labels)
    used.discard(BACKGROUND)
    if not classes_txt:
        names = columns or sorted(used)
        return data_folder.make_class_set(
            [name for name in names if name != BACKGROUND], 'the labels'
        )
    classes = read_classes(classes_txt)
    unknown = sorted(used - set(classes.foreground))
    if unknown:
        raise UserError(
            f'{classes_txt}: has no class {unknown[0]!r}, which is a label; add it or mend the '
            'label'
        )
    return classes


# ---------------------------------------------------------------- pictures


def outside(folder: str, root: str, files: list[str]) -> list[str]:
    """The files of a list, which are paths below `root`, that do not lie in `folder`."""
    inside: set[str] = set()
    for below in {os.path.dirname(file) for file in files}:
        if lies_in(os.path.join(root, below), folder):
            inside.add(below)
    return [file for file in files if os.path.dirname(file) not in inside]


def match(
    rows: list[Row], files: list[str], root: str, classes: ClassSet, names: str = 'file'
) -> tuple[list[Picture], list[str], list[str]]:
    """Find the picture of every row.

    A row names a path, below the folder or absolute, with or without the extension, or only the
    name of a picture, which may lie in any folder.

    Args:
        rows: the labels.
        files: paths of the pictures below the folder `root`.
        root: the folder.
        classes: the classes of the labels.
        names: what pictures are named by, their 'file' or their 'path'.
    Returns:
        The labelled pictures, the problems of rows without one picture, and the paths below the
        folder of pictures without a row.
    """
    paths_of: dict[str, list[str]] = {}
    for file in files:
        name = picture_name(file)
        for key in {file, os.path.join(os.path.dirname(file), name), os.path.basename(file), name}:
            paths_of.setdefault(key, []).append(file)
    exact = set(files)
    taken: dict[str, Row] = {}
    pictures: list[Picture] = []
    problems: list[str] = []
    for row in rows:
        file = row.file
        if os.path.isabs(file):
            file = os.path.relpath(file, os.path.abspath(root))
        found = [file] if file in exact else paths_of.get(file, [])
        if len(found) > 1:
            problems.append(
                f'{row.file}: has a label, and several pictures are of this name '
                f'({found[0]}, {found[1]}); name its path below {root}'
            )
        elif not found:
            problems.append(
                f'{row.file}: has a label, but there is no such picture below {root}; '
                'mend the name or remove the line'
            )
        elif found[0] in taken:
            problems.append(
                f'{row.file}: has two labels, the other as {taken[found[0]].file}; '
                'remove one of the lines'
            )
        else:
            taken[found[0]] = row
            source = os.path.join(root, found[0])
            indices = {
                classes.foreground.index(label) for label in row.labels if label != BACKGROUND
            }
            named_by = found[0] if names == 'path' else ''
            name = picture_name(data_folder.path_as_name(named_by) or source)
            pictures.append(Picture(name, source, tuple(sorted(indices)), named_by))
    unlabelled = [file for file in files if file not in taken]
    return pictures, problems, unlabelled


def check(
    picture: Picture, masks: str | None, classes: ClassSet, colours: str = MASK_COLOURS[0]
) -> tuple[str, str, str]:
    """Read a picture and its mask.

    Args:
        picture: the picture.
        masks: the folder of masks; None: there are none.
        classes: the classes that a mask may hold.
        colours: one of MASK_COLOURS, how masks are read.
    Returns:
        The name of the picture, why it cannot be used, and why its mask cannot; '' if they can.
    """
    problem = data_folder.picture_problem(picture)
    if problem or not masks:
        return picture.name, problem, ''
    path = mask_path(masks, picture)
    if not path:
        return picture.name, '', ''
    try:
        mask = read_mask(path, classes, colours)
        check_size(path, mask.shape, image_size(picture.source))
    except UserError as error:
        return picture.name, '', str(error)
    return picture.name, '', ''


def fits_both(picture: Picture) -> bool:
    """Whether the size of a mask does not tell if it was drawn on the turned picture.

    So it is where the EXIF orientation turns a picture by 180°, mirrors it, or turns a square one.
    """
    if not is_turned(picture.source):
        return False
    return image_size(picture.source) == stored_size(picture.source)


def mask_path(masks: str, picture: Picture) -> str:
    """Path of the mask of a picture in --masks; '' where it has none.

    That of a picture that is named by its path, cat/001.jpg, is cat/001.png or else cat_001.png.
    """
    names = [picture.name]
    if picture.named_by:
        folder = os.path.dirname(picture.named_by)
        names.insert(0, os.path.join(folder, picture_name(picture.named_by)))
    for name in names:
        path = os.path.join(masks, f'{name}.png')
        if os.path.exists(path):
            return path
    return ''


# ---------------------------------------------------------------- the command


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.data.add_argument('--images', required=True, help='folder of the pictures')
    labels = parser.data.add_mutually_exclusive_group(required=True)
    labels.add_argument('--labels', metavar='FILE.csv', help='table of labels')
    labels.add_argument(
        '--by_folder',
        action='store_true',
        help='the label of a picture is the name of its folder in --images',
    )
    parser.data.add_argument(
        '--separator', default=';', help='what separates the labels of a picture in the table'
    )
    parser.data.add_argument(
        '--classes_txt',
        metavar='FILE',
        help='file with the classes, one a line, which decides their order (default: the order of '
        "the table's columns, or the alphabet)",
    )
    parser.data.add_argument(
        '--names',
        choices=('file', 'path'),
        default='file',
        help='what a picture is named by: its file, or its path below --images with _ for /, which '
        'tells files of one name in two folders apart',
    )
    parser.data.add_argument('--masks', help='folder of ground-truth masks, for scoring only')
    command_line.add_mask_colours_flag(parser)
    data_folder.add_flags(parser)
    args = parser.parse_args()
    if not args.separator.strip():
        parser.error('--separator must not be empty')
    return args


def main(args: argparse.Namespace) -> None:
    need_folder(args.images, 'give the folder of your pictures as --images')
    data_folder.refuse_inside(args.out, args.images)
    if args.masks:
        need_folder(args.masks, 'give the folder of the masks as --masks, or leave it out')
    files = find_pictures(args.images)
    if args.masks:
        files = outside(args.masks, args.images, files)
    if not files:
        raise UserError(f'{args.images}: holds no picture ({", ".join(ENDINGS)}); check --images')
    if args.by_folder:
        rows = rows_of_folders(files)
        columns: list[str] = []
    else:
        rows, columns = read_table(args.labels, args.separator)
    classes = class_set_of(rows, columns, args.classes_txt)
    pictures, problems, unlabelled = match(rows, files, args.images, classes, args.names)
    fix = 'rename one of them'
    if args.names == 'file':
        fix += ', or name pictures by their path with --names path'
    data_folder.refuse_same_names(pictures, fix)

    settings = settings_of(args, classes, rows, unlabelled)
    # before the pictures are read, which takes long
    picture_files = [picture.file for picture in pictures]
    sources = [picture.source for picture in pictures]
    data_folder.check_claim(args.out, settings, picture_files, args.overwrite, sources)
    bad, bad_masks = check_all(args, pictures, classes)
    problems += [problem for problem in (*bad.values(), *bad_masks.values()) if problem]
    good = [picture for picture in pictures if picture.name not in bad]
    masks = masks_of(args.masks, good, bad_masks)
    need_a_class(list(masks.values()), classes, f'--masks {args.masks}', args.mask_colours)
    lists = data_folder.draw_lists(good, set(masks), args.val, args.seed)
    if not lists.train_aug and not problems:
        raise UserError('the list train would be empty; label more pictures or use a lower --val')
    mask_files = mask_files_of(masks)
    outputs = outputs_of(good, mask_files, lists, unlabelled)
    data_folder.check_claim(args.out, settings, outputs, args.overwrite, masks.values())
    data_folder.report_bad(args.out, problems, args.skip_bad)
    if not lists.train_aug:
        raise UserError('no picture is left for the list train; see bad_files.txt')

    with data_folder.claimed(args.out, settings, outputs, args.overwrite):
        source_of = {picture.file: picture.source for picture in good}
        if args.mask_colours == MASK_COLOURS[0]:
            source_of |= mask_files
        else:
            write_ids(mask_files, args.out, classes, args.mask_colours)
        desc = 'copy' if args.copy else 'link'
        for file in progress(source_of, desc=desc, unit='file'):
            data_folder.place(source_of[file], os.path.join(args.out, file), args.copy)
        data_folder.write_lists(args.out, classes, good, lists)
        if unlabelled:
            text = '\n'.join(unlabelled) + '\n'
            text = text.encode('utf-8', 'backslashreplace').decode('utf-8')
            write_text(os.path.join(args.out, UNLABELLED), text)

    data_folder.report(classes, good, lists, args.out)
    report_rest(args, len(good), len(masks), unlabelled)
    turned = [picture.file for picture in good if picture.name in masks and fits_both(picture)]
    if turned:
        print(
            f'{len(turned)} pictures with masks are turned by their EXIF orientation and keep '
            f'their size, e.g. {turned[0]}; make sure that their masks were drawn on the turned '
            'picture'
        )


def settings_of(
    args: argparse.Namespace, classes: ClassSet, rows: list[Row], unlabelled: list[str]
) -> dict:
    """The settings in the manifest."""
    settings = data_folder.common_settings(args, 'from_folder')
    settings['names'] = args.names
    settings['masks'] = os.path.abspath(args.masks) if args.masks else None
    settings['classes'] = list(classes.foreground)
    if args.mask_colours != MASK_COLOURS[0]:
        settings['mask_colours'] = args.mask_colours
    labels = sorted([row.file, *sorted(row.labels)] for row in rows)
    settings['labels'] = data_folder.digest([labels, unlabelled])
    return settings


def check_all(
    args: argparse.Namespace, pictures: list[Picture], classes: ClassSet
) -> tuple[dict[str, str], dict[str, str]]:
    """{name: problem} of the pictures that cannot be used, and of the masks."""
    function = functools.partial(
        check, masks=args.masks, classes=classes, colours=args.mask_colours
    )
    results = pool_map(function, pictures, args.jobs)
    bad: dict[str, str] = {}
    bad_masks: dict[str, str] = {}
    for name, problem, mask_problem in progress(results, total=len(pictures), desc='check'):
        if problem:
            bad[name] = problem
        if mask_problem:
            bad_masks[name] = mask_problem
    return bad, bad_masks


def masks_of(
    masks: str | None, pictures: list[Picture], bad_masks: dict[str, str]
) -> dict[str, str]:
    """{name of a picture: path of its mask in --masks} of all pictures with a usable mask."""
    if not masks:
        return {}
    sources: dict[str, str] = {}
    for picture in pictures:
        source = mask_path(masks, picture)
        if source and picture.name not in bad_masks:
            sources[picture.name] = source
    return sources


def mask_files_of(masks: dict[str, str]) -> dict[str, str]:
    """{path below the data folder: its source} of all masks; arguments as `masks_of` returns."""
    files: dict[str, str] = {}
    for name, source in masks.items():
        for folder in MASKS:
            files[f'{folder}/{name}.png'] = source
    return files


def write_ids(mask_files: dict[str, str], out: str, classes: ClassSet, colours: str) -> None:
    """Write masks that are read by their colours with class ids, which all stages read.

    Args:
        mask_files: as `mask_files_of` returns.
        out: the data folder.
        classes: those of the masks.
        colours: one of MASK_COLOURS.
    """
    for file, source in progress(mask_files.items(), desc='masks', unit='file'):
        write_mask(os.path.join(out, file), read_mask(source, classes, colours))


def outputs_of(
    pictures: list[Picture],
    mask_files: dict[str, str],
    lists: Lists,
    unlabelled: list[str],
) -> list[str]:
    """Paths below the data folder of all files that are to be written."""
    outputs = [picture.file for picture in pictures]
    outputs += [*mask_files, *data_folder.text_files(lists)]
    if unlabelled:
        outputs.append(UNLABELLED)
    return outputs


def report_rest(args: argparse.Namespace, pictures: int, masks: int, unlabelled: list[str]) -> None:
    """Print what the table of classes does not say."""
    if args.masks:
        print(f'{masks} of {pictures} pictures have a mask')
    if unlabelled:
        print(
            f'{len(unlabelled)} pictures without a label were left out: '
            f'see {os.path.join(args.out, UNLABELLED)}'
        )


if __name__ == '__main__':
    command_line.run(main, parse_args)
