"""tool/files/records.py: from what the files of an output folder were made."""

import json
import os

import pytest

from tool.files.records import (
    FileState,
    Inputs,
    RecordFile,
    made_from,
    read_records,
    remove_records,
    state_of,
    with_digest,
)
from tool.run.errors import UserError


@pytest.fixture
def files(tmp_path):
    """An input and an output, with the record of the output."""
    source = tmp_path / 'a.jpg'
    target = tmp_path / 'a.png'
    source.write_bytes(b'source')
    target.write_bytes(b'target')
    inputs = Inputs((str(source),), (0, 14))
    (made,) = made_from(inputs, [state_of(str(source))], [str(target)])
    return source, target, inputs, made


def touch(path):
    """Give a file a new time of change, as copying does."""
    os.utime(path, ns=(1, 1))


def test_a_record_is_read_as_it_was_written(tmp_path, files):
    _, _, _, made = files
    record = RecordFile(str(tmp_path), 0)
    record.begin('a')
    assert read_records(str(tmp_path))['a'].is_begun
    record.complete('a', made)
    record.begin('ü "b"')
    histories = read_records(str(tmp_path))
    assert histories['a'].made == [made] and not histories['a'].is_begun
    assert histories['ü "b"'].is_begun and histories['ü "b"'].made == []
    remove_records(str(tmp_path))
    assert read_records(str(tmp_path)) == {}


def test_records_of_several_processes_are_ordered_by_time(tmp_path, files):
    _, _, _, made = files
    first, second = RecordFile(str(tmp_path), 0), RecordFile(str(tmp_path), 1)
    second.begin('a')
    first.complete('a', made)
    assert not read_records(str(tmp_path))['a'].is_begun
    second.begin('a')
    assert read_records(str(tmp_path))['a'].is_begun


def test_the_content_decides_where_only_the_time_is_another(files):
    source, _, inputs, made = files
    assert made.has_inputs(inputs)
    touch(source)
    assert made.has_inputs(inputs)
    source.write_bytes(b'edited')  # of the same size
    assert not made.has_inputs(inputs)
    source.unlink()
    assert not made.has_inputs(inputs)


def test_other_facts_or_other_files_are_other_inputs(files):
    source, target, inputs, made = files
    assert made.has_inputs(Inputs(inputs.files, [0, 14]))  # as JSON has it
    assert not made.has_inputs(Inputs(inputs.files, [0]))
    assert not made.has_inputs(Inputs((str(source), str(target)), [0, 14]))


def test_an_input_that_changes_while_it_is_used_matches_nothing_later(files):
    source, target, inputs, _ = files
    before = state_of(str(source))
    source.write_bytes(b'changed meanwhile')
    (made,) = made_from(inputs, [before], [str(target)])
    assert made.inputs[0].digest == '' and not made.has_inputs(inputs)


def test_the_state_of_something_that_is_no_file_is_none(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    for name in ('pipe', 'nothing', '.'):
        assert state_of(str(tmp_path / name)) is None
    assert with_digest(None, 'nothing') is None
    assert not FileState(0, 0).is_unchanged(str(tmp_path / 'pipe'))


@pytest.mark.parametrize(
    'line',
    [
        '{"name": "a", "at": 1.0, "inputs": [], "output": [1, 2',
        '[]',
        '3',
        '{"name": 3, "at": 1.0}',
        '{"name": "a", "at": "now"}',
        '[' * 100_000,
        '\0\xff',
    ],
)
def test_lines_that_are_no_records_are_passed_over(tmp_path, files, line):
    _, _, _, made = files
    path = tmp_path / '.records-0.jsonl'
    path.write_text(line, encoding='latin-1')
    RecordFile(str(tmp_path), 0).complete('b', made)  # begins on a line of its own
    histories = read_records(str(tmp_path))
    assert list(histories) == ['b'] and histories['b'].made == [made]


@pytest.mark.parametrize('output', ['[1, 2]', '["1", 2, ""]', 'null', '{}', '[1, 2, 3]'])
def test_a_record_without_a_proper_output_counts_as_begun(tmp_path, output):
    path = tmp_path / '.records-0.jsonl'
    line = f'{{"name": "a", "at": 1.0, "inputs": [[1, 2, "x"]], "facts": 0, "output": {output}}}\n'
    path.write_text(line)
    history = read_records(str(tmp_path))['a']
    assert history.is_begun and history.made == []


def test_a_record_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / '.records-0.jsonl').mkdir()
    with pytest.raises(UserError, match=r'\.records-0\.jsonl: cannot be written'):
        RecordFile(str(tmp_path), 0).begin('a')


def test_a_pipe_in_place_of_the_records_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / '.records-0.jsonl')
    with pytest.raises(UserError, match='records-0.jsonl: cannot be written .a pipe'):
        RecordFile(str(tmp_path), 0)


def test_every_record_is_one_line_of_json(tmp_path, files):
    _, _, _, made = files
    record = RecordFile(str(tmp_path), 3)
    record.complete('line\nbreak', made)
    (line,) = (tmp_path / '.records-3.jsonl').read_text().splitlines()
    assert json.loads(line)['name'] == 'line\nbreak'
