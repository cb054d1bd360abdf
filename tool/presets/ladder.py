"""The ladder of a pipeline run: the scores of each step from seeds to DeepLab, one row a step."""

import json
import os
from collections.abc import Sequence
from typing import Any

from tool.files.atomic import write_text
from tool.files.reading import read_json
from tool.method.metrics import mean_iou, occurring
from tool.presets.choices import WORDS
from tool.run.errors import UserError


def read_scores(path: str, core: Sequence[str] = ()) -> dict:
    """Read the scores that `eval.py --json` has written.

    Args:
        path: the file.
        core: classes that scores against ground truth have to have.
    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        scores = read_json(path)
        if not isinstance(scores, dict):
            raise ValueError('no JSON object')
        if 'mIoU' in scores:
            mean_iou(scores, list(scores['pixels']))
            occurring(scores['pixels'])
            lost = [name for name in core if name not in scores]
            if lost:
                raise ValueError(f'it lacks the class {lost[0]}')
        _check_scores(scores)
        return scores
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise UserError(
            f'{path}: no scores of eval.py ({error}); run the stage again with --from'
        ) from None


def _check_scores(scores: dict) -> None:
    """Check that scores have what the ladder and the choices read.

    Raises:
        ValueError: they lack it, or it is of another kind.
    """
    if not any(measure in scores for measure in WORDS):
        raise ValueError(f'none of {", ".join(WORDS)}')
    for key in ('mIoU', 'agreement', 't'):
        if key in scores and not _is_number(scores[key]):
            raise ValueError(f'{key} is no number')
    for key in ('curve_t', 'curve_mIoU'):
        values = scores.get(key, [])
        if not (isinstance(values, list) and all(map(_is_number, values))):
            raise ValueError(f'{key} is no list of numbers')
    if 'curve_t' in scores and 't' not in scores:
        raise ValueError('a curve without t')
    for key in ('list', 'predict_dir', 'gt_dir'):
        if not isinstance(scores.get(key, ''), str):
            raise ValueError(f'{key} is no text')
    for key in ('list', 'images'):
        if key not in scores:
            raise ValueError(f'no {key}')


def _is_number(value: Any) -> bool:
    """Whether a value of JSON is a number; true and false are none."""
    return type(value) in (int, float)


def ladder_row(
    title: str,
    scores: dict,
    core: list[str],
    seconds: float,
    before: dict | None = None,
) -> dict:
    """One row of the ladder.

    Args:
        title: what was scored.
        scores: what `read_scores` returns.
        core: the core classes of the preset, or none.
        seconds: time from the row above to this one.
        before: the row as another scoring stage has made it; its entries are kept.
    Returns:
        The mean IoU over all classes, what it was scored on and the time; with core classes also
        the means over these and over the classes that occur. Of a result without ground truth: the
        agreement of tool.agreement, the background score of tool.cam_threshold, and what they were
        measured on.
    """
    before = before or {}
    row: dict = {'row': title}
    keys = ['t', 'list', 'images', 'predict_dir']
    if 'agreement' in scores:
        row['agreement'] = scores['agreement']
    elif 'mIoU' in scores:
        row['mIoU'] = mean_iou(scores, list(scores['pixels']))
        if core:
            row['core'] = mean_iou(scores, core)
            row['occurring'] = mean_iou(scores, occurring(scores['pixels']))
        keys.append('gt_dir')
    for key in keys:
        # What was scored against ground truth stays in the row.
        if key in scores and 'mIoU' not in before:
            row[key] = scores[key]
    return {**before, **row, 'seconds': round(before.get('seconds', 0.0) + seconds, 1)}


def ladder_table(rows: list[dict], total: float) -> str:
    """The ladder as text; the arguments are those of `ladder_cells`."""
    return text_table(ladder_cells(rows, total))


def text_table(lines: list[list[str]]) -> str:
    """A table as text with aligned columns, of the cells of each of its lines."""
    widths = []
    for column in zip(*lines):
        widths.append(max(map(len, column)))
    return '\n'.join(_format_line(cells, widths) for cells in lines)


def ladder_cells(rows: list[dict], total: float) -> list[list[str]]:
    """The ladder as a table of texts: the head, a line for each row, and the time of all stages.

    Each line has the means in percent, the list, the number of pictures, the folder of the ground
    truth, and the time from the row above to this one.

    Args:
        rows: the rows, as `ladder_row` makes them.
        total: time of all stages in seconds, for the last line.
    """
    means = []
    for key in ('mIoU', 'core', 'occurring', 'agreement'):
        if any(key in row for row in rows):
            means.append(key)
    head = ['', *means, 'scored on', 'pictures', 'against', 'time']
    lines = [head]
    for row in rows:
        lines.append(_cells(row, means))
    empty = [''] * (len(head) - 2)
    lines.append(['all stages', *empty, clock(total)])
    return lines


def _cells(row: dict, means: list[str]) -> list[str]:
    """The cells of a row as text; '–' for a mean that the row does not have."""
    folder = os.path.basename(row['gt_dir'].rstrip('/')) if 'gt_dir' in row else '–'
    values = [f'{row[key]:.1f}' if key in row else '–' for key in means]
    images = str(row['images'])
    return [row['row'], *values, _stem(row['list']), images, folder, clock(row['seconds'])]


def _format_line(cells: list[str], widths: list[int]) -> str:
    """A line of the table; its first cell is aligned to the left, the others to the right."""
    first = cells[0].ljust(widths[0])
    others = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:])]
    return '  '.join([first, *others])


def write_ladder(path: str, rows: list[dict], total: float, **facts: object) -> None:
    """Write the rows, the facts of the run and its time in seconds as JSON."""
    content = {**facts, 'rows': rows, 'seconds': round(total, 1)}
    write_text(path, json.dumps(content, indent=1) + '\n')


def clock(seconds: float) -> str:
    """'42 s', '3:05 min' or '2:14 h'."""
    if seconds < 99.5:
        return f'{seconds:.0f} s'
    minutes = seconds / 60
    if minutes < 100:
        return f'{int(minutes)}:{int(seconds % 60):02d} min'
    return f'{int(minutes / 60)}:{int(minutes % 60):02d} h'


def _stem(path: str) -> str:
    """The file name without folder and extension."""
    return os.path.splitext(os.path.basename(path))[0]
