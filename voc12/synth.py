"""A generated data set in VOC 2012's layout, to see every stage work without downloading one.

    python -m voc12.synth --out synth --images 800 --seed 0
    python -m voc12.synth --out synth3 --images 60 --classes 3

Writes into --out, for --images training pictures and --val validation pictures:
    JPEGImages/<name>.jpg                the pictures
    SegmentationClass/<name>.png         their masks, with 255 along the outlines of objects
    SegmentationClassAug/<name>.png      the same masks
    SALImages/<name>.png                 saliency maps for EPS: the objects, blurred
    ImageSets/Segmentation/{train,train_aug,trainaug,val}.txt
    lists/{train,train_aug,val}.txt      what python -m voc12.make_lists makes of the folder
    lists/cls_labels.npy                 likewise
    classes.txt                          unless --classes is 20

The stages then take these flags:

    --voc12_root synth --train_list synth/lists/train_aug.txt \\
        --cls_labels synth/lists/cls_labels.npy --saliency_root synth/SALImages

A picture depends on --classes, --seed and its name only, so more --images never change the others.

The task it poses: two fifths of an object show the pattern of its class, and a
classifier learns this pattern. The rest is the object's body, which also shows between the patches
of the pattern. The body's colour and texture say little about the class, because several classes
share them. Clutter in the background has the same colours and textures as the bodies, but fainter,
and has neither shading nor outline. So a CAM finds the pattern, and the strong texture around it
belongs to the object.
"""

import argparse
import contextlib
import functools
import os
import re

import cv2
import numpy as np
from PIL import Image

from tool.files.class_sets import FILE as CLASS_FILE
from tool.files.class_sets import write_classes
from tool.files.folder_locks import FolderLocks
from tool.files.manifest import claim_all, fingerprint
from tool.files.pictures import is_whole, write_mask, write_picture
from tool.method.class_set import ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.pool import pool_map
from tool.run.progress import progress
from voc12 import make_lists
from voc12.classes import IGNORE, NUM_FOREGROUND
from voc12.data_folder import Lists, write_image_sets
from voc12.layout import MASKS

VERSION = 5  # version of the pictures, a part of the manifest: raise it when pictures change
SPLITS = ('train', 'val')
# folders with a file for every picture, and the extension of these files
OUTPUTS = (
    ('JPEGImages', '.jpg'),
    ('SegmentationClass', '.png'),
    ('SegmentationClassAug', '.png'),
    ('SALImages', '.png'),
)

# Class c has pattern c % 5 in a pair of colours, one dark and one light. 5 patterns in 20 pairs of
# colours make 100 different classes.
MOST_CLASSES = 100
PATTERNS = ('stripes', 'dots', 'checker', 'rings', 'zigzag')
DARK = np.float32([(200, 40, 40), (30, 50, 160), (20, 105, 55), (40, 30, 45), (115, 30, 140)])
LIGHT = np.float32([(240, 215, 60), (240, 240, 235), (130, 215, 235), (245, 160, 190)])


def colour_pair(class_index: int) -> np.ndarray:
    """The dark and the light colour of a class 0…99, float32 [2, 3]."""
    light = class_index % 20 // 5
    dark = (class_index + light + class_index // 20) % 5
    return np.stack([DARK[dark], LIGHT[light]])


PAIRS = np.stack([colour_pair(class_index) for class_index in range(MOST_CLASSES)])
# A material is a colour and one of four textures. Bodies and clutter draw from the same materials.
COLOURS = np.float32(
    [
        (151, 98, 64),
        (98, 114, 70),
        (126, 128, 140),
        (184, 151, 103),
        (81, 81, 103),
        (137, 109, 123),
        (117, 142, 128),
        (162, 126, 81),
    ]
)
# Means of the six backgrounds; they lie between the colours above.
TINTS = np.float32(
    [
        (122, 132, 146),
        (116, 128, 96),
        (152, 132, 102),
        (132, 112, 108),
        (100, 104, 112),
        (140, 136, 124),
    ]
)


# ---------------------------------------------------------------- shapes


def outline(rng: np.random.Generator, area: float) -> np.ndarray:
    """A random closed outline around (0, 0) that encloses `area` pixels.

    It is a superellipse whose radius is modulated by a few harmonics. One in four is a polygon of
    6 to 9 points.

    Returns:
        float32 [points, 2], each point as (x, y).
    """
    is_polygon = rng.random() < 0.25
    if is_polygon:
        points = rng.integers(6, 10)
        angle = np.sort(rng.uniform(0, 2 * np.pi, points))
    else:
        angle = np.arange(64) * (2 * np.pi / 64)
    power = rng.uniform(1.7, 4)
    radius = (np.abs(np.cos(angle)) ** power + np.abs(np.sin(angle)) ** power) ** (-1 / power)

    order = np.arange(2, 6)[:, None]  # of the harmonics
    amplitude = rng.normal(0, 0.32, (4, 1)) / order
    phase = rng.uniform(0, 2 * np.pi, (4, 1))
    waves = amplitude * np.cos(order * angle + phase)
    path = np.exp(1j * angle) * radius * np.maximum(1 + waves.sum(0), 0.4)  # x + iy

    stretch = np.exp(rng.uniform(-0.3, 0.3))
    turn = np.exp(1j * rng.uniform(0, 2 * np.pi))
    path = (path.real * stretch + 1j * path.imag / stretch) * turn

    next_point = np.append(path[1:], path[0])
    enclosed = abs((path.conj() * next_point).imag.sum()) / 2  # the shoelace formula
    path *= np.sqrt(area / max(enclosed, 0.2))
    return np.stack([path.real, path.imag], 1).astype(np.float32)


def fill(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The inside of an outline, uint8 [H, W] of 0 and 1."""
    polygon = np.round(points).astype(np.int32)
    return cv2.fillPoly(np.zeros(shape, np.uint8), [polygon], 1)


def around(mask: np.ndarray, margin: int = 8) -> tuple[slice, slice]:
    """The window (rows, columns) of all pixels of a mask uint8 [H, W] that are not 0.

    A margin of pixels around it leaves room for soft edges. Of an empty mask only the margin is
    left.
    """
    x, y, width, height = cv2.boundingRect(mask)
    rows = slice(max(y - margin, 0), y + height + margin)
    columns = slice(max(x - margin, 0), x + width + margin)
    return rows, columns


def place_objects(rng: np.random.Generator, shape: tuple[int, int], count: int) -> np.ndarray:
    """Random objects on an empty picture, drawn again until every one of them is well visible.

    Returns:
        uint8 [H, W]: 0 for the background and 1…count for the objects. A later object covers
        earlier ones.
    """
    height, width = shape
    while True:
        shares = rng.uniform(0.6, 1.4, count)
        areas = rng.uniform(0.2, 0.6) * height * width * shares / shares.sum()
        objects = np.zeros(shape, np.uint8)
        for number, area in enumerate(areas, 1):
            centre = rng.uniform(0.15, 0.85, 2) * (width, height)
            inside = fill(outline(rng, area) + centre, shape)
            objects[inside > 0] = number
        visible = np.bincount(objects.ravel(), minlength=count + 1)[1:]  # pixels of each object
        share = visible.sum() / objects.size
        if (visible > 0.7 * areas).all() and 0.17 < share < 0.58:
            return objects


def cut_part(rng: np.random.Generator, visible: np.ndarray) -> np.ndarray:
    """The part of an object that shows the pattern of its class, bool [H, W].

    It takes the 70–85 % of the visible pixels that are nearest to a random anchor, and of these
    one half, in patches. The body shows between the patches.

    Args:
        visible: bool [H, W], the pixels of the object.
    """
    y, x = np.nonzero(visible)
    size = np.sqrt(len(x))
    direction = rng.uniform(0, 2 * np.pi)
    away = size * rng.uniform(0.2, 1)
    anchor_x = x.mean() + away * np.cos(direction)
    anchor_y = y.mean() + away * np.sin(direction)
    wobble = noise(rng, visible.shape, size / 3)[y, x] * size * 0.12
    distance = np.hypot(x - anchor_x, y - anchor_y) + wobble
    near = distance < np.quantile(distance, rng.uniform(0.7, 0.85))
    patches = noise(rng, visible.shape, 9)[y, x]
    part = np.zeros(visible.shape, bool)
    part[y, x] = near & (patches > np.quantile(patches[near], 0.5))
    return part


# ---------------------------------------------------------------- textures


def noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    grain: float,
    stretch: float = 1,
    channels: int = 1,
) -> np.ndarray:
    """Smooth noise of about unit variance, float32 [H, W] or, with channels > 1, [H, W, channels].

    Args:
        grain: height of its blobs in pixels.
        stretch: the blobs are this many times as wide as high.
    """
    height, width = shape
    rows = max(int(height / grain) + 1, 2)
    columns = max(int(width / (grain * stretch)) + 1, 2)
    small = rng.standard_normal((rows, columns, channels), np.float32)
    # the interpolation takes away some variance, the factor gives it back
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(1.3)


def body_texture(rng: np.random.Generator, kind: int, shape: tuple[int, int]) -> np.ndarray:
    """Variation of lightness of a material in grey levels, float32 [H, W, 1].

    Args:
        kind: 0 mottled, 1 streaky, 2 grainy, 3 spotted.
    """
    if kind == 0:
        texture = 3 * noise(rng, shape, 9) + 2 * noise(rng, shape, 4)
    elif kind == 1:
        horizontal = rng.random() < 0.5
        if horizontal:
            streaks = noise(rng, shape, 2.5, 5)
        else:
            streaks = noise(rng, shape, 12.5, 0.2)
        texture = 4 * streaks
    elif kind == 2:
        texture = 4 * noise(rng, shape, 2)
    else:
        texture = 4 * np.tanh(2.5 * noise(rng, shape, 7)) + noise(rng, shape, 2)
    return texture[..., None]


def class_pattern(rng: np.random.Generator, class_id: int, part: np.ndarray) -> np.ndarray:
    """The pattern of a class in its two colours, float32 [H, W, 3].

    Args:
        class_id: the foreground class, 0…K−1.
        part: bool [H, W], the pixels that show the pattern; it is centred on them.
    """
    y, x = np.indices(part.shape, np.float32)
    x = x - x[part].mean() + 1.2 * noise(rng, part.shape, 16)
    y = y - y[part].mean() + 1.2 * noise(rng, part.shape, 16)
    # rotated coordinates, in which one period of the pattern is 2π
    turn = rng.uniform(0, np.pi)
    step = 2 * np.pi / rng.uniform(9, 12)
    u = step * (np.cos(turn) * x + np.sin(turn) * y)
    v = step * (np.cos(turn) * y - np.sin(turn) * x)
    name = PATTERNS[class_id % 5]
    if name == 'stripes':
        wave = np.sin(u)
    elif name == 'dots':
        wave = np.cos(u) + np.cos(v) - 0.7
    elif name == 'checker':
        wave = 2 * np.sin(u / 1.4) * np.sin(v / 1.4)
    elif name == 'rings':
        wave = np.sin(np.hypot(u, v))
    else:  # zigzag
        wave = np.sin(u + 2 * np.abs((v / 9) % 2 - 1) * 2.6)
    mix = (0.5 + 0.5 * np.tanh(3 * wave))[..., None]
    first, second = PAIRS[class_id] + rng.normal(0, 9, (2, 3)).astype(np.float32)
    return first + mix * (second - first)


def paint(image: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    """Blend colours [H, W, 3] into an image in place, with opacity alpha [H, W] in [0, 1]."""
    image += alpha[..., None] * (colour - image)


def soft(mask: np.ndarray, sigma: float) -> np.ndarray:
    """A mask of 0 and 1 with soft edges, float32 [H, W]."""
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)


# ---------------------------------------------------------------- pictures


def pick_material(rng: np.random.Generator, class_id: int) -> int:
    """A body material: in seven of ten cases one of the class's two usual ones, else any."""
    if rng.random() < 0.7:
        second = rng.random() < 0.5
        return (class_id * 3 + (5 if second else 0)) % len(COLOURS)
    return int(rng.integers(len(COLOURS)))


def background(
    rng: np.random.Generator, shape: tuple[int, int], class_id: int, colours: list[np.ndarray]
) -> np.ndarray:
    """A background with clutter, float32 [H, W, 3]: about 1/f noise around a tint.

    In six of ten cases the tint is the usual one of the class. One in eight pieces of clutter has
    the colour of an object's body, with any texture.

    Args:
        class_id: foreground class of the first object, 0…K−1.
        colours: colours [3] of the objects' bodies.
    """
    height, width = shape
    usual_tint = rng.random() < 0.6
    tint = class_id % len(TINTS) if usual_tint else rng.integers(len(TINTS))
    image = TINTS[tint] + 5 * noise(rng, shape, 60, channels=3)
    lightness = np.zeros(shape, np.float32)
    for strength, grain in ((11, 60), (9, 25), (6, 12), (5, 5), (4, 2)):
        lightness += strength * noise(rng, shape, grain)
    image += lightness[..., None]
    for _ in range(rng.integers(8, 13)):
        points = outline(rng, rng.uniform(0.01, 0.08) * height * width)
        centre = rng.uniform(0, 1, 2) * (width, height)
        inside = fill(points + centre, shape)
        window = around(inside)
        palette = colours if rng.random() < 0.12 else COLOURS
        colour = palette[rng.integers(len(palette))]
        colour = colour + rng.normal(0, 7, 3).astype(np.float32)
        alpha = soft(inside[window], rng.uniform(0.7, 2.5))
        texture = body_texture(rng, int(rng.integers(4)), alpha.shape)
        paint(image[window], alpha, colour + texture)
    return image


def draw_objects(
    rng: np.random.Generator,
    image: np.ndarray,
    objects: np.ndarray,
    classes: list[int],
    materials: list[int],
    colours: list[np.ndarray],
) -> None:
    """Paint objects into an image in place.

    Args:
        image: float32 [H, W, 3].
        objects: uint8 [H, W] of `place_objects`.
        classes, materials, colours: foreground class 0…K−1, material and colour of every object.
    """
    for number, (class_id, material, colour) in enumerate(zip(classes, materials, colours), 1):
        window = around((objects == number).astype(np.uint8))
        visible = objects[window] == number
        depth = cv2.distanceTransform(visible.astype(np.uint8), cv2.DIST_L2, 3)
        # a body is darker towards its outline, clutter is not
        rim = (np.clip(1 - depth / (0.5 * depth.max()), 0, 1) ** 2)[..., None]
        alpha = soft(visible, 0.7)
        # the texture is stronger than the clutter's, which makes it visible but does not help a CRF
        texture = 3 * body_texture(rng, material % 4, visible.shape)
        paint(image[window], alpha, colour + texture - 12 * rim)
        part = cut_part(rng, visible)
        pattern = class_pattern(rng, class_id, part) * (1 - 0.25 * rim)
        paint(image[window], soft(part, 0.8) * alpha, pattern)


def scene(
    rng: np.random.Generator, num_foreground: int = NUM_FOREGROUND
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """One random picture.

    Returns:
        The picture uint8 [H, W, 3], the objects of `place_objects`, and the class 0…K−1 of each.
    """
    height, width = rng.integers(160, 201, 2).tolist()
    shape = (height, width)
    count = int(rng.choice((1, 2, 3), p=(0.4, 0.4, 0.2)))
    classes = rng.integers(0, num_foreground, count).tolist()
    if count > 1 and rng.random() < 0.15:
        classes[1] = classes[0]
    objects = place_objects(rng, shape, count)
    materials = [pick_material(rng, class_id) for class_id in classes]
    colours = [COLOURS[material] + rng.normal(0, 7, 3).astype(np.float32) for material in materials]
    image = background(rng, shape, classes[0], colours)
    draw_objects(rng, image, objects, classes, materials, colours)
    image = photograph(rng, image)
    return np.clip(np.round(image), 0, 255).astype(np.uint8), objects, classes


def photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """An image float32 [H, W, 3] in light from one side, slightly blurred, with sensor noise."""
    height, width = image.shape[:2]
    direction = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(0, 0.12)
    y, x = np.indices((height, width), np.float32)
    slope = np.cos(direction) * (x / width - 0.5) + np.sin(direction) * (y / height - 0.5)
    exposure = rng.uniform(0.88, 1.12)
    shade = exposure * (1 + 2 * light * slope)
    image = (image * shade[..., None]).astype(np.float32)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.7))
    return image + rng.uniform(1, 2.5) * rng.standard_normal(image.shape, np.float32)


def make_picture(out: str, seed: int, name: str, num_foreground: int) -> None:
    """Write the files of one picture.

    Args:
        out: the data folder.
        seed: seed of the data set.
        name: e.g. 'train_000007'.
        num_foreground: K. The files depend on it, on the seed and on the name only.
    """
    cv2.setNumThreads(1)  # each process of the pool draws pictures of its own
    split, index = name.split('_')
    rng = np.random.default_rng((seed, SPLITS.index(split), int(index)))
    image, objects, classes = scene(rng, num_foreground)

    value_of_object = np.uint8([0] + [class_id + 1 for class_id in classes])
    filled = value_of_object[objects]
    gradient = cv2.morphologyEx(objects, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    mask = np.where(gradient > 0, np.uint8(IGNORE), filled)
    for folder in MASKS:
        write_mask(os.path.join(out, folder, f'{name}.png'), mask)

    saliency = cv2.GaussianBlur((filled > 0).astype(np.uint8) * 255, (0, 0), 3)
    write_picture(os.path.join(out, 'SALImages', f'{name}.png'), Image.fromarray(saliency))
    write_picture(os.path.join(out, 'JPEGImages', f'{name}.jpg'), Image.fromarray(image), 90)


def write_class_file(path: str, num_foreground: int) -> None:
    """Write a classes.txt with the names class01, class02, …, unless there are as many as VOC's."""
    if num_foreground == NUM_FOREGROUND:
        # a run with another number may have left one
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    else:
        names = (f'class{number:02d}' for number in range(1, num_foreground + 1))
        write_classes(path, ClassSet.of(names))


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.output.add_argument(
        '--out',
        required=True,
        help="folder to write; the stages take it in place of the devkit's VOC2012",
    )
    parser.data.add_argument(
        '--images',
        type=command_line.number(int, 1),
        default=800,
        help='training pictures (train and train_aug)',
    )
    parser.data.add_argument(
        '--val',
        type=command_line.number(int, 1),
        help='validation pictures (default: a quarter of --images)',
    )
    parser.data.add_argument(
        '--classes',
        type=command_line.number(int, 1, MOST_CLASSES),
        default=NUM_FOREGROUND,
        help="number of foreground classes: 20 are VOC's; with another number classes.txt names "
        'them class01, class02, …',
    )
    parser.run.add_argument(
        '--seed', type=command_line.number(int, 0), default=0, help='decides every random choice'
    )
    command_line.add_jobs_flag(parser, 'drawing')
    parser.output.add_argument(
        '--overwrite',
        action='store_true',
        help='replace pictures that were made with other settings',
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    val = args.val or max(1, args.images // 4)
    train_names = [f'train_{index:06d}' for index in range(args.images)]
    val_names = [f'val_{index:06d}' for index in range(val)]
    settings = {
        'stage': 'synth',
        'version': VERSION,
        'seed': args.seed,
        'train': args.images,
        'val': val,
    }
    if args.classes != NUM_FOREGROUND:
        settings['classes'] = args.classes

    refuse_devkit(args.out)
    outputs = [(os.path.join(args.out, folder), extension) for folder, extension in OUTPUTS]
    png_folders = [folder for folder, extension in outputs if extension == '.png']
    with FolderLocks(png_folders):
        claim_all([(folder, settings) for folder in png_folders], args.overwrite, is_own)
        draw_all(args, train_names, val_names, outputs)


def is_own(folder: str, file: str) -> bool:
    """Whether this command makes files of this name."""
    return re.fullmatch(r'(train|val)_\d{6,}\.png', file) is not None


def draw_all(
    args: argparse.Namespace,
    train_names: list[str],
    val_names: list[str],
    outputs: list[tuple[str, str]],
) -> None:
    """Write the pictures that are missing, the classes, and the lists.

    Args:
        args: the command line.
        train_names, val_names: names of the pictures.
        outputs: (folder, extension) of each kind of file.
    """
    write_class_file(os.path.join(args.out, CLASS_FILE), args.classes)

    todo = []
    for name in train_names + val_names:
        paths = [os.path.join(folder, name + extension) for folder, extension in outputs]
        if not all(map(is_whole, paths)):
            todo.append(name)
    draw = functools.partial(make_picture, args.out, args.seed, num_foreground=args.classes)
    for _ in progress(pool_map(draw, todo, args.jobs), total=len(todo), desc='draw'):
        pass

    write_image_sets(args.out, Lists(train_names, val_names, train_aug=train_names))
    lists = os.path.join(args.out, 'lists')
    make_lists.make(args.out, lists, args.jobs)


def refuse_devkit(out: str) -> None:
    """Stop before --overwrite could delete the masks of a real devkit, which have no manifest.

    Raises:
        UserError: the folder has masks but no manifest of this module.
    """
    masks = os.path.join(out, MASKS[0])
    if os.path.isdir(masks) and os.listdir(masks) and not fingerprint(masks):
        raise UserError(
            f'{masks}: holds files that voc12.synth did not write; choose another folder as --out'
        )


if __name__ == '__main__':
    command_line.run(main, parse_args)
