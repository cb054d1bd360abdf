"""tool/train/log.py: logs that a continued run goes on with."""

import json
import sys

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
