"""The geometry of the page's charts: where lines, ticks and marks are. The template draws them.

A chart is WIDTH × HEIGHT units large, with the origin in its upper left corner. Its plot lies
between LEFT and RIGHT, TOP and BOTTOM.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT = 46, 348
TOP, BOTTOM = 12, 182
# The style sheet has so many colours for the lines of a chart and the bars of a class.
COLOURS = 8
# Colour number of a line that stands out.
INK = 0
# A chart shows at most so many points of a line: the means of that many parts of it.
POINTS = 100


@dataclass(frozen=True)
class Axis:
    """The scale of an axis.

    Attributes:
        low, high: the values at the two ends of the plot.
        start, end: the positions of these ends in the chart.
        is_log: the scale is logarithmic; then `low` is above 0.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def position(self, value: float) -> float:
        """Where a value lies in the chart; a value outside the axis lies at its nearer end."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        # a curve may have a single threshold
        part = (value - low) / (high - low) if high > low else 0.0
        return round(self.start + part * (self.end - self.start), 1)

    def ticks(self) -> list['Tick']:
        """The round values of the axis with their positions."""
        values = _log_steps(self.low, self.high) if self.is_log else _steps(self.low, self.high)
        return [Tick(self.position(value), f'{value:.6g}') for value in values]


@dataclass(frozen=True)
class Tick:
    """A value of an axis: its position in the chart and its text."""

    position: float
    text: str


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        title: its name in the legend.
        value: a number for the legend, as text; '' for none.
        points: 'x,y x,y …' in units of the chart.
        colour: INK, or 1 … COLOURS.
    """

    title: str
    value: str
    points: str
    colour: int


@dataclass(frozen=True)
class Mark:
    """A marked place: a vertical line at `x` with a text, and a dot at (x, y) if y is not None."""

    x: float
    y: float | None
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart of lines.

    Attributes:
        title: the heading above it.
        x_title, y_title: what the axes show.
        x_ticks, y_ticks: their round values.
        lines: the lines. The legend names them if there are several.
        mark: a marked place, or None.
    """

    title: str
    x_title: str
    y_title: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    mark: Mark | None = None


@dataclass(frozen=True)
class Bar:
    """The IoU of a class at a stage, in percent; `colour` is 1 … COLOURS."""

    title: str
    value: float
    colour: int


@dataclass(frozen=True)
class ClassChart:
    """The IoU of every class at every stage, as bars.

    Attributes:
        legend: [(title of a stage, colour)].
        rows: [(name of a class, its bars)].
        left_out: names of the classes without a pixel in the ground truth.
        about: a sentence on what was scored; '' for none.
    """

    legend: list[tuple[str, int]]
    rows: list[tuple[str, list[Bar]]]
    left_out: list[str]
    about: str = ''


def colour_of(place: int) -> int:
    """The colour of the line or the bar at a place, counted from 0."""
    return place % COLOURS + 1


def class_chart(results: Sequence[tuple[str, dict]], about: str = '') -> ClassChart:
    """The IoU of every class.

    Args:
        results: (title of a stage, its result of eval.py); at least one.
        about: a sentence on what was scored.
    """
    legend = []
    bars: dict[str, list[Bar]] = {}
    pixels: dict[str, int] = {}
    for place, (title, result) in enumerate(results):
        legend.append((title, colour_of(place)))
        for name, count in result['pixels'].items():
            pixels[name] = pixels.get(name, 0) + count
            bars.setdefault(name, []).append(Bar(title, result[name], colour_of(place)))
    rows = [(name, bars[name]) for name in bars if pixels[name] > 0]
    left_out = [name for name in bars if pixels[name] == 0]
    return ClassChart(legend, rows, left_out, about)


def threshold_chart(title: str, scores: dict) -> Chart:
    """The mIoU at every background score, from a result of eval.py --curve."""
    xs, ys = scores['curve_t'], scores['curve_mIoU']
    x_axis = Axis(min(xs), max(xs), LEFT, RIGHT)
    y_axis = Axis(*_padded(ys), BOTTOM, TOP)
    best, chosen = max(ys), scores['t']
    mark = Mark(
        x_axis.position(chosen),
        y_axis.position(best),
        f'{best:.2f} at background score {chosen:.2f}',
    )
    line = Line('mIoU', '', _points(xs, ys, x_axis, y_axis), 1)
    return Chart(
        title, 'background score', 'mIoU (%)', x_axis.ticks(), y_axis.ticks(), [line], mark
    )


def histogram_chart(title: str, result: dict) -> Chart:
    """The histogram of the CAMs' scores, from a result of tool.cam_threshold."""
    counts = result['histogram']
    total = max(1, sum(counts))
    shares = [100 * count / total for count in counts]
    smallest = min((share for share in shares if share > 0), default=1.0)
    x_axis = Axis(0.0, 1.0, LEFT, RIGHT)
    y_axis = Axis(*_log_range(smallest, max(*shares, smallest)), BOTTOM, TOP, is_log=True)
    chosen = result['t']
    mark = Mark(x_axis.position(chosen), None, f'chosen: background score {chosen:.2f}')
    line = Line('pixels', '', _points(result['curve_t'], shares, x_axis, y_axis), 1)
    return Chart(
        title,
        'score of the strongest class',
        'share of the pixels (%)',
        x_axis.ticks(),
        y_axis.ticks(),
        [line],
        mark,
    )


def loss_chart(title: str, steps: Sequence[float], losses: dict[str, list[float]]) -> Chart:
    """The losses of a training against its steps, each point the mean of a few steps.

    Args:
        title: the heading.
        steps: numbers of the steps; at least one.
        losses: {name: values}, a value for every step. The loss named 'loss' is their sum.
    """
    xs = binned(steps)
    means = {name: binned(values) for name, values in losses.items()}
    everything: list[float] = []
    for values in means.values():
        everything += values
    is_log = min(everything) > 0
    limits = _log_range(min(everything), max(everything)) if is_log else _padded(everything)
    x_axis = Axis(*_widened(min(xs), max(xs)), LEFT, RIGHT)
    y_axis = Axis(*limits, BOTTOM, TOP, is_log)
    lines = []
    for name, values in means.items():
        colour = INK if name == 'loss' else colour_of(len(lines))
        last = f'{values[-1]:.3g}'
        lines.append(Line(name, last, _points(xs, values, x_axis, y_axis), colour))
    return Chart(title, 'step', 'loss', x_axis.ticks(), y_axis.ticks(), lines)


def binned(values: Sequence[float]) -> list[float]:
    """The means of at most POINTS parts of the values, all of the same length but the last."""
    length = math.ceil(len(values) / POINTS)
    means = []
    for first in range(0, len(values), length):
        part = values[first : first + length]
        means.append(sum(part) / len(part))
    return means


def _points(xs: Sequence[float], ys: Sequence[float], x_axis: Axis, y_axis: Axis) -> str:
    """The points of a line as the attribute of an SVG polyline."""
    pairs = []
    for x, y in zip(xs, ys):
        pairs.append(f'{x_axis.position(x):g},{y_axis.position(y):g}')
    return ' '.join(pairs)


def _widened(low: float, high: float) -> tuple[float, float]:
    """The two limits, apart from each other."""
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """The limits of an axis with a little room above and below the values."""
    low, high = _widened(min(values), max(values))
    room = 0.06 * (high - low)
    return low - room, high + room


def _log_range(low: float, high: float) -> tuple[float, float]:
    """The limits of a logarithmic axis, which has room for at least two ticks."""
    low, high = low / 1.15, high * 1.15
    if high / low < 4:
        middle = math.sqrt(low * high)
        low, high = middle / 2, middle * 2
    return low, high


def _steps(low: float, high: float) -> list[float]:
    """Three to seven round values from low to high; the one value where both are the same."""
    if high <= low:
        return [low]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _log_steps(low: float, high: float) -> list[float]:
    """The powers of ten from low to high, and where they are few, 2 and 5 times them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    decades = math.log10(high / low)
    factors = (1,) if decades > 2 else (1, 2, 5)
    values = []
    for power in powers:
        for factor in factors:
            value = factor * 10.0**power
            if low <= value <= high:
                values.append(value)
    return values
