"""The table of a campaign, made of the ladders of its complete runs: table.md and table.json."""

import json
import os
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tool.files.atomic import write_text
from tool.reproduce_tables.children import Failure
from tool.reproduce_tables.rows import Figure, Row
from tool.reproduce_tables.runs import (
    LAPTOP,
    PAPER,
    TINY,
    Campaign,
    Job,
    is_complete,
    ladder_file,
    read_ladder,
    row_job,
)

# What a table of each scale can be compared with.
NOTES = {
    PAPER: "The paper's settings. Its figures are medians of three runs.",
    LAPTOP: "A small network in few steps on few pictures: not to be compared with the paper's "
    'figures. The contrast has the published constants.',
    TINY: 'tiny: shows that every row runs; its numbers mean nothing for the paper.',
}
MASKS_FOR_SALIENCY = (
    "The saliency maps of EPS were made from ground-truth masks, for lack of a saliency network's."
)
HEAD = (
    'row',
    'figure',
    'list',
    'paper',
    'median',
    'lowest',
    'highest',
    'seeds',
    'background score',
    'ground truth',
)


@dataclass(frozen=True)
class Measured:
    """A figure as the complete runs of a row measured it.

    Attributes:
        figure: the figure.
        values: {seed: mIoU in percent}.
        core: {seed: mean over the core classes in percent}, where the preset has core classes.
        thresholds: {seed: background score}, of seeds; masks have none.
        list: the list of the pictures that were scored; '' without a run.
        images: their number.
        gt_dir: the folder of the ground truth.
    """

    figure: Figure
    values: Mapping[int, float]
    core: Mapping[int, float]
    thresholds: Mapping[int, float]
    list: str
    images: int
    gt_dir: str


def write_table(campaign: Campaign, command: str, failures: Sequence[Failure] = ()) -> str:
    """Write table.md and table.json of what is complete by now.

    Args:
        command: the command line that was given.
        failures: the runs that have failed.
    Returns:
        The path of table.md.
    """
    rows = []
    for row in campaign.rows:
        rows.append(row_content(campaign, row))
    failed = []
    for failure in failures:
        failed.append({'run': failure.job.title, 'reason': failure.reason})
    content = {
        'table': campaign.table,
        'scale': campaign.scale,
        'notes': notes(campaign),
        'voc12_root': campaign.root,
        'seeds': list(campaign.seeds),
        'set': list(campaign.settings),
        'command': command,
        'rows': rows,
        'failed': failed,
    }
    folder = os.path.join(campaign.work, campaign.table)
    write_text(os.path.join(folder, 'table.json'), json.dumps(content, indent=1) + '\n')
    path = os.path.join(folder, 'table.md')
    write_text(path, as_markdown(content))
    return path


def notes(campaign: Campaign) -> list[str]:
    """Notes that a reader of the table has to know about its figures."""
    found = [NOTES[campaign.scale]]
    if campaign.saliency == os.path.join(campaign.work, 'SALImages'):
        if any(row.method == 'eps' for row in campaign.rows):
            found.append(MASKS_FOR_SALIENCY)
    return found


def row_content(campaign: Campaign, row: Row) -> dict:
    """A row of table.json: its figures, and of each run the command and, if complete, the facts."""
    complete = complete_runs(campaign, row)
    figures = []
    for figure in row.figures:
        figures.append(figure_content(measure(figure, complete)))
    runs = []
    for seed in campaign.seeds:
        job = row_job(campaign, row, seed)
        command = shlex.join(['python', *job.words])
        run: dict = {'seed': seed, 'complete': seed in complete, 'command': command}
        if seed in complete:
            ladder = ladder_file(job)
            run['commit'] = ladder.get('commit')
            run['choices'] = ladder.get('choices')
            run['seconds'] = round(sum(entry['seconds'] for entry in ladder['rows']), 1)
        runs.append(run)
    return {'row': row.title, 'folder': row.folder, 'figures': figures, 'runs': runs}


def complete_runs(campaign: Campaign, row: Row) -> dict[int, Job]:
    """{seed: run} of the runs of a row that are complete."""
    found = {}
    for seed in campaign.seeds:
        job = row_job(campaign, row, seed)
        if is_complete(job):
            found[seed] = job
    return found


def measure(figure: Figure, runs: Mapping[int, Job]) -> Measured:
    """A figure from the complete runs of a row, {seed: run}."""
    values = {}
    core = {}
    thresholds = {}
    entry: dict = {}
    for seed, job in runs.items():
        (entry,) = [line for line in read_ladder(job) if line['row'] == figure.ladder]
        values[seed] = entry['mIoU']
        if 'core' in entry:
            core[seed] = entry['core']
        if 't' in entry:
            thresholds[seed] = entry['t']
    return Measured(
        figure,
        values,
        core,
        thresholds,
        list=entry.get('list', ''),
        images=entry.get('images', 0),
        gt_dir=entry.get('gt_dir', ''),
    )


def figure_content(measured: Measured) -> dict:
    """A figure of table.json; what is not measured is None."""
    values = list(measured.values.values())
    content = {
        'figure': measured.figure.title,
        'paper': measured.figure.paper,
        'median': statistics.median(values) if values else None,
        'lowest': min(values) if values else None,
        'highest': max(values) if values else None,
        'seeds': len(values),
        'values': dict(measured.values),
        'background_score': dict(measured.thresholds),
        'list': measured.list or None,
        'images': measured.images or None,
        'gt_dir': measured.gt_dir or None,
    }
    if measured.core:
        content['core'] = dict(measured.core)
        content['core_median'] = statistics.median(measured.core.values())
    return content


# ---------------------------------------------------------------- Markdown


def as_markdown(content: dict) -> str:
    """table.md, made of what table.json holds."""
    lines = [f'# {content["table"]}, at the scale {content["scale"]}', '']
    for note in content['notes']:
        lines.append(f'**{note}**')
        lines.append('')
    lines.append(
        'mIoU in percent. An empty cell is a figure that is not known. Seeds of the first list of '
        'a row are scored at the background score that is best for them, those of the second at '
        'the same one.'
    )
    lines.append('')
    has_core = _has_core(content)
    lines += markdown_table(content['rows'], has_core)
    if has_core:
        lines += ['', "'core' is the median of the mean over the preset's core classes."]
    if content['failed']:
        lines += ['', '## Failed', '']
        for failed in content['failed']:
            lines.append(f'- {failed["run"]}: `{failed["reason"]}`')
    lines += ['', '## Commands', '', f'    {content["command"]}', '']
    lines.append('It ran these, and for other seeds the same with another --seed and --work_dir:')
    lines.append('')
    shown = set()
    for row in content['rows']:
        command = row['runs'][0]['command']
        if row['folder'] not in shown:
            shown.add(row['folder'])
            lines.append(f'    {command}')
    return '\n'.join(lines) + '\n'


def markdown_table(rows: list[dict], has_core: bool) -> list[str]:
    """The lines of the Markdown table."""
    head = [*HEAD, 'core'] if has_core else list(HEAD)
    lines = [_line(head), _line(['---'] * len(head))]
    for row in rows:
        for number, figure in enumerate(row['figures']):
            title = row['row'] if number == 0 else ''
            cells = [title, *figure_cells(figure)]
            if has_core:
                cells.append(_percent(figure.get('core_median')))
            lines.append(_line(cells))
    return lines


def figure_cells(figure: dict) -> list[str]:
    """The cells of a figure, from its name on."""
    scored = ''
    if figure['list'] is not None:
        name = os.path.splitext(os.path.basename(figure['list']))[0]
        scored = f'{name} ({figure["images"]:,})'
    ground_truth = os.path.basename((figure['gt_dir'] or '').rstrip('/'))
    return [
        figure['figure'],
        scored,
        _percent(figure['paper']),
        _percent(figure['median']),
        _percent(figure['lowest']),
        _percent(figure['highest']),
        str(figure['seeds']),
        _range(list(figure['background_score'].values())),
        ground_truth,
    ]


def _has_core(content: dict) -> bool:
    """Whether any figure has a mean over core classes."""
    for row in content['rows']:
        for figure in row['figures']:
            if 'core' in figure:
                return True
    return False


def _line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    safe = [cell.replace('|', '\\|') for cell in cells]
    return f'| {" | ".join(safe)} |'


def _percent(value: float | None) -> str:
    """A figure in percent; nothing where it is not known."""
    return '' if value is None else f'{value:.1f}'


def _range(values: list[float]) -> str:
    """Background scores: one, or the lowest and the highest."""
    if not values:
        return ''
    lowest, highest = f'{min(values):.2f}', f'{max(values):.2f}'
    return lowest if lowest == highest else f'{lowest}–{highest}'
