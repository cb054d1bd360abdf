"""tool/files/picture_stage.py: whose pictures, what is missing, and what is said."""

import json
import sys

import pytest

from tool.files import picture_stage
from tool.files.manifest import MANIFEST
from tool.files.picture_stage import Output, PictureStage, lacking
from tool.run.errors import UserError

NAMES = ['a', 'b', 'c']


def outputs(folder):
    return [
        Output(str(folder / 'cam'), '.npy', {'stage': 'toy'}),
        Output(str(folder / 'png'), '.png', {'stage': 'toy', 't': 0.3}),
    ]


def write(path):
    """What the pool runs."""
    with open(path, 'w', encoding='utf-8') as file:
        file.write('made')


def work(stage, jobs=0):
    """Write what every picture lacks."""
    tasks = [(output.path(name),) for name, lacked in stage.todo.items() for output in lacked]
    stage.map(write, tasks, jobs)


@pytest.mark.parametrize('jobs', [0, 2])
def test_what_is_missing_is_made_and_told(tmp_path, capsys, jobs):
    stage = PictureStage('toy', NAMES)
    stage.claim(outputs(tmp_path))
    assert json.loads((tmp_path / 'png' / MANIFEST).read_text()) == {'stage': 'toy', 't': 0.3}
    work(stage, jobs)
    stage.report(' (list.txt)')
    folders = f'{tmp_path}/cam and {tmp_path}/png'
    assert capsys.readouterr().out == (
        f'3 pictures (list.txt): 3 made, 0 were there; in {folders}\n'
    )

    (tmp_path / 'png' / 'b.png').unlink()
    (tmp_path / 'cam' / 'a.npy').write_text('was there')
    stage = PictureStage('toy', NAMES)
    stage.claim(outputs(tmp_path))
    assert {name: [o.extension for o in lacked] for name, lacked in stage.todo.items()} == {
        'b': ['.png']
    }
    work(stage, jobs)
    stage.report(where='here')
    assert capsys.readouterr().out == '3 pictures: 1 made, 2 were there; in here\n'
    assert (tmp_path / 'cam' / 'a.npy').read_text() == 'was there'
    assert lacking(NAMES, outputs(tmp_path)) == {}


def test_output_of_other_settings_is_refused_or_replaced(tmp_path):
    stage = PictureStage('toy', NAMES)
    stage.claim(outputs(tmp_path))
    work(stage)
    other = [Output(str(tmp_path / 'cam'), '.npy', {'stage': 'other'})]
    with pytest.raises(UserError, match='stage = toy, now stage = other; use --overwrite'):
        PictureStage('toy', NAMES).claim(other)
    stage = PictureStage('toy', NAMES, overwrite=True)
    stage.claim(other)
    assert list(stage.todo) == NAMES


def test_each_process_has_its_share_and_the_first_speaks(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('WORLD_SIZE', '2')
    shares = []
    for rank in ('0', '1'):
        monkeypatch.setenv('RANK', rank)
        stage = PictureStage('toy', NAMES)
        stage.claim(outputs(tmp_path))
        work(stage)
        stage.report()
        shares.append(list(stage.todo))
    assert shares == [['a', 'c'], ['b']]
    assert capsys.readouterr().out.count('pictures') == 1
    with pytest.raises(UserError, match='--overwrite: not with 2 processes'):
        PictureStage('toy', NAMES, overwrite=True)


def test_the_backend_is_checked_only_where_something_is_to_do(tmp_path, monkeypatch):
    checked = []

    def note(backend, option):
        checked.append((backend, option))

    monkeypatch.setattr(picture_stage, 'need_crf_backend', note)
    stage = PictureStage('toy', NAMES)
    stage.claim(outputs(tmp_path), 'numba')
    work(stage)
    stage.claim(outputs(tmp_path), 'numba')
    assert checked == [('numba', '--crf_backend')] and stage.todo == {}


def test_a_backend_that_is_not_installed_is_refused_where_a_picture_is_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pydensecrf', None)
    stage = PictureStage('toy', NAMES)
    with pytest.raises(UserError, match='^--crf_backend pydensecrf: the package is not installed'):
        stage.claim(outputs(tmp_path), 'pydensecrf')
    work(stage)
    stage.claim(outputs(tmp_path), 'pydensecrf')
    assert stage.todo == {}
