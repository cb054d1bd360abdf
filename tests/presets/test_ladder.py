"""tool/presets/ladder.py: rows, table and clock."""

import json

import pytest

from tool.presets.ladder import clock, ladder_row, ladder_table, read_scores
from tool.run.errors import UserError
from voc12.classes import CLASSES


def test_ladder_row_and_table():
    scores = {
        **dict.fromkeys(CLASSES, 0.0),
        'background': 84.0,
        'cat': 42.0,
        'dog': 21.0,
        'mIoU': 99.0,
        'list': 'a/train.txt',
        'images': 7,
        'gt_dir': '/voc/SegmentationClass/',
        'predict_dir': 'p',
        't': 0.3,
        'pixels': {**dict.fromkeys(CLASSES, 1000), 'background': 5000, 'cat': 1001},
    }
    row = ladder_row('seeds', scores, [], 12.34)
    assert row == {
        'row': 'seeds',
        'mIoU': 7.0,
        't': 0.3,
        'list': 'a/train.txt',
        'images': 7,
        'gt_dir': '/voc/SegmentationClass/',
        'predict_dir': 'p',
        'seconds': 12.3,
    }
    row = ladder_row('seeds', scores, ['cat', 'dog', 'cow'], 1)
    assert row['core'] == 21 and row['occurring'] == 63
    head, line, total = ladder_table([row], 200).splitlines()
    assert head.split() == [
        'mIoU',
        'core',
        'occurring',
        'scored',
        'on',
        'pictures',
        'against',
        'time',
    ]
    assert line.split() == [
        'seeds',
        '7.0',
        '21.0',
        '63.0',
        'train',
        '7',
        'SegmentationClass',
        '1',
        's',
    ]
    assert total.split() == ['all', 'stages', '3:20', 'min']
    assert [clock(seconds) for seconds in (0.4, 99, 100, 5990, 6000, 8000)] == [
        '0 s',
        '99 s',
        '1:40 min',
        '99:50 min',
        '1:40 h',
        '2:13 h',
    ]


@pytest.mark.parametrize(
    'text',
    ['[]', '5', '{"mIoU": 3}', '{"mIoU": 3, "pixels": {}}', '{"mIoU": 3, "pixels": {"cat": 1}}']
    + ['{"mIoU": 3, "cat": "a", "pixels": {"cat": 1}}', '{"mIoU": 3, "pixels": "cat"}', '[' * 9999],
)
def test_scores_that_are_none_are_one_line(tmp_path, text):
    path = tmp_path / 'scores.json'
    path.write_text(text)
    with pytest.raises(UserError, match='scores.json: no scores of eval.py'):
        read_scores(str(path), ['cat'])


@pytest.mark.parametrize(
    'changed, reason',
    [
        ({'mIoU': None}, 'none of mIoU, histogram, agreement'),
        ({'t': '0.3'}, 't is no number'),
        ({'curve_t': 5}, 'curve_t is no list of numbers'),
        ({'curve_t': [0.1], 'curve_mIoU': ['x']}, 'curve_mIoU is no list of numbers'),
        ({'curve_t': [0.1], 't': None}, 'a curve without t'),
        ({'mIoU': None, 'agreement': 'high'}, 'agreement is no number'),
        ({'images': None}, 'no images'),
        ({'gt_dir': 5}, 'gt_dir is no text'),
        ({'cat': None, 'dog': 3, 'pixels': {'dog': 1}}, 'it lacks the class cat'),
    ],
)
def test_scores_that_somebody_has_edited_are_one_line(tmp_path, changed, reason):
    scores = {'mIoU': 3, 'cat': 3, 'pixels': {'cat': 1}, 'list': 'a.txt', 'images': 1, 't': 0.3}
    path = tmp_path / 'scores.json'
    path.write_text(json.dumps(scores))
    assert read_scores(str(path), ['cat']) == scores
    edited = {key: value for key, value in {**scores, **changed}.items() if value is not None}
    path.write_text(json.dumps(edited))
    with pytest.raises(UserError, match=f'scores.json: no scores of eval.py .{reason}'):
        read_scores(str(path), ['cat'])
