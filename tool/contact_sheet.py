"""What the stages make of a few pictures, side by side.

    python -m tool.contact_sheet --voc12_root VOC2012 --list voc12/train.txt --cam_dir runs/cam \\
        --column seed=runs/cam_crf walk=runs/rw --out runs/sheet.jpg

Reads  the pictures, the CAMs of --cam_dir (.npy, shown as a heat map of the strongest class) and
       the masks of every --column folder (.png); their classes are those of --voc12_root.
Writes one picture, --out; or, with --out_list, only the names it would show, for a stage that is to
be run on them first.
"""

import os

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tool.files.atomic import atomic, write_text
from tool.files.lists import read_list
from tool.files.maps import read_cam
from tool.files.pictures import check_size, image_size, read_image, read_mask
from tool.method.class_set import IGNORE, ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from voc12.layout import check_files, check_images, class_set, image_path

WIDTH, GAP, TITLE = 200, 6, 24  # pixels: a column, between cells, a line of text


def parse_args():
    parser = command_line.Parser(__doc__)
    parser.data.add_argument('--list', required=True, help='pictures to choose from')
    parser.output.add_argument(
        '--rows',
        type=command_line.number(int, 1),
        default=8,
        help='pictures to show, evenly spaced over the list',
    )
    parser.data.add_argument('--voc12_root', default='VOC2012', help="the devkit's VOC2012 folder")
    parser.data.add_argument('--cam_dir', help='CAM .npy files, for a column of heat maps')
    parser.data.add_argument(
        '--column',
        nargs='+',
        action='extend',
        default=[],
        metavar='TITLE=DIR',
        help='a column of masks <name>.png for each',
    )
    parser.output.add_argument('--note', default='', help='a line of text below')
    parser.output.add_argument('--out', help='the sheet (.png, .jpg)')
    parser.output.add_argument('--out_list', help='file for the names of the pictures, one a line')
    return parser.parse_args()


def main(args):
    if not (args.out or args.out_list):
        raise UserError('nothing to write: give --out or --out_list')
    names = spaced(read_list(args.list), args.rows)
    if args.out_list:
        write_text(args.out_list, '\n'.join(names) + '\n')
        print(f'{len(names)} names of {args.list}: {args.out_list}')
    if not args.out:
        return
    columns = {}
    for text in args.column:
        title, equals, folder = text.partition('=')
        if not (title and equals and folder):
            raise UserError(f'--column {text}: TITLE=DIR is expected')
        columns[title] = folder
    check_images(args.voc12_root, names)
    for folder, kind in [(folder, '.png') for folder in columns.values()] + (
        [(args.cam_dir, '.npy')] if args.cam_dir else []
    ):
        check_files(folder, names, kind, f'check the folder and {args.list}')
    classes = class_set(args.voc12_root)
    rows, shown = [], set()
    for name in names:
        cells, ids = picture_cells(name, args.voc12_root, args.cam_dir, columns, classes)
        rows.append(cells)
        shown |= ids
    titles = ['picture', *(['CAM'] if args.cam_dir else []), *columns]
    image = sheet(titles, rows, shown, args.note, classes)
    with atomic(args.out) as temporary:
        image.save(temporary, 'JPEG' if args.out.lower().endswith(('.jpg', '.jpeg')) else 'PNG')
    print(f'{len(names)} pictures: {args.out}')


def spaced(names: list[str], count: int) -> list[str]:
    """`count` of the names (all, if there are no more), evenly spaced."""
    count = min(count, len(names))
    return [names[(2 * i + 1) * len(names) // (2 * count)] for i in range(count)]


def picture_cells(
    name: str, root: str, cam_dir: str | None, columns: dict[str, str], classes: ClassSet
) -> tuple[list[Image.Image], set[int]]:
    """(one row of the sheet, class ids of its masks)."""
    path = image_path(root, name)
    picture, (height, width) = np.asarray(read_image(path)), image_size(path)
    cells, ids = [picture], set()
    if cam_dir:
        cam = read_cam(os.path.join(cam_dir, name + '.npy'), classes, (height, width))
        cells.append(heat_map(picture, cam))
    for folder in columns.values():
        mask_path = os.path.join(folder, name + '.png')
        mask = read_mask(mask_path, classes)
        check_size(mask_path, mask.shape, (height, width))
        ids |= set(np.unique(mask).tolist())
        cells.append(classes.colour_map[mask])
    size = WIDTH, max(1, round(height * WIDTH / width))
    kinds = [Image.Resampling.BILINEAR] * (1 + bool(cam_dir)) + [Image.Resampling.NEAREST] * len(
        columns
    )
    return [Image.fromarray(cell).resize(size, kind) for cell, kind in zip(cells, kinds)], ids


def heat_map(picture: np.ndarray, cam: dict[int, np.ndarray]) -> np.ndarray:
    """The strongest CAM of every pixel, in colours from blue (0) to red (1), over the picture in
    grey: uint8 [H, W, 3]."""
    best = np.max(list(cam.values()), axis=0) if cam else np.zeros(picture.shape[:2], np.float32)
    colours = cv2.applyColorMap((best.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_JET)[
        ..., ::-1
    ]
    grey = picture.mean(2, keepdims=True)
    return (0.5 * grey + 0.5 * colours).astype(np.uint8)


def sheet(
    titles: list[str],
    rows: list[list[Image.Image]],
    shown: set[int],
    note: str,
    classes: ClassSet,
) -> Image.Image:
    """Rows of equally wide cells under their titles, the colours of the class ids that are shown
    and a note below."""
    legend = [key for key in sorted(shown) if key != IGNORE]
    width = GAP + len(titles) * (WIDTH + GAP)
    columns = max(1, width // 130)
    lines = -(-len(legend) // columns)
    height = (
        TITLE
        + sum(row[0].height + GAP for row in rows)
        + lines * TITLE
        + (TITLE if note else 0)
        + GAP
    )
    image = Image.new('RGB', (width, height), 'white')
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    for column, title in enumerate(titles):
        draw.text((GAP + column * (WIDTH + GAP), 4), title, 'black', font)
    top = TITLE
    for row in rows:
        for column, cell in enumerate(row):
            image.paste(cell, (GAP + column * (WIDTH + GAP), top))
        top += row[0].height + GAP
    for place, key in enumerate(legend):
        left, line = GAP + place % columns * 130, top + place // columns * TITLE
        draw.rectangle(
            (left, line + 5, left + 14, line + 19), tuple(classes.colour_map[key].tolist())
        )
        draw.text((left + 20, line + 4), classes.names[key], 'black', font)
    draw.text((GAP, top + lines * TITLE + 4), note, 'black', font)
    return image


if __name__ == '__main__':
    command_line.run(main, parse_args)
