"""A contact sheet: a few pictures and the outputs of the stages for them, side by side.

    python -m tool.contact_sheet --voc12_root VOC2012 --list voc12/train.txt --cam_dir runs/cam \\
        --column seed=runs/cam_crf walk=runs/rw --out runs/sheet.jpg

Reads  the pictures, the CAMs of --cam_dir (.npy, shown as a heat map of the strongest class) and
       the masks of every --column folder (.png). Their classes are those of --voc12_root.
Writes the sheet, --out, and the names of its pictures, --out_list. Without --out only the names are
       written, for example to run a stage on these pictures first.
"""

import argparse
import math
import os

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tool.files.lists import read_list, spaced, write_list
from tool.files.maps import read_cam
from tool.files.overlays import heat_map, legend_ids
from tool.files.pictures import check_size, read_image, read_mask, write_picture
from tool.files.places import keep_apart
from tool.files.stage_of_input import CAMS, need_stage
from tool.method.class_set import ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from voc12.layout import check_files, check_images, class_set, data_places, image_path

# sizes in pixels
WIDTH = 200  # of a cell
GAP = 6  # between cells
TITLE = 24  # height of a line of text
LEGEND = 130  # width of an entry of the legend


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.data.add_argument('--list', required=True, help='list of pictures to choose from')
    parser.output.add_argument(
        '--rows',
        type=command_line.number(int, 1),
        default=8,
        help='number of pictures to show, evenly spaced over the list',
    )
    parser.data.add_argument('--voc12_root', default='VOC2012', help="the devkit's VOC2012 folder")
    parser.data.add_argument(
        '--cam_dir', help='folder of CAMs <name>.npy, for a column of heat maps'
    )
    parser.data.add_argument(
        '--column',
        nargs='+',
        action='extend',
        default=[],
        metavar='TITLE=DIR',
        help='a column titled TITLE with the masks DIR/<name>.png',
    )
    parser.output.add_argument('--note', default='', help='a line of text below the sheet')
    parser.output.add_argument('--out', help='file for the sheet (.png, .jpg)')
    parser.output.add_argument('--out_list', help='file for the names of the pictures, one a line')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    if not (args.out or args.out_list):
        raise UserError('nothing to write: give --out or --out_list')
    columns = read_columns(args.column)
    keep_apart(
        [('--out', args.out), ('--out_list', args.out_list)],
        [
            ('--list', args.list),
            ('--cam_dir', args.cam_dir),
            *[('--column', folder) for folder in columns.values()],
            *data_places(args.voc12_root),
        ],
    )
    names = spaced(read_list(args.list), args.rows)
    if args.out_list:
        write_list(args.out_list, names)
        print(f'{len(names)} names of {args.list}: {args.out_list}')
    if not args.out:
        return
    check_inputs(args, names, columns)
    classes = class_set(args.voc12_root)
    rows = []
    shown: set[int] = set()
    for name in names:
        cells, class_ids = picture_cells(name, args.voc12_root, args.cam_dir, columns, classes)
        rows.append(cells)
        shown |= class_ids
    titles = ['picture', *columns]
    if args.cam_dir:
        titles.insert(1, 'CAM')
    image = sheet(titles, rows, shown, args.note, classes)
    write_picture(args.out, image)
    print(f'{len(names)} pictures: {args.out}')


def read_columns(texts: list[str]) -> dict[str, str]:
    """{title: folder} of the values TITLE=DIR of --column.

    Raises:
        UserError: a value has another form.
    """
    columns = {}
    for text in texts:
        title, equals, folder = text.partition('=')
        if not (title and equals and folder):
            raise UserError(f'--column {text}: TITLE=DIR is expected')
        columns[title] = folder
    return columns


def check_inputs(args: argparse.Namespace, names: list[str], columns: dict[str, str]) -> None:
    """Check that the pictures, their masks and their CAMs are there.

    Raises:
        UserError: one of them is missing.
    """
    fix = f'check the folder and {args.list}'
    check_images(args.voc12_root, names)
    for folder in columns.values():
        check_files(folder, names, '.png', fix)
    if args.cam_dir:
        check_files(args.cam_dir, names, '.npy', fix)
        need_stage(args.cam_dir, CAMS, '--cam_dir')


def picture_cells(
    name: str, root: str, cam_dir: str | None, columns: dict[str, str], classes: ClassSet
) -> tuple[list[Image.Image], set[int]]:
    """One row of the sheet.

    Args:
        name: the picture.
        root: the VOC2012 folder.
        cam_dir: folder of CAMs, or None.
        columns: {title: folder of masks}.
        classes: classes of the CAMs and masks.
    Returns:
        The cells, all WIDTH pixels wide, and the class ids in the masks.
    """
    picture = np.asarray(read_image(image_path(root, name)))
    height, width = picture.shape[:2]
    size = (WIDTH, max(1, round(height * WIDTH / width)))

    def cell(image: np.ndarray, filter: Image.Resampling) -> Image.Image:
        return Image.fromarray(image).resize(size, filter)

    cells = [cell(picture, Image.Resampling.BILINEAR)]
    if cam_dir:
        cam = read_cam(os.path.join(cam_dir, name + '.npy'), classes, (height, width))
        cells.append(cell(heat_map(picture, cam), Image.Resampling.BILINEAR))
    class_ids: set[int] = set()
    for folder in columns.values():
        path = os.path.join(folder, name + '.png')
        mask = read_mask(path, classes)
        check_size(path, mask.shape, (height, width))
        class_ids.update(np.unique(mask).tolist())
        cells.append(cell(classes.colour_map[mask], Image.Resampling.NEAREST))
    return cells, class_ids


def sheet(
    titles: list[str],
    rows: list[list[Image.Image]],
    shown: set[int],
    note: str,
    classes: ClassSet,
) -> Image.Image:
    """The sheet: rows of cells under their titles, and below them a legend of colours and a note.

    Args:
        titles: one for every column.
        rows: cells of the pictures, as `picture_cells` gives them.
        shown: class ids for the legend.
        note: a line of text, '' for none.
        classes: names and colours of the class ids.
    """
    legend = legend_ids(shown)
    width = GAP + len(titles) * (WIDTH + GAP)
    entries_per_line = max(1, width // LEGEND)
    legend_lines = math.ceil(len(legend) / entries_per_line)
    rows_height = sum(row[0].height + GAP for row in rows)
    note_height = TITLE if note else 0
    height = TITLE + rows_height + legend_lines * TITLE + note_height + GAP

    image = Image.new('RGB', (width, height), 'white')
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(14)
    lefts = [GAP + column * (WIDTH + GAP) for column in range(len(titles))]
    for left, title in zip(lefts, titles):
        draw.text((left, 4), title, 'black', font)
    top = TITLE
    for row in rows:
        for left, cell in zip(lefts, row):
            image.paste(cell, (left, top))
        top += row[0].height + GAP
    for place, class_id in enumerate(legend):
        left = GAP + place % entries_per_line * LEGEND
        line = top + place // entries_per_line * TITLE
        colour = tuple(classes.colour_map[class_id].tolist())
        draw.rectangle((left, line + 5, left + 14, line + 19), colour)
        draw.text((left + 20, line + 4), classes.names[class_id], 'black', font)
    draw.text((GAP, top + legend_lines * TITLE + 4), note, 'black', font)
    return image


if __name__ == '__main__':
    command_line.run(main, parse_args)
