"""Where the charts of the report have their lines, ticks and marks."""

import pytest

from tool.report_page.charts import (
    BOTTOM,
    INK,
    LEFT,
    POINTS,
    RIGHT,
    TOP,
    Axis,
    binned,
    class_chart,
    histogram_chart,
    loss_chart,
    threshold_chart,
)


def texts(ticks):
    return [tick.text for tick in ticks]


def points_of(line):
    return [tuple(map(float, point.split(','))) for point in line.points.split()]


def test_a_linear_axis():
    axis = Axis(0, 50, 0, 100)
    assert axis.position(25) == 50 and axis.position(60) == 100 and axis.position(-1) == 0
    assert texts(axis.ticks()) == ['0', '10', '20', '30', '40', '50']
    assert [tick.position for tick in axis.ticks()][:2] == [0, 20]
    assert texts(Axis(0.04, 0.59, 0, 1).ticks()) == ['0.2', '0.4']


def test_a_logarithmic_axis():
    axis = Axis(0.01, 100, 200, 0, is_log=True)
    assert axis.position(1) == 100 and axis.position(0) == 200
    assert texts(axis.ticks()) == ['0.01', '0.1', '1', '10', '100']
    assert texts(Axis(0.3, 4, 0, 1, is_log=True).ticks()) == ['0.5', '1', '2']


def test_binned():
    assert binned([1, 2, 3]) == [1, 2, 3]
    assert binned(range(2 * POINTS + 1)) == [1 + 3 * part for part in range(67)]


def test_threshold_chart():
    scores = {'t': 0.3, 'curve_t': [0, 0.3, 0.6], 'curve_mIoU': [10, 60, 20]}
    chart = threshold_chart('seeds', scores)
    first, best, last = points_of(chart.lines[0])
    assert (first[0], last[0]) == (LEFT, RIGHT) and first[1] > last[1] > best[1] > TOP
    assert (chart.mark.x, chart.mark.y) == best
    assert chart.mark.text == '60.00 at background score 0.30'


def test_histogram_chart_with_an_empty_bin():
    result = {'t': 0.25, 'curve_t': [0, 0.25, 0.5, 0.75], 'histogram': [890, 100, 10, 0]}
    chart = histogram_chart('seeds', result)
    heights = [y for _, y in points_of(chart.lines[0])]
    assert heights == sorted(heights) and heights[-1] == BOTTOM
    assert texts(chart.y_ticks) == ['1', '10', '100'] and chart.mark.y is None
    assert chart.mark.x == pytest.approx(LEFT + 0.25 * (RIGHT - LEFT), abs=0.1)


def test_loss_chart():
    chart = loss_chart('train', [0, 1], {'loss_cls': [1.0, 0.25], 'loss': [10.0, 0.5]})
    cls, total = chart.lines
    assert (cls.colour, cls.value) == (1, '0.25') and (total.colour, total.value) == (INK, '0.5')
    assert '10' in texts(chart.y_ticks)
    below_zero = loss_chart('train', [5], {'loss': [-1.0]})
    assert len(points_of(below_zero.lines[0])) == 1 and '-1' in texts(below_zero.y_ticks)


def test_class_chart_leaves_out_what_never_occurs():
    first = {'a': 50.0, 'b': 0.0, 'c': 0.0, 'pixels': {'a': 9, 'b': 0, 'c': 0}}
    second = {'a': 60.0, 'b': 7.0, 'c': 0.0, 'pixels': {'a': 9, 'b': 2, 'c': 0}}
    chart = class_chart([('one', first), ('two', second)])
    assert chart.legend == [('one', 1), ('two', 2)] and chart.left_out == ['c']
    values = {name: [bar.value for bar in bars] for name, bars in chart.rows}
    assert values == {'a': [50, 60], 'b': [0, 7]}


def test_a_curve_with_one_threshold_is_a_point():
    chart = threshold_chart('seeds', {'curve_t': [0.3], 'curve_mIoU': [50.0], 't': 0.3})
    assert [tick.text for tick in chart.x_ticks] == ['0.3']
