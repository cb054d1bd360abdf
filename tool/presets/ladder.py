"""The ladder of a pipeline run: what every step from seeds to DeepLab wins, as a table and as
JSON."""

import json
import os

from tool.files.atomic import write_text
from tool.method.metrics import mean_iou, occurring
from tool.run.errors import UserError


def read_scores(path: str) -> dict:
    """What eval.py --json wrote.

    Raises:
        UserError: missing or damaged.
    """
    try:
        with open(path, encoding='utf-8') as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f'{path}: no scores of eval.py ({error}); run the stage again with --from'
        ) from None


def ladder_row(title: str, scores: dict, core: list[str], seconds: float) -> dict:
    """One row: mIoU over all classes, what it was scored on, and with `core` the means over
    those and over the classes that occur."""
    every_class = list(scores['pixels'])
    row = {'row': title, 'mIoU': mean_iou(scores, every_class)}
    if core:
        row['core'] = mean_iou(scores, core)
        row['occurring'] = mean_iou(scores, occurring(scores['pixels']))
    row |= {
        key: scores[key]
        for key in ('t', 'list', 'images', 'gt_dir', 'predict_dir')
        if key in scores
    }
    return row | {'seconds': round(seconds, 1)}


def ladder_table(rows: list[dict], total: float) -> str:
    """The rows as text: means in percent, list, pictures, ground-truth folder, time from the row
    above to this one."""
    means = [key for key in ('mIoU', 'core', 'occurring') if key in rows[0]]
    head = ['', *means, 'scored on', 'pictures', 'against', 'time']
    cells = [
        [
            row['row'],
            *(f'{row[key]:.1f}' for key in means),
            _stem(row['list']),
            str(row['images']),
            os.path.basename(row['gt_dir'].rstrip('/')),
            clock(row['seconds']),
        ]
        for row in rows
    ]
    cells.append(['all stages', *[''] * (len(head) - 2), clock(total)])
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    return '\n'.join(
        '  '.join(
            [
                line[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:])),
            ]
        )
        for line in [head, *cells]
    )


def write_ladder(path: str, rows: list[dict], total: float, **facts) -> None:
    """The rows and the facts of the run as JSON."""
    write_text(
        path, json.dumps({**facts, 'rows': rows, 'seconds': round(total, 1)}, indent=1) + '\n'
    )


def clock(seconds: float) -> str:
    """'42 s', '3:05 min' or '2:14 h'."""
    if seconds < 99.5:
        return f'{seconds:.0f} s'
    minutes = seconds / 60
    return (
        f'{int(minutes)}:{int(seconds % 60):02d} min'
        if minutes < 100
        else f'{int(minutes / 60)}:{int(minutes % 60):02d} h'
    )


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]
