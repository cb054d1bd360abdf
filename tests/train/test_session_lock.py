"""tool/train/session_lock.py: one run of a session at a time."""

import multiprocessing
import os
import signal

import pytest

from tool.run.errors import UserError
from tool.train.session_lock import lock_path, only_run_of


def hold(session, taken):
    with only_run_of(session):
        taken.set()
        signal.pause()


def test_another_process_is_refused_until_the_first_is_killed(tmp_path):
    session = str(tmp_path / 'run')
    context = multiprocessing.get_context('spawn')
    taken = context.Event()
    process = context.Process(target=hold, args=(session, taken))
    process.start()
    try:
        assert taken.wait(60)
        with pytest.raises(UserError, match='run: another training of this session name is run'):
            with only_run_of(session, patience=0):
                pass
    finally:
        process.kill()
        process.join()
    with only_run_of(session, patience=0):
        assert os.listdir(tmp_path) == [os.path.basename(lock_path(session))]


@pytest.mark.parametrize(
    'name, message',
    [
        ('', 'ends in a folder; add the name of the run'),
        ('file/run', 'file is no folder'),
    ],
)
def test_a_session_that_cannot_be_written(tmp_path, name, message):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=message):
        with only_run_of(f'{tmp_path}/{name}'):
            pass


def test_the_folder_of_a_session_is_made(tmp_path):
    with only_run_of(str(tmp_path / 'new' / 'run')):
        assert (tmp_path / 'new').is_dir()
