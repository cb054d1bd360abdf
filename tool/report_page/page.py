"""The HTML of the report: one file that needs no other and no network."""

import datetime
import os
import platform
from dataclasses import dataclass, field
from importlib import metadata

import jinja2

from tool.method.class_set import IGNORE, colour_map
from tool.presets.ladder import clock, ladder_cells
from tool.report_page.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    ClassChart,
    class_chart,
    histogram_chart,
    loss_chart,
    threshold_chart,
)
from tool.report_page.gallery import Gallery
from tool.report_page.run_files import Command, Run
from tool.train.log import commit

TEMPLATES = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'templates')
# The packages whose versions the page names.
PACKAGES = ('torch', 'torchvision', 'timm', 'numpy', 'opencv-python', 'pillow', 'numba', 'scipy')


@dataclass(frozen=True)
class Legend:
    """A class in the legend: its id in masks, its name, and its colour as '#rrggbb'."""

    class_id: int
    name: str
    colour: str


@dataclass
class Page:
    """The content of the page. A section without content is left out.

    Attributes:
        title: the heading.
        facts: [(name, text)] below the heading.
        ladder: lines of the table of scores, as `ladder_cells` makes them.
        choices: sentences below the ladder.
        galleries: pictures.
        classes: the IoU of the classes, or None.
        background: charts of the background score.
        losses: charts of the trainings.
        commands: the stages with their commands.
        versions: [(name, text)], the software.
    """

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    ladder: list[list[str]] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    classes: ClassChart | None = None
    background: list[Chart] = field(default_factory=list)
    losses: list[Chart] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    versions: list[tuple[str, str]] = field(default_factory=list)

    def legend(self) -> list[Legend]:
        """The classes in the pictures of all galleries."""
        found = {}
        for gallery in self.galleries:
            for row in gallery.rows:
                for class_id in row.class_ids:
                    name = gallery.classes.names[class_id]
                    found[class_id] = Legend(class_id, name, _colour(class_id))
        return [found[class_id] for class_id in sorted(found)]

    def has_ignored(self) -> bool:
        """Whether a ground truth in the galleries has pixels to ignore."""
        rows = [row for gallery in self.galleries for row in gallery.rows]
        return any(row.has_ignored for row in rows)


def _colour(class_id: int) -> str:
    """The colour of a class in masks, '#rrggbb'."""
    red, green, blue = colour_map()[class_id].tolist()
    return f'#{red:02x}{green:02x}{blue:02x}'


def page_of_run(run: Run) -> Page:
    """The page of a pipeline's work folder, without galleries."""
    page = Page(title=run.preset or os.path.basename(run.work))
    page.facts = _facts(run)
    if run.rows():
        page.ladder = ladder_cells(run.rows(), run.ladder.get('seconds', 0.0))
    page.choices = [str(sentence) for sentence in run.ladder.get('choices', [])]
    page.classes = _classes_of(run)
    for scores in run.scores:
        where = f'{scores.get("images", "?")} pictures of {_list_name(scores)}'
        if scores.get('curve_mIoU') and scores.get('curve_t'):
            page.background.append(threshold_chart(f'Against ground truth, {where}', scores))
        elif scores.get('histogram') and scores.get('curve_t'):
            page.background.append(histogram_chart(f'Without ground truth, {where}', scores))
    for training in run.trainings:
        page.losses.append(loss_chart(training.title, training.steps, training.losses))
    page.commands = run.commands
    return page


def _facts(run: Run) -> list[tuple[str, str]]:
    """The facts below the heading: how and when the run was made."""
    facts = [('folder', os.path.abspath(run.work))]
    for name in ('seed', 'commit'):
        if name in run.ladder:
            facts.append((name, str(run.ladder[name])))
    if 'seconds' in run.ladder:
        facts.append(('time of all stages', clock(run.ladder['seconds'])))
    facts += list(run.notes.items())
    return facts


def _classes_of(run: Run) -> ClassChart | None:
    """The IoU of the classes, of all results that have it."""
    results = [scores for scores in run.scores if scores.get('pixels')]
    if not results:
        return None
    lists = {scores.get('list') for scores in results}
    titled = []
    for scores in results:
        title = run.title_of(scores)
        if len(lists) > 1:
            title = f'{title} ({_list_name(scores)})'
        titled.append((title, scores))
    return class_chart(titled)


def _list_name(scores: dict) -> str:
    """The name of the list that was scored, without folder and extension."""
    return os.path.splitext(os.path.basename(str(scores.get('list'))))[0]


def software() -> list[tuple[str, str]]:
    """The versions of the software that makes the page, and the commit of this code."""
    found = [('commit', commit()), ('python', platform.python_version())]
    for package in PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue
    found.append(('system', platform.platform()))
    now = datetime.datetime.now().astimezone()
    found.append(('page made', f'{now:%Y-%m-%d %H:%M %Z}'))
    return found


def render(page: Page) -> str:
    """The page as HTML. Every text is escaped: names of classes, files and stages may be anything.

    The template, the style sheet and the script are in TEMPLATES.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters['clock'] = clock
    environment.globals['ignore_colour'] = _colour(IGNORE)
    environment.globals['box'] = {
        'width': WIDTH,
        'height': HEIGHT,
        'left': LEFT,
        'right': RIGHT,
        'top': TOP,
        'bottom': BOTTOM,
    }
    return environment.get_template('page.html').render(page=page)
