"""tool/files/picture_stage.py: whose pictures, what has to be made, and what is said."""

import errno
import json
import os
import shutil
import sys
import time

import pytest

from tool.files import folder_locks, picture_stage
from tool.files.atomic import write_text
from tool.files.folder_locks import FolderLocks
from tool.files.manifest import MANIFEST
from tool.files.picture_stage import CatchesProblems, Output, PictureStage
from tool.files.records import Inputs, record_files
from tool.run.errors import OutputError, UserError

NAMES = ['a', 'b', 'c']


@pytest.fixture
def sources(tmp_path):
    """A folder with one file to read for each picture."""
    folder = tmp_path / 'sources'
    folder.mkdir()
    for name in NAMES:
        (folder / f'{name}.jpg').write_text(f'picture {name}')
    return folder


@pytest.fixture
def inputs(sources):
    """What the toy stage reads: the file of the picture, and a label."""

    def inputs_of(name, label=1):
        return Inputs((str(sources / f'{name}.jpg'),), [label])

    return inputs_of


def outputs(folder):
    return [
        Output(str(folder / 'cam'), '.npy', {'stage': 'toy'}),
        Output(str(folder / 'png'), '.png', {'stage': 'toy', 't': 0.3}),
    ]


def write(source, *paths):
    """What the pool runs: the text of the source, in each file."""
    with open(source, encoding='utf-8') as file:
        text = file.read()
    if text == 'damaged':
        raise UserError(f'{source}: damaged')
    if text == 'too large':
        raise OutputError(f'{paths[0]}: cannot be written')
    if text == 'of a long name':
        write_text(paths[0].replace('.npy', 250 * 'x' + '.npy'), text)
    for path in paths:
        with open(path, 'w', encoding='utf-8') as file:
            file.write(f'made of {text}')


def start(inputs, wanted, names=NAMES, **options):
    """A stage that has claimed its folders."""
    stage = PictureStage('toy', names, **options)
    stage.claim(wanted, inputs)
    return stage


def work(stage, inputs, jobs=0):
    """Write the files of every picture to do, in all outputs."""
    tasks = []
    for name in stage.todo:
        paths = [output.path(name) for output in stage.outputs]
        tasks.append((name, (inputs(name).files[0], *paths)))
    stage.map(write, tasks, jobs)


def todo(stage):
    """{name: extensions of the files to make}."""
    return {name: [output.extension for output in lacked] for name, lacked in stage.todo.items()}


@pytest.mark.parametrize('jobs', [0, 2])
def test_what_is_missing_is_made_and_told(tmp_path, inputs, capsys, jobs):
    stage = start(inputs, outputs(tmp_path))
    assert json.loads((tmp_path / 'png' / MANIFEST).read_text()) == {'stage': 'toy', 't': 0.3}
    work(stage, inputs, jobs)
    stage.report(' (list.txt)')
    folders = f'{tmp_path}/cam and {tmp_path}/png'
    assert capsys.readouterr().out == (
        f'3 pictures (list.txt): 3 made, 0 were there; in {folders}\n'
    )
    assert (tmp_path / 'cam' / 'a.npy').read_text() == 'made of picture a'

    (tmp_path / 'png' / 'b.png').unlink()
    stage = start(inputs, outputs(tmp_path))
    assert todo(stage) == {'b': ['.png']}
    work(stage, inputs, jobs)
    stage.report(where='here')
    assert capsys.readouterr().out == '3 pictures: 1 made, 2 were there; in here\n'
    assert todo(start(inputs, outputs(tmp_path))) == {}


def test_only_pictures_with_changed_inputs_are_made_again(tmp_path, sources, inputs, capsys):
    work(start(inputs, outputs(tmp_path)), inputs)
    (sources / 'b.jpg').write_text('another b')

    def relabelled(name):
        return inputs(name, label=2 if name == 'c' else 1)

    stage = start(relabelled, outputs(tmp_path))
    assert todo(stage) == {'b': ['.npy', '.png'], 'c': ['.npy', '.png']}
    work(stage, inputs)
    assert (tmp_path / 'png' / 'b.png').read_text() == 'made of another b'
    assert '2 pictures are made again, because their inputs have changed, e.g. ' in (
        capsys.readouterr().out
    )
    assert todo(start(relabelled, outputs(tmp_path))) == {}
    # back to the old label: c came out of both labels as the same file
    assert todo(start(inputs, outputs(tmp_path))) == {}


def test_copies_of_inputs_and_outputs_are_the_same_files(tmp_path, sources, inputs):
    work(start(inputs, outputs(tmp_path)), inputs)
    for folder in (sources, tmp_path / 'cam', tmp_path / 'png'):
        copy = tmp_path / 'copy'
        shutil.copytree(folder, copy, copy_function=shutil.copyfile)  # with new mtimes
        shutil.rmtree(folder)
        copy.rename(folder)
    assert todo(start(inputs, outputs(tmp_path))) == {}


def test_empty_files_and_dangling_links_are_made_again(tmp_path, inputs):
    work(start(inputs, outputs(tmp_path)), inputs)
    (tmp_path / 'cam' / 'a.npy').write_text('')
    (tmp_path / 'png' / 'b.png').unlink()
    (tmp_path / 'png' / 'b.png').symlink_to(tmp_path / 'nowhere')
    assert todo(start(inputs, outputs(tmp_path))) == {'a': ['.npy'], 'b': ['.png']}


def test_a_file_that_was_begun_but_not_completed_is_made_again(tmp_path, inputs):
    work(start(inputs, outputs(tmp_path)), inputs)
    (records,) = record_files(str(tmp_path / 'cam'))
    lines = open(records, encoding='utf-8').read().splitlines(keepends=True)
    assert len(lines) == 6  # a beginning and an end for each picture
    with open(records, 'w', encoding='utf-8') as file:
        file.writelines(lines[:-1])
        file.write(lines[-1][:20])  # half a line: the process was killed
    stage = start(inputs, outputs(tmp_path))
    assert todo(stage) == {'c': ['.npy']}
    work(stage, inputs)
    assert todo(start(inputs, outputs(tmp_path))) == {}


def test_a_file_that_somebody_has_changed_is_refused_and_kept(tmp_path, inputs):
    work(start(inputs, outputs(tmp_path)), inputs)
    (tmp_path / 'png' / 'b.png').write_text('corrected by hand')
    with pytest.raises(UserError, match=r'b\.png: was changed after this stage had written it'):
        start(inputs, outputs(tmp_path))
    with pytest.raises(UserError, match='png: holds 1 files that this stage did not write, or'):
        start(inputs, outputs(tmp_path), overwrite=True)
    assert (tmp_path / 'png' / 'b.png').read_text() == 'corrected by hand'
    assert (tmp_path / 'png' / 'a.png').exists()


def test_a_file_without_a_record_is_refused_and_kept(tmp_path, inputs):
    work(start(inputs, outputs(tmp_path), names=['a']), inputs)
    (tmp_path / 'cam' / 'b.npy').write_text('of another tool')
    with pytest.raises(UserError, match=r'b\.npy: no record says what it was made from'):
        start(inputs, outputs(tmp_path))
    assert (tmp_path / 'cam' / 'b.npy').read_text() == 'of another tool'


def test_output_of_other_settings_is_refused_or_replaced(tmp_path, inputs):
    work(start(inputs, outputs(tmp_path)), inputs)
    other = [Output(str(tmp_path / 'cam'), '.npy', {'stage': 'toy', 'scale': 2})]
    with pytest.raises(UserError, match='scale = None, now scale = 2; use --overwrite'):
        start(inputs, other)
    stage = start(inputs, other, overwrite=True)
    assert list(stage.todo) == NAMES
    assert not (tmp_path / 'cam' / 'a.npy').exists()


def test_overwrite_removes_only_what_the_stage_has_written(tmp_path, inputs):
    work(start(inputs, outputs(tmp_path)), inputs)
    (tmp_path / 'cam' / 'mine.npy').write_text('of another tool')
    with pytest.raises(UserError, match='did not write, or that were changed since, e.g. mine.npy'):
        start(inputs, outputs(tmp_path), names=['a'], overwrite=True)
    assert sorted(path.name for path in (tmp_path / 'cam').glob('*.npy')) == [
        'a.npy',
        'b.npy',
        'c.npy',
        'mine.npy',
    ]


@pytest.mark.parametrize('link', [False, True])
def test_a_folder_of_inputs_is_no_output(tmp_path, sources, inputs, link):
    folder = sources
    if link:
        folder = tmp_path / 'link'
        folder.symlink_to(sources)
    with pytest.raises(UserError, match='is also the folder of inputs .*; use another'):
        start(inputs, [Output(str(folder), '.png', {'stage': 'toy'})], overwrite=True)
    assert sorted(os.listdir(sources)) == ['a.jpg', 'b.jpg', 'c.jpg']


def test_left_overs_of_killed_runs_are_removed(tmp_path, inputs):
    work(start(inputs, outputs(tmp_path), names=['a', 'b']), inputs)
    cam = tmp_path / 'cam'
    for name in ('.b.npy.x8hd_2sk.tmp', '.c.npy.abcdefgh.tmp', '.other.npy.abcdefgh.tmp'):
        (cam / name).write_text('half')
    start(inputs, outputs(tmp_path))
    assert [path.name for path in cam.glob('.*.tmp')] == ['.other.npy.abcdefgh.tmp']


def test_no_other_run_may_write_into_the_folders_at_the_same_time(tmp_path, inputs):
    stage = start(inputs, outputs(tmp_path))
    with pytest.raises(UserError, match='another run is writing there'):
        start(inputs, outputs(tmp_path))
    work(stage, inputs)
    assert todo(start(inputs, outputs(tmp_path))) == {}


def test_each_process_has_its_share_and_the_first_speaks(tmp_path, inputs, monkeypatch, capsys):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('LOCAL_RANK', '0')
    stages = []
    for rank in ('0', '1'):  # both at work at the same time
        monkeypatch.setenv('RANK', rank)
        stages.append(start(inputs, outputs(tmp_path)))
    with pytest.raises(UserError, match='another run is writing there'):
        start(inputs, outputs(tmp_path))
    other = [Output(str(tmp_path / 'cam'), '.npy', {'stage': 'toy', 'scale': 2})]
    stages[1]._locks.release()
    with pytest.raises(UserError, match='processes with other settings are writing there'):
        start(inputs, other)
    for rank, stage in enumerate(stages):
        monkeypatch.setenv('RANK', str(rank))
        work(stage, inputs)
        stage.report()
    assert [list(stage.todo) for stage in stages] == [['a', 'c'], ['b']]
    assert capsys.readouterr().out.count('pictures') == 1
    monkeypatch.delenv('WORLD_SIZE')
    monkeypatch.setenv('RANK', '0')
    assert todo(start(inputs, outputs(tmp_path))) == {}
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(UserError, match='--overwrite: not with 2 processes'):
        PictureStage('toy', NAMES, overwrite=True)


@pytest.mark.parametrize('jobs', [0, 2])
def test_pictures_that_cannot_be_made_stop_the_stage_or_are_left_out(
    tmp_path, sources, inputs, capsys, jobs
):
    (sources / 'b.jpg').write_text('damaged')
    stage = start(inputs, outputs(tmp_path))
    with pytest.raises(UserError, match=r'b\.jpg: damaged'):
        work(stage, inputs, jobs)

    stage = start(inputs, outputs(tmp_path), on_error='skip')
    work(stage, inputs, jobs)
    with pytest.raises(SystemExit) as stop:
        stage.report(where='here')
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    assert ', 1 left out; in here' in out
    assert err.splitlines()[-2:] == ['left out, 1 pictures:', f'  {sources}/b.jpg: damaged']

    (sources / 'b.jpg').write_text('picture b')
    stage = start(inputs, outputs(tmp_path), on_error='skip')
    assert list(stage.todo) == ['b']


@pytest.mark.parametrize('jobs', [0, 2])
def test_a_file_that_cannot_be_written_stops_the_stage_whatever_is_skipped(
    tmp_path, sources, inputs, jobs
):
    """It is no fault of the picture: with a full disk all that follow would be computed in vain."""
    (sources / 'a.jpg').write_text('too large')
    stage = start(inputs, outputs(tmp_path), on_error='skip')
    with pytest.raises(OutputError, match=r'a\.npy: cannot be written'):
        work(stage, inputs, jobs)
    assert stage.left_out == {}


@pytest.mark.parametrize('jobs', [0, 2])
def test_a_file_whose_name_is_too_long_is_left_out_like_a_bad_picture(
    tmp_path, sources, inputs, jobs
):
    (sources / 'a.jpg').write_text('of a long name')
    stage = start(inputs, outputs(tmp_path), on_error='skip')
    work(stage, inputs, jobs)
    assert list(stage.left_out) == ['a'] and 'shorter name' in stage.left_out['a']
    assert list(start(inputs, outputs(tmp_path)).todo) == ['a']


def test_a_complete_folder_on_a_read_only_disk_is_complete(tmp_path, inputs, monkeypatch, capsys):
    """Root may write everywhere, so the lock files and os.access stand for the disk."""

    class ReadOnly(folder_locks.FileLock):
        def _acquire(self):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    work(start(inputs, outputs(tmp_path)), inputs)
    before = sorted(tmp_path.rglob('*'))
    monkeypatch.setattr(folder_locks, 'FileLock', ReadOnly)
    monkeypatch.setattr(os, 'access', lambda path, mode: not mode & os.W_OK)
    capsys.readouterr()
    stage = start(inputs, outputs(tmp_path))
    work(stage, inputs)
    stage.report(where='here')
    assert '3 pictures: 0 made, 3 were there; in here' in capsys.readouterr().out
    for more in ({'names': [*NAMES, 'd']}, {'overwrite': True}):
        with pytest.raises(UserError, match='cannot be written .Read-only file system'):
            start(inputs, outputs(tmp_path), **more)
    with pytest.raises(UserError, match='was made with t = 0.3, now t = 0.4'):
        other = [Output(str(tmp_path / 'png'), '.png', {'stage': 'toy', 't': 0.4})]
        start(inputs, other)
    assert sorted(tmp_path.rglob('*')) == before


def test_the_other_processes_of_torchrun_are_waited_for_with_a_limit(
    tmp_path, sources, inputs, monkeypatch, capsys
):
    """torchrun would stop them as soon as the one that left out a picture has ended."""
    (sources / 'a.jpg').write_text('damaged')
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'one')
    monkeypatch.setenv('PPC_TIMEOUT', '0.5')
    stages = []
    for rank in ('0', '1'):
        monkeypatch.setenv('RANK', rank)
        stages.append(start(inputs, outputs(tmp_path), on_error='skip'))
    records = record_files(str(tmp_path / 'cam'))
    assert records == []  # the other one is at work, and has not begun a picture
    monkeypatch.setenv('RANK', '0')
    work(stages[0], inputs)
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) <= 20:  # it completes a picture at every look
            with open(tmp_path / 'cam' / '.records-1.jsonl', 'a') as file:
                file.write('a line\n')
        sleep(0.05)

    sleep = time.sleep
    monkeypatch.setattr(time, 'sleep', nap)
    begin = time.monotonic()
    with pytest.raises(SystemExit) as stop:
        stages[0].report()
    assert stop.value.code == 1 and 20 * 0.05 + 0.5 < time.monotonic() - begin < 10
    assert 'have completed no picture for 0.5 s, so they are not waited' in capsys.readouterr().err
    stages[1]._locks.release()
    naps.clear()
    with pytest.raises(SystemExit):
        stages[0].report()
    assert naps == [] and 'not waited' not in capsys.readouterr().err


def test_items_that_cannot_be_loaded_are_left_out(tmp_path, inputs):
    class Pictures:
        def __getitem__(self, index):
            if index == 1:
                raise UserError('b.jpg: damaged')
            return {'name': NAMES[index]}

    stage = start(inputs, outputs(tmp_path), on_error='skip')
    pictures = CatchesProblems(Pictures(), NAMES)
    with stage.writers(0):
        items = list(stage.usable(pictures[index] for index in range(len(pictures))))
    assert [item['name'] for item in items] == ['a', 'c']
    assert stage.left_out == {'b': 'b.jpg: damaged'}


def test_a_dry_run_says_what_it_would_do_and_makes_nothing(tmp_path, sources, inputs, capsys):
    work(start(inputs, outputs(tmp_path), names=['a']), inputs)
    (sources / 'a.jpg').write_text('another a')
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(SystemExit) as stop:
        start(inputs, outputs(tmp_path), dry_run=True)
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f'{tmp_path}/cam: 3 files to make, 0 complete' in out
    assert '1 pictures are made again' in out
    assert sorted(tmp_path.rglob('*')) == before

    with pytest.raises(SystemExit):
        start(inputs, outputs(tmp_path / 'new'), dry_run=True)
    assert not (tmp_path / 'new').exists()
    other = [Output(str(tmp_path / 'cam'), '.npy', {'stage': 'toy', 'scale': 2})]
    with pytest.raises(UserError, match='scale = None, now scale = 2; use --overwrite'):
        start(inputs, other, dry_run=True)


def test_a_dry_run_estimates_the_disk_it_needs(tmp_path, inputs, capsys):
    def estimate(size):
        return [Output(str(tmp_path / 'cam'), '.npy', {'stage': 'toy'}, lambda name: size)]

    for size, words in ((1500, 'about 4.5 kB to write'), (10**18, 'TB free: NOT ENOUGH')):
        with pytest.raises(SystemExit):
            start(inputs, estimate(size), dry_run=True)
        out = capsys.readouterr().out
        assert words in out.replace('GB free: NOT', 'TB free: NOT')
    work(start(inputs, estimate(1)), inputs)
    with pytest.raises(SystemExit):
        start(inputs, estimate(1), dry_run=True, overwrite=True)
    out = capsys.readouterr().out
    assert '3 files to make, 0 complete; about 3 bytes to write' in out
    assert '--overwrite removes 3 files first' in out


def test_a_dry_run_goes_beside_a_run(tmp_path, inputs):
    stage = start(inputs, outputs(tmp_path))
    with pytest.raises(SystemExit):
        start(inputs, outputs(tmp_path), dry_run=True)
    assert FolderLocks([str(tmp_path / 'cam')]).others_at_work() is False  # its own name
    assert FolderLocks([str(tmp_path / 'cam')], 1, 2).others_at_work() is True
    work(stage, inputs)
    assert FolderLocks([str(tmp_path / 'cam')], 1, 2).others_at_work() is False


def test_the_backend_is_checked_only_where_something_is_to_do(tmp_path, inputs, monkeypatch):
    checked = []

    def note(backend, option):
        checked.append((backend, option))

    monkeypatch.setattr(picture_stage, 'need_crf_backend', note)
    stage = PictureStage('toy', NAMES)
    stage.claim(outputs(tmp_path), inputs, 'numba')
    work(stage, inputs)
    stage.claim(outputs(tmp_path), inputs, 'numba')
    assert checked == [('numba', '--crf_backend')] and stage.todo == {}


def test_a_backend_that_is_not_installed_is_refused_where_a_picture_is_to_do(
    tmp_path, inputs, monkeypatch
):
    monkeypatch.setitem(sys.modules, 'pydensecrf', None)
    stage = PictureStage('toy', NAMES)
    with pytest.raises(UserError, match='^--crf_backend pydensecrf: the package is not installed'):
        stage.claim(outputs(tmp_path), inputs, 'pydensecrf')
    work(start(inputs, outputs(tmp_path)), inputs)
    stage.claim(outputs(tmp_path), inputs, 'pydensecrf')
    assert stage.todo == {}
