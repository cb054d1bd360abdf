"""tool/train/log.py: logs that a continued run goes on with."""

import contextlib
import json
import os
import sys

import pytest

from full_disk import files_of_at_most
from tool.run.errors import OutputError, UserError
from tool.run.progress import progress
from tool.train.log import RunLog, commit


def steps(path):
    return [json.loads(line)['step'] for line in path.read_text().splitlines()]


def write_run(session, first, last):
    log = RunLog(str(session), first_step=first)
    log.header(images=12, batch_size=4)
    for step in range(first, last):
        log.records([{'step': step, 'loss': step / 2}])
    log.say('done')
    log.close()


def test_records_and_text(tmp_path, capsys):
    write_run(tmp_path / 'new/run', 0, 3)
    lines = (tmp_path / 'new/run.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{'step': s, 'loss': s / 2} for s in range(3)]
    text = (tmp_path / 'new/run.log').read_text()
    assert text.startswith('command: ' + ' '.join(sys.argv)) and 'batch size: 4\ndone\n' in text
    assert capsys.readouterr().out == text


def test_continued_run_drops_what_it_will_write_again(tmp_path):
    write_run(tmp_path / 'run', 0, 10)
    with open(tmp_path / 'run.jsonl', 'a') as file:
        file.write('{"step": 10, "loss"')  # broken off here
    write_run(tmp_path / 'run', 6, 8)
    assert steps(tmp_path / 'run.jsonl') == [0, 1, 2, 3, 4, 5, 6, 7]
    assert (tmp_path / 'run.log').read_text().count('done\n') == 2
    write_run(tmp_path / 'run', 0, 2)
    assert (
        steps(tmp_path / 'run.jsonl') == [0, 1]
        and (tmp_path / 'run.log').read_text().count('done\n') == 1
    )


def test_a_new_log_leaves_a_backup_of_the_old_one_as_it_is(tmp_path):
    """A backup by hard links, as rsync and cp -l make them."""
    write_run(tmp_path / 'run', 0, 3)
    before = {}
    for ending in ('.log', '.jsonl'):
        before[ending] = (tmp_path / f'run{ending}').read_bytes()
        os.link(tmp_path / f'run{ending}', tmp_path / f'backup{ending}')
    write_run(tmp_path / 'run', 0, 2)
    for ending in ('.log', '.jsonl'):
        assert (tmp_path / f'backup{ending}').read_bytes() == before[ending]
    assert steps(tmp_path / 'run.jsonl') == [0, 1]


@pytest.mark.parametrize('ending', ['.log', '.jsonl'])
def test_a_log_that_is_a_link_is_written_where_it_leads(tmp_path, ending):
    (tmp_path / 'disk').mkdir()
    target = tmp_path / 'disk' / 'target'
    (tmp_path / f'run{ending}').symlink_to(target)
    for first, last in ((0, 3), (2, 4), (0, 2)):  # new, continued, begun anew
        write_run(tmp_path / 'run', first, last)
        assert (tmp_path / f'run{ending}').is_symlink()
        assert target.read_bytes() and os.listdir(tmp_path / 'disk') == ['target']
    assert steps(tmp_path / 'run.jsonl') == [0, 1]


def test_logs_on_a_device(tmp_path):
    # a terminal of its own: a mistake here must not replace a device of this machine
    keyboard, screen = os.openpty()
    (tmp_path / 'run.jsonl').symlink_to(os.ttyname(screen))
    write_run(tmp_path / 'run', 0, 1)
    write_run(tmp_path / 'run', 1, 2)
    shown = b''
    while b'"step": 1' not in shown:  # a terminal may give one line at a time
        shown += os.read(keyboard, 1000)
    assert (tmp_path / 'run.jsonl').is_char_device()
    os.close(keyboard)
    os.close(screen)


def test_tensorboard_is_written_where_asked(tmp_path):
    log = RunLog(str(tmp_path / 'run'), str(tmp_path / 'board'))
    log.scalars(3, {'loss': 0.5})
    log.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / 'board')).Reload().Scalars('loss')
    assert [(event.step, event.value) for event in events] == [(3, 0.5)]


def test_lines_that_are_said_do_not_repeat_the_progress(tmp_path, capsys):
    log, bar = RunLog(str(tmp_path / 'run')), progress(total=20, desc='train')
    for step in range(20):
        bar.update()
        log.say(f'step {step}')
    bar.close()
    log.close()
    out, err = capsys.readouterr()
    assert (
        '20/20' in err and len(err.splitlines()) <= 2 and '\r' not in err
    )  # a second one only after half a minute
    assert out.splitlines() == [f'step {step}' for step in range(20)]


def test_commit_is_a_hash_or_none():
    name = commit()
    assert name == 'none' or int(name.rstrip('+'), 16) > 0


@pytest.mark.parametrize(
    'line',
    ['{"step": "3"}', '{"step": -1}', '[1]', '3', '{}', 'loss 0.5', '{"step": 1', '[' * 100_000],
)
def test_an_edited_line_of_the_records_is_named(tmp_path, line):
    write_run(tmp_path / 'run', 0, 3)
    path = tmp_path / 'run.jsonl'
    lines = path.read_text().splitlines()
    path.write_text('\n'.join([lines[0], line, *lines[2:]]) + '\n')
    before = path.read_bytes()
    with pytest.raises(UserError, match='run.jsonl: line 2 is not a record .* move it away'):
        RunLog(str(tmp_path / 'run'), first_step=3)
    assert path.read_bytes() == before


def test_records_that_are_no_text(tmp_path):
    (tmp_path / 'run.jsonl').write_bytes(b'\xff\xfe\n')
    with pytest.raises(UserError, match='run.jsonl: cannot be read'):
        RunLog(str(tmp_path / 'run'), first_step=3)


@pytest.mark.parametrize('name', ['run.log', 'run.jsonl'])
def test_a_log_that_is_a_folder(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(OutputError, match=f'{name}: cannot be written'):
        RunLog(str(tmp_path / 'run'))


def test_a_full_disk_is_one_error_of_each_log(tmp_path, capsys):  # capsys: in memory
    log = RunLog(str(tmp_path / 'run'))
    log.say('x' * 300)
    with files_of_at_most(310):
        with pytest.raises(OutputError, match='run.log: cannot be written .File too large'):
            log.say('y' * 300)
        with pytest.raises(OutputError, match='run.jsonl: cannot be written .File too large'):
            log.records([{'step': step} for step in range(100)])
    log.close()
    # what was written before is there, and the next run drops the half-written record
    assert (tmp_path / 'run.log').read_text().startswith('x' * 300 + '\n')
    RunLog(str(tmp_path / 'run'), first_step=2).close()
    assert steps(tmp_path / 'run.jsonl') == [0, 1]


def test_a_full_disk_of_tensorboard_is_one_error(tmp_path, capfd):
    log = RunLog(str(tmp_path / 'run'), str(tmp_path / 'board'))
    with files_of_at_most(500), pytest.raises(OutputError, match=r'board \(TensorBoard\): cannot'):
        for step in range(1000):
            log.scalars(step, {'loss': 0.5})
        log.close()
    with contextlib.suppress(OutputError):
        log.close()
    assert 'Traceback' not in capfd.readouterr().err


def test_a_tensorboard_folder_that_cannot_be(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OutputError, match=r'file/board \(TensorBoard\): cannot be written'):
        RunLog(str(tmp_path / 'run'), str(tmp_path / 'file' / 'board'))
