"""What the report reads of a work folder, also of one that was moved or is damaged."""

import json

import pytest

from made_up_run import make_run
from tool.report_page.run_files import read_run, split_words
from tool.run.errors import UserError


def test_words_of_a_command():
    words = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', 'eval.py']
    assert split_words([*words, '--list', 'a']) == ('eval.py', {'list': ['a']})
    script, flags = split_words(['-m', 'tool.seed_masks', '--crf', '--scales', '1', '2'])
    assert (script, flags) == ('tool.seed_masks', {'crf': [], 'scales': ['1', '2']})
    script, flags = split_words(['segmentation/x/test.py', '--set', 'A=1', 'B=x=y'])
    assert script == 'test.py' and (flags['A'], flags['B']) == (['1'], ['x=y'])


def test_a_run(tmp_path):
    work, _ = make_run(tmp_path)
    run = read_run(str(work))
    assert (run.preset, len(run.rows()), len(run.commands)) == ('toy', 2, 6)
    assert [run.title_of(scores) for scores in run.scores] == ['seeds, best', 'random walk']
    (training,) = run.trainings
    assert len(training.steps) == 300 and training.losses['loss'][0] == 4  # not the broken line
    assert run.notes == {'versions': 'python 3.9.9, torch 1.2.3', 'device': 'cpu'}
    assert run.commands[0].text().endswith(f"--session_name '{work}/train'")


def test_a_run_that_was_moved(tmp_path):
    work, _ = make_run(tmp_path)
    moved = work.rename(tmp_path / 'moved')
    run = read_run(str(moved))
    assert run.first_flag('out_cam') == str(moved / 'cam') and len(run.scores) == 2
    assert run.locate('/nowhere/at/all') == '/nowhere/at/all' and run.locate('') == ''


@pytest.mark.parametrize(
    'file, change',
    [
        ('ladder.json', {'rows': [{'row': 'a'}]}),
        ('ladder.json', {'rows': 3}),
        ('ladder.json', {'rows': [{'row': 'a', 'list': 'l', 'images': [], 'seconds': 1}]}),
        ('ladder.json', {'rows': [{'row': 'a', 'list': 5, 'images': 3, 'seconds': 1}]}),
        ('ladder.json', {'seconds': float('nan')}),
        ('ladder.json', {'choices': 5}),
        ('pipeline.json', {'stages': {'train': {'command': ['a.py']}}}),
        ('pipeline.json', {'stages': {'a': {'command': [], 'seconds': 1, 'done': True}}}),
        ('pipeline.json', {'stages': {'a': {'command': ['a'], 'seconds': 1e999, 'done': True}}}),
        ('scores/walk.json', {'pixels': {'unicorn': 3}}),
        ('scores/walk.json', {'curve_t': [0.1, 0.2], 'curve_mIoU': [3], 't': 0.1}),
        ('scores/walk.json', {'curve_t': [0.1], 'curve_mIoU': [True], 't': 0.1}),
        ('scores/walk.json', {'histogram': 'x'}),
    ],
)
def test_damaged_files(tmp_path, file, change):
    work, _ = make_run(tmp_path)
    path = work / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match='damaged') as error:
        read_run(str(work))
    assert str(path) in str(error.value)
    path.write_text('{')
    with pytest.raises(UserError, match='damaged'):
        read_run(str(work))
