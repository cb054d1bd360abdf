"""The galleries of the page: which pictures they show, and their cells as small pictures."""

import base64
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tool.files.lists import spaced
from tool.files.maps import read_cam
from tool.files.overlays import heat_map
from tool.files.pictures import check_size, read_image, read_mask
from tool.method.class_set import IGNORE, ClassSet
from tool.method.metrics import confusion, iou
from tool.report_page.mask_stages import MaskStage, Source, with_truth
from tool.run.errors import UserError
from tool.run.progress import progress
from voc12.layout import class_set, image_path, pictures

# At most so many pictures, evenly spaced over the list, are compared with ground truth to find the
# worst and the best: a few seconds.
RANKED = 500
# Long sides of the pictures in the page, in pixels. The first one is taken with which a gallery
# stays below GALLERY_BYTES, or else the last.
LONG_SIDES = (640, 480, 320, 240, 160)
GALLERY_BYTES = 6_000_000
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Cell:
    """One picture of a row.

    Attributes:
        title: 'picture', 'CAM', the title of a stage, or 'ground truth'.
        url: the picture as a data URI.
        width, height: its size in pixels.
        is_mask: its pixels are classes, which are not to be blurred.
        score: of a stage's mask: mean IoU over the classes of this picture, or None.
    """

    title: str
    url: str
    width: int
    height: int
    is_mask: bool = False
    score: float | None = None


@dataclass(frozen=True)
class Row:
    """A picture with its CAM and its masks.

    Attributes:
        name: name of the picture.
        kind: 'worst', 'median', 'best', or '' where it was not chosen by its score.
        score: mean IoU of the last stage's mask over the classes of the picture, or None.
        class_ids: the classes in its ground truth and in the last stage's mask, without the
            background.
        has_ignored: its ground truth has pixels to ignore.
        cells: the pictures.
    """

    name: str
    kind: str
    score: float | None
    class_ids: list[int]
    has_ignored: bool
    cells: list[Cell]


@dataclass(frozen=True)
class Gallery:
    """Rows of pictures.

    Attributes:
        title: the heading.
        about: sentences on which pictures these are.
        rows: the pictures.
        classes: the classes of the masks.
    """

    title: str
    about: str
    rows: list[Row]
    classes: ClassSet


@dataclass(frozen=True)
class Ranking:
    """The comparison of the masks of pictures with ground truth.

    Attributes:
        confusions: {title of a stage: int64 [C, C + 1]}, summed over the pictures.
        scores: {name of a picture: mean IoU in percent} of the last stage; pictures whose ground
            truth is all to be ignored are left out.
    """

    confusions: dict[str, np.ndarray]
    scores: dict[str, float]


def picture_iou(matrix: np.ndarray) -> float | None:
    """The mean IoU of one picture over the classes in its truth or its prediction, in percent.

    Args:
        matrix: int64 [C, C + 1], its `confusion`.
    Returns:
        None where no pixel counts.
    """
    num_classes = len(matrix)
    in_truth = matrix.sum(1) > 0
    in_prediction = matrix[:, :num_classes].sum(0) > 0
    occurs = in_truth | in_prediction
    if not occurs.any():
        return None
    return float(iou(matrix)[occurs].mean())


def read_mask_of(path: str, classes: ClassSet, size: tuple[int, int]) -> np.ndarray:
    """The mask of a picture, uint8 [H, W].

    Args:
        path: the file.
        classes: the classes that it may hold.
        size: (H, W) of the picture.
    Raises:
        UserError: the file is damaged or no mask, or has another size than the picture.
    """
    mask = read_mask(path, classes)
    check_size(path, mask.shape, size)
    return mask


def rank(source: Source, stages: list[MaskStage]) -> Ranking:
    """Compare masks with ground truth, on at most RANKED pictures that have both.

    Args:
        source: the pictures.
        stages: the stages to compare. The last one must be that of the source: it decides the
            order of the pictures.
    Raises:
        UserError: a mask is damaged, or has another size than the ground truth.
    """
    classes = class_set(source.root)
    num_classes = classes.num_classes
    names = spaced(with_truth(source), RANKED)
    confusions = {}
    for stage in stages:
        confusions[stage.title] = np.zeros((num_classes, num_classes + 1), np.int64)
    scores = {}
    for name in progress(names, desc='report') if names else []:
        truth = read_mask(os.path.join(source.gt_dir, name + '.png'), classes)
        for stage in stages:
            path = os.path.join(stage.folder, name + '.png')
            prediction = read_mask_of(path, classes, truth.shape)
            matrix = confusion(prediction, truth, num_classes)
            confusions[stage.title] += matrix
        score = picture_iou(matrix)
        if score is not None:
            scores[name] = score
    return Ranking(confusions, scores)


def chosen_rows(
    names: list[str], scores: dict[str, float], count: int
) -> tuple[list[tuple[str, str]], str]:
    """The pictures of a gallery.

    Args:
        names: all pictures.
        scores: {name: mean IoU} of those that were compared with ground truth.
        count: how many pictures to choose.
    Returns:
        [(name, kind)], where kind is 'worst', 'median', 'best' or ''; and a sentence on the choice.
    """
    if not scores:
        chosen = [(name, '') for name in spaced(names, count)]
        return chosen, f'{len(chosen)} of {len(names)} pictures, evenly spaced over the list.'
    by_score = sorted(scores, key=lambda name: (scores[name], name))
    if len(by_score) <= count:
        chosen = [(name, '') for name in by_score]
        sentence = 'All pictures with ground truth, from the lowest IoU to the highest.'
        return chosen, sentence
    third = max(1, count // 3)
    middle = max(0, count - 2 * third)
    start = (len(by_score) - middle) // 2
    worst = [(name, 'worst') for name in by_score[:third]]
    median = [(name, 'median') for name in by_score[start : start + middle]]
    best = [(name, 'best') for name in by_score[len(by_score) - third :]]
    sentence = (
        f'The worst, median and best of {len(by_score)} pictures, by the mean IoU over the classes '
        'in the ground truth or in the mask of the last stage.'
    )
    return [*worst, *median, *best], sentence


def make_gallery(source: Source, chosen: list[tuple[str, str]], about: str) -> Gallery:
    """Read the pictures of a gallery. Files that do not exist have no cell.

    Args:
        source: where they are.
        chosen: [(name, kind)], as `chosen_rows` returns them.
        about: a sentence on the choice.
    Raises:
        UserError: a file is damaged, or has another size than its picture.
    """
    classes = class_set(source.root)
    rows: list[Row] = []
    for long_side in LONG_SIDES:
        rows = [_make_row(source, classes, name, kind, long_side) for name, kind in chosen]
        if _bytes_of(rows) < GALLERY_BYTES:
            break
    return Gallery(source.title, f'{about} List: {source.list}', rows, classes)


def _bytes_of(rows: Iterable[Row]) -> int:
    """The number of bytes that rows take in the page."""
    total = 0
    for row in rows:
        total += sum(len(cell.url) for cell in row.cells)
    return total


def _make_row(source: Source, classes: ClassSet, name: str, kind: str, long_side: int) -> Row:
    """A row of a gallery; its pictures have at most `long_side` pixels on their long side."""
    picture = np.asarray(read_image(image_path(source.root, name)))
    size = picture.shape[:2]
    cells = [_photo_cell('picture', picture, long_side)]
    cam_path = os.path.join(source.cam_dir, name + '.npy')
    if source.cam_dir and os.path.exists(cam_path):
        cam = read_cam(cam_path, classes, size)
        cells.append(_photo_cell('CAM', heat_map(picture, cam), long_side))

    truth = None
    truth_path = os.path.join(source.gt_dir, name + '.png')
    if source.gt_dir and os.path.exists(truth_path):
        truth = read_mask_of(truth_path, classes, size)
    shown: set[int] = set()
    score = None
    for stage in source.stages:
        score = None
        path = os.path.join(stage.folder, name + '.png')
        if not os.path.exists(path):
            continue
        mask = read_mask_of(path, classes, size)
        if truth is not None:
            score = picture_iou(confusion(mask, truth, classes.num_classes))
        cells.append(_mask_cell(stage.title, mask, classes, long_side, score))
        if stage is source.stages[-1]:
            shown |= set(np.unique(mask).tolist())
    if truth is not None:
        shown |= set(np.unique(truth).tolist())
        cells.append(_mask_cell('ground truth', truth, classes, long_side, None))
    class_ids = sorted(shown - {0, IGNORE})
    return Row(name, kind, score, class_ids, IGNORE in shown, cells)


def _photo_cell(title: str, pixels: np.ndarray, long_side: int) -> Cell:
    """The cell of a picture, uint8 [H, W, 3], as JPEG."""
    image = Image.fromarray(pixels)
    image.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=JPEG_QUALITY, optimize=True)
    return Cell(title, _data_uri('image/jpeg', buffer), image.width, image.height)


def _mask_cell(
    title: str, mask: np.ndarray, classes: ClassSet, long_side: int, score: float | None
) -> Cell:
    """The cell of a mask, uint8 [H, W], as a palette PNG."""
    image = Image.fromarray(mask)
    factor = min(1.0, long_side / max(image.size))
    width = max(1, round(image.width * factor))
    height = max(1, round(image.height * factor))
    image = image.resize((width, height), Image.Resampling.NEAREST)
    image.putpalette(classes.colour_map.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, 'PNG', optimize=True)
    return Cell(title, _data_uri('image/png', buffer), width, height, True, score)


def _data_uri(kind: str, buffer: io.BytesIO) -> str:
    """A file in memory as a URI that holds all of it."""
    return f'data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode("ascii")}'


def check_names(sources: list[Source], names: list[str]) -> None:
    """Check that each of the names of --names is in the list of a gallery, and has a picture.

    Raises:
        UserError: one is not.
    """
    for name in names:
        holders = [source for source in sources if name in source.names]
        if not holders:
            lists = ', '.join(source.list for source in sources) or 'any list of this run'
            raise UserError(f'--names {name}: there is no such picture in {lists}')
        for source in holders:
            if name not in pictures(source.root):
                raise UserError(f'--names {name}: there is no such picture in {source.root}')
