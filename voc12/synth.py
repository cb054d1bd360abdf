"""A generated data set in VOC 2012's layout, to see every stage work without downloading one.

    python -m voc12.synth --out synth --images 800 --seed 0
    python -m voc12.synth --out synth3 --images 60 --classes 3

Writes into --out, for --images training pictures and --val more:
    JPEGImages/<name>.jpg, SegmentationClass/<name>.png and the same in SegmentationClassAug (255
    along the outlines), SALImages/<name>.png (saliency maps for EPS: the objects, blurred),
    ImageSets/Segmentation/{train,train_aug,trainaug,val}.txt, lists/{train,train_aug,val}.txt and
    lists/cls_labels.npy (what python -m voc12.make_lists would make of it), and classes.txt where
    --classes is not 20.
So the stages take --voc12_root synth --train_list synth/lists/train_aug.txt --cls_labels
synth/lists/cls_labels.npy
--saliency_root synth/SALImages. A picture depends on --classes, --seed and its name alone: more
--images never change the others.

The problem it poses: two fifths of an object show the pattern of its class, which a classifier
finds. The rest is a body that also shows between the pattern's patches; its colour and texture say
little of the class, as several share them. Clutter has the same colours and textures, but fainter
ones, and neither shading nor outline. A CAM finds the pattern; the strong texture near it is the
object's.
"""

import argparse
import contextlib
import functools
import os

import cv2
import numpy as np
from PIL import Image

from tool.files.atomic import atomic, write_text
from tool.files.class_sets import FILE as CLASS_FILE
from tool.files.class_sets import write_classes
from tool.files.manifest import claim_all, fingerprint, missing
from tool.files.pictures import write_mask
from tool.method.class_set import ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.pool import pool_map
from tool.run.progress import progress
from voc12 import make_lists
from voc12.classes import IGNORE, NUM_FOREGROUND

VERSION = 5  # of the pictures; part of the manifest
SPLITS = ('train', 'val')
MASKS = ('SegmentationClass', 'SegmentationClassAug')
OUTPUTS = (('JPEGImages', '.jpg'), *((folder, '.png') for folder in (*MASKS, 'SALImages')))

# Class c has pattern c % 5 in colour pair c, one dark and one light: 5 patterns in 20 pairs, so 100
# classes differ.
MOST_CLASSES = 100
PATTERNS = ('stripes', 'dots', 'checker', 'rings', 'zigzag')
DARK = np.float32([(200, 40, 40), (30, 50, 160), (20, 105, 55), (40, 30, 45), (115, 30, 140)])
LIGHT = np.float32([(240, 215, 60), (240, 240, 235), (130, 215, 235), (245, 160, 190)])
PAIRS = np.stack(
    [
        np.stack([DARK[(c + c % 20 // 5 + c // 20) % 5], LIGHT[c % 20 // 5]])
        for c in range(MOST_CLASSES)
    ]
)
# Bodies and clutter draw from the same materials: a colour and one of four textures.
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
    """A random closed outline around (0, 0), float32 [points, 2] as (x, y), that encloses `area`
    pixels.

    A superellipse whose radius is modulated by a few harmonics; every fourth one has few points: a
    polygon.
    """
    points = rng.integers(6, 10) if rng.random() < 0.25 else 64
    angle = (
        np.sort(rng.uniform(0, 2 * np.pi, points))
        if points < 10
        else np.arange(64) * (2 * np.pi / 64)
    )
    power = rng.uniform(1.7, 4)
    radius = (np.abs(np.cos(angle)) ** power + np.abs(np.sin(angle)) ** power) ** (-1 / power)
    order = np.arange(2, 6)[:, None]
    waves = (
        rng.normal(0, 0.32, (4, 1))
        / order
        * np.cos(order * angle + rng.uniform(0, 2 * np.pi, (4, 1)))
    )
    path = np.exp(1j * angle) * radius * np.maximum(1 + waves.sum(0), 0.4)
    stretch = np.exp(rng.uniform(-0.3, 0.3))
    path = (path.real * stretch + 1j * path.imag / stretch) * np.exp(1j * rng.uniform(0, 2 * np.pi))
    enclosed = abs((path.conj() * np.append(path[1:], path[0])).imag.sum()) / 2
    path *= np.sqrt(area / max(enclosed, 0.2))
    return np.stack([path.real, path.imag], 1).astype(np.float32)


def fill(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The inside of an outline, uint8 [H, W] of 0 and 1."""
    return cv2.fillPoly(np.zeros(shape, np.uint8), [np.round(points).astype(np.int32)], 1)


def around(mask: np.ndarray, margin: int = 8) -> tuple[slice, slice]:
    """The window of what is not 0 in a mask uint8 [H, W], with a margin for soft edges (an empty
    mask has a small one)."""
    x, y, width, height = cv2.boundingRect(mask)
    return slice(max(y - margin, 0), y + height + margin), slice(
        max(x - margin, 0), x + width + margin
    )


def place_objects(rng: np.random.Generator, shape: tuple[int, int], count: int) -> np.ndarray:
    """uint8 [H, W]: 0 and the objects 1…count, later over earlier; drawn again until each is well
    visible."""
    height, width = shape
    while True:
        shares = rng.uniform(0.6, 1.4, count)
        areas = rng.uniform(0.2, 0.6) * height * width * shares / shares.sum()
        objects = np.zeros(shape, np.uint8)
        for number, area in enumerate(areas, 1):
            centre = rng.uniform(0.15, 0.85, 2) * (width, height)
            objects[fill(outline(rng, area) + centre, shape) > 0] = number
        pixels = np.bincount(objects.ravel(), minlength=count + 1)[1:]
        if (pixels > 0.7 * areas).all() and 0.17 < pixels.sum() / objects.size < 0.58:
            return objects


def cut_part(rng: np.random.Generator, visible: np.ndarray) -> np.ndarray:
    """The class-specific part of an object, bool [H, W].

    Of the 70–85 % of its visible pixels that are nearest to a random anchor, half in patches: the
    body shows through.
    """
    y, x = np.nonzero(visible)
    size = np.sqrt(len(x))
    turn, away = rng.uniform(0, 2 * np.pi), size * rng.uniform(0.2, 1)
    anchor = x.mean() + away * np.cos(turn), y.mean() + away * np.sin(turn)
    wobble = noise(rng, visible.shape, size / 3)[y, x] * size * 0.12
    distance = np.hypot(x - anchor[0], y - anchor[1]) + wobble
    part = np.zeros(visible.shape, bool)
    near = distance < np.quantile(distance, rng.uniform(0.7, 0.85))
    patches = noise(rng, visible.shape, 9)[y, x]
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
    """Smooth noise of about unit variance, float32 [H, W] or [H, W, channels].

    Args:
        grain: size of its blobs in pixels; they are `stretch` times longer in x.
    """
    height, width = shape
    cells = max(int(height / grain) + 1, 2), max(int(width / (grain * stretch)) + 1, 2)
    small = rng.standard_normal((*cells, channels), np.float32)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(1.3)


def body_texture(rng: np.random.Generator, kind: int, shape: tuple[int, int]) -> np.ndarray:
    """Lightness variation of a material in grey levels, float32 [H, W, 1]: mottled, streaky, grainy
    or spotted."""
    if kind == 0:
        texture = 3 * noise(rng, shape, 9) + 2 * noise(rng, shape, 4)
    elif kind == 1:
        texture = 4 * (
            noise(rng, shape, 2.5, 5) if rng.random() < 0.5 else noise(rng, shape, 12.5, 0.2)
        )
    elif kind == 2:
        texture = 4 * noise(rng, shape, 2)
    else:
        texture = 4 * np.tanh(2.5 * noise(rng, shape, 7)) + noise(rng, shape, 2)
    return texture[..., None]


def class_pattern(rng: np.random.Generator, class_id: int, part: np.ndarray) -> np.ndarray:
    """The pattern of a class in its two colours, float32 [H, W, 3], centred on its part."""
    y, x = np.indices(part.shape, np.float32)
    x, y = (
        x - x[part].mean() + 1.2 * noise(rng, part.shape, 16),
        y - y[part].mean() + 1.2 * noise(rng, part.shape, 16),
    )
    turn, step = rng.uniform(0, np.pi), 2 * np.pi / rng.uniform(9, 12)
    u, v = (
        step * (np.cos(turn) * x + np.sin(turn) * y),
        step * (np.cos(turn) * y - np.sin(turn) * x),
    )
    name = PATTERNS[class_id % 5]
    if name == 'stripes':
        wave = np.sin(u)
    elif name == 'dots':
        wave = np.cos(u) + np.cos(v) - 0.7
    elif name == 'checker':
        wave = 2 * np.sin(u / 1.4) * np.sin(v / 1.4)
    elif name == 'rings':
        wave = np.sin(np.hypot(u, v))
    else:
        wave = np.sin(u + 2 * np.abs((v / 9) % 2 - 1) * 2.6)
    mix = (0.5 + 0.5 * np.tanh(3 * wave))[..., None]
    first, second = PAIRS[class_id] + rng.normal(0, 9, (2, 3)).astype(np.float32)
    return first + mix * (second - first)


def paint(image: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    """Blend colours [H, W, 3] into an image, as much as alpha [H, W] in [0, 1] says."""
    image += alpha[..., None] * (colour - image)


def soft(mask: np.ndarray, sigma: float) -> np.ndarray:
    """A mask of 0 and 1 with soft edges, float32 [H, W]."""
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)


# ---------------------------------------------------------------- pictures


def pick_material(rng: np.random.Generator, class_id: int) -> int:
    """A body material: one of the two that a class likes in seven of ten cases, else any."""
    if rng.random() < 0.7:
        return (class_id * 3 + 5 * int(rng.random() < 0.5)) % len(COLOURS)
    return int(rng.integers(len(COLOURS)))


def background(
    rng: np.random.Generator, shape: tuple[int, int], class_id: int, colours: list[np.ndarray]
) -> np.ndarray:
    """1/f noise around a tint (in six of ten cases the one that goes with the class) with clutter,
    float32 [H, W, 3].

    Every eighth piece of clutter takes the colour of an object's body, with any texture.
    """
    tint = class_id % len(TINTS) if rng.random() < 0.6 else rng.integers(len(TINTS))
    image = TINTS[tint] + 5 * noise(rng, shape, 60, channels=3)
    image += sum(
        grain * noise(rng, shape, size)
        for grain, size in ((11, 60), (9, 25), (6, 12), (5, 5), (4, 2))
    )[..., None]
    for _ in range(rng.integers(8, 13)):
        points = outline(rng, rng.uniform(0.01, 0.08) * image[..., 0].size)
        inside = fill(points + rng.uniform(0, 1, 2) * shape[::-1], shape)
        window = around(inside)
        colour = (
            colours[rng.integers(len(colours))]
            if rng.random() < 0.12
            else COLOURS[rng.integers(len(COLOURS))]
        )
        colour = colour + rng.normal(0, 7, 3).astype(np.float32)
        inside = soft(inside[window], rng.uniform(0.7, 2.5))
        paint(image[window], inside, colour + body_texture(rng, rng.integers(4), inside.shape))
    return image


def draw_objects(
    rng: np.random.Generator,
    image: np.ndarray,
    objects: np.ndarray,
    classes: list[int],
    materials: list[int],
    colours: list[np.ndarray],
) -> None:
    """Paint the objects of `place_objects` into an image."""
    for number, (class_id, material, colour) in enumerate(zip(classes, materials, colours), 1):
        window = around((objects == number).astype(np.uint8))
        visible = objects[window] == number
        depth = cv2.distanceTransform(visible.astype(np.uint8), cv2.DIST_L2, 3)
        # darker towards the outline: what a body has and clutter has not
        rim = (np.clip(1 - depth / (0.5 * depth.max()), 0, 1) ** 2)[..., None]
        alpha = soft(visible, 0.7)
        # stronger than the clutter's: visible, and no help to a CRF
        texture = 3 * body_texture(rng, material % 4, visible.shape)
        paint(image[window], alpha, colour + texture - 12 * rim)
        part = cut_part(rng, visible)
        paint(
            image[window],
            soft(part, 0.8) * alpha,
            class_pattern(rng, class_id, part) * (1 - 0.25 * rim),
        )


def scene(
    rng: np.random.Generator, num_foreground: int = NUM_FOREGROUND
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """A picture uint8 [H, W, 3], the objects of `place_objects` and the class 0…K−1 of each."""
    shape = tuple(rng.integers(160, 201, 2).tolist())
    count = int(rng.choice((1, 2, 3), p=(0.4, 0.4, 0.2)))
    classes = rng.integers(0, num_foreground, count).tolist()
    if count > 1 and rng.random() < 0.15:
        classes[1] = classes[0]
    objects = place_objects(rng, shape, count)
    materials = [pick_material(rng, class_id) for class_id in classes]
    colours = [COLOURS[material] + rng.normal(0, 7, 3).astype(np.float32) for material in materials]
    image = background(rng, shape, classes[0], colours)
    draw_objects(rng, image, objects, classes, materials, colours)
    turn, light = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.12)
    y, x = np.indices(shape, np.float32)
    slope = np.cos(turn) * (x / shape[1] - 0.5) + np.sin(turn) * (y / shape[0] - 0.5)
    image *= (rng.uniform(0.88, 1.12) * (1 + 2 * light * slope))[..., None]
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.7))
    image += rng.uniform(1, 2.5) * rng.standard_normal(image.shape, np.float32)
    return np.clip(np.round(image), 0, 255).astype(np.uint8), objects, classes


def make_picture(out: str, seed: int, name: str, num_foreground: int) -> None:
    """Write the files of one picture, e.g. 'train_000007': they depend on the number of classes,
    the seed and the name only."""
    cv2.setNumThreads(1)  # the pictures are shared out over processes already
    split, index = name.split('_')
    rng = np.random.default_rng((seed, SPLITS.index(split), int(index)))
    image, objects, classes = scene(rng, num_foreground)
    filled = np.uint8([0] + [class_id + 1 for class_id in classes])[objects]
    mask = filled.copy()
    mask[cv2.morphologyEx(objects, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0] = IGNORE
    saliency = cv2.GaussianBlur((filled > 0).astype(np.uint8) * 255, (0, 0), 3)
    for folder in MASKS:
        write_mask(os.path.join(out, folder, f'{name}.png'), mask)
    for folder, extension, picture in (
        ('SALImages', '.png', saliency),
        ('JPEGImages', '.jpg', image),
    ):
        with atomic(os.path.join(out, folder, name + extension)) as temporary:
            Image.fromarray(picture).save(
                temporary, 'PNG' if extension == '.png' else 'JPEG', quality=90
            )


def write_class_file(path: str, num_foreground: int) -> None:
    """Name the classes class01, class02, …; VOC's 20 need no file."""
    if num_foreground == NUM_FOREGROUND:
        with contextlib.suppress(FileNotFoundError):  # left by other settings
            os.unlink(path)
    else:
        names = (f'class{number:02d}' for number in range(1, num_foreground + 1))
        write_classes(path, ClassSet.of(names))


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.output.add_argument(
        '--out', required=True, help="folder to write; it takes the place of the devkit's VOC2012"
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
        help='pictures of val (default: a quarter of --images)',
    )
    parser.data.add_argument(
        '--classes',
        type=command_line.number(int, 1, MOST_CLASSES),
        default=NUM_FOREGROUND,
        help="foreground classes: 20 are VOC's, another number of them is named in classes.txt",
    )
    parser.run.add_argument(
        '--seed', type=command_line.number(int, 0), default=0, help='decides every random choice'
    )
    command_line.add_jobs_flag(parser, 'drawing')
    parser.output.add_argument(
        '--overwrite', action='store_true', help='replace the pictures of other settings'
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    counts = {'train': args.images, 'val': args.val or max(1, args.images // 4)}
    names = {
        split: [f'{split}_{index:06d}' for index in range(count)] for split, count in counts.items()
    }
    settings = {'stage': 'synth', 'version': VERSION, 'seed': args.seed, **counts}
    if args.classes != NUM_FOREGROUND:
        settings['classes'] = args.classes
    outputs = [(os.path.join(args.out, folder), extension) for folder, extension in OUTPUTS]
    masks = os.path.join(args.out, MASKS[0])
    # a folder with masks but without a manifest is a devkit, which --overwrite would delete
    if os.path.isdir(masks) and os.listdir(masks) and not fingerprint(masks):
        raise UserError(
            f'{masks}: holds files that voc12.synth did not write; choose another folder as --out'
        )
    claim_all(
        [(folder, settings) for folder, extension in outputs if extension == '.png'], args.overwrite
    )
    write_class_file(os.path.join(args.out, CLASS_FILE), args.classes)
    todo = missing(names['train'] + names['val'], outputs)
    draw = functools.partial(make_picture, args.out, args.seed, num_foreground=args.classes)
    for _ in progress(pool_map(draw, todo, args.jobs), total=len(todo), desc='draw'):
        pass
    for name in ('train', 'train_aug', 'trainaug', 'val'):  # the field has both spellings
        listed = names['val' if name == 'val' else 'train']
        write_text(
            os.path.join(args.out, 'ImageSets', 'Segmentation', f'{name}.txt'),
            '\n'.join(listed) + '\n',
        )
    make_lists.main(
        argparse.Namespace(
            voc12_root=args.out, out_dir=os.path.join(args.out, 'lists'), jobs=args.jobs
        )
    )


if __name__ == '__main__':
    command_line.run(main, parse_args)
