"""tool/run/workers.py and parents.py: no wait without a limit, and no worker without its parent."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

from mini import ROOT
from process_ids import all_end, below, lives, wait_until
from tool.run.errors import UserError
from tool.run.pool import Pool, pool_map
from tool.run.workers import (
    TIMEOUT_VARIABLE,
    Workers,
    fork_context,
    server_context,
    timeout,
)

# The command of a stage whose loader and pool are both busy, with calls that never end.
BUSY = """
import os, sys, time
from tool.run.loader import load
from tool.run.pool import Pool


def mark(kind):
    open(f'{sys.argv[1]}/{kind}-{os.getpid()}', 'w').close()


def busy(kind):
    mark(kind)
    time.sleep(600)


class Stuck:
    def __getitem__(self, index):
        busy('loader')


if __name__ == '__main__':
    with Pool(2) as pool:
        pool.submit(busy, 'pool')
        pool.submit(busy, 'pool')
        with load(Stuck(), range(4), 2) as samples:
            next(samples)
"""


def marks(folder):
    """The process ids of the busy workers."""
    return {int(path.name.split('-')[1]) for path in folder.glob('*-*')}


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def give_back(value):
    return value


def cannot_be_sent(_):
    return lambda: None


def raise_error(text):
    raise ValueError(text)


@contextlib.contextmanager
def workers(task, count=1, context=None):
    made = Workers(task, count, context or fork_context(), 'a process that loads', '--num_workers')
    try:
        yield made
    finally:
        made.close(0)


@pytest.fixture
def busy(tmp_path):
    """(the process of BUSY, the ids of all processes that belong to it)."""
    (tmp_path / 'busy.py').write_text(BUSY)
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / 'busy.py'), str(tmp_path)], env=environment
    )
    try:
        assert wait_until(lambda: len(marks(tmp_path)) == 4, process)
        yield process, below(process.pid) | marks(tmp_path)
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(sys.platform == 'win32', reason='signals')
def test_no_process_outlives_a_main_process_that_is_killed(busy):
    process, ids = busy
    assert len(ids) >= 6  # with the server that forks the pool's workers, and its tracker
    process.kill()
    process.wait()
    assert all_end(ids)


@pytest.mark.skipif(sys.platform == 'win32', reason='signals')
def test_workers_heed_no_signal_and_end_with_their_parent_even_so(busy):
    """A terminal and SLURM signal every process; the main one alone decides."""
    process, ids = busy
    for process_id in ids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGINT)
            os.kill(process_id, signal.SIGTERM)
    assert all(lives(process_id) for process_id in ids)
    process.kill()
    process.wait()
    assert all_end(ids)


@pytest.mark.parametrize('context', [fork_context, server_context])
def test_workers_without_an_answer_are_given_up(monkeypatch, context):
    monkeypatch.setenv(TIMEOUT_VARIABLE, '1')
    with workers(sleep, 1, context()) as slow:
        slow.submit(600)
        (process,) = [worker.process for worker in slow._workers]
        with pytest.raises(UserError, match='a process that loads has not answered for 1 s .*'):
            slow.next_done()
        assert not process.is_alive()


def test_slow_answers_one_after_another_are_no_timeout(monkeypatch):
    monkeypatch.setenv(TIMEOUT_VARIABLE, '2')
    with workers(sleep) as slow:
        for _ in range(4):
            slow.submit(0.7)
        assert [slow.next_done().result() for _ in range(4)] == [0.7] * 4


def test_a_wait_can_be_ended():
    with workers(sleep) as slow:
        slow.submit(600)
        assert slow.next_done(stop=lambda: True) is None


def test_the_timeout_is_a_number(monkeypatch):
    for text in ('x', '0', '-1', 'inf', 'nan'):
        monkeypatch.setenv(TIMEOUT_VARIABLE, text)
        with pytest.raises(UserError, match=f'PPC_TIMEOUT={text}: must be a number'):
            timeout()
    monkeypatch.setenv(TIMEOUT_VARIABLE, '1.5')
    assert timeout() == 1.5
    monkeypatch.delenv(TIMEOUT_VARIABLE)
    assert timeout() == 600


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_is_one_line(number):
    with workers(sleep) as some:
        some.submit(600)
        os.kill(some._workers[0].process.pid, number)
        with pytest.raises(UserError) as caught:
            some.next_done()
    hint = ' (out of memory?)' if number == signal.SIGKILL else ''
    assert str(caught.value) == (
        f'a process that loads was killed by {number.name}{hint}; use fewer --num_workers'
    )


def test_a_worker_that_cannot_be_started_is_one_line(monkeypatch):
    def refuse(*_, **__):
        raise BlockingIOError(11, 'Resource temporarily unavailable')

    monkeypatch.setattr(fork_context().Process, 'start', refuse)
    with workers(sleep) as some, pytest.raises(UserError) as caught:
        some.submit(0)
    assert str(caught.value) == (
        'a process that loads cannot be started (Resource temporarily unavailable); use fewer '
        '--num_workers'
    )


def test_the_error_of_a_call_belongs_to_its_arguments():
    with Pool(1) as pool:
        calls = pool.hand_out(give_back, 1)
        calls += pool.hand_out(raise_error, 'b')
        calls += pool.hand_out(give_back, 2)
        calls += pool.finish_calls()
    assert [call.arguments for call in calls] == [
        (give_back, 1),
        (raise_error, 'b'),
        (give_back, 2),
    ]
    with pytest.raises(ValueError, match='b') as caught:
        calls[1].result()
    assert 'in raise_error' in str(caught.value.__cause__)  # the worker's traceback
    (call,) = Pool(0).hand_out(raise_error, 'c')
    with pytest.raises(ValueError, match='c'):
        call.result()


def test_what_cannot_be_sent_is_an_error_and_the_worker_goes_on():
    with Pool(1) as pool:
        calls = pool.hand_out(cannot_be_sent, 1)
        calls += pool.hand_out(lambda: None)
        calls += pool.hand_out(give_back, 3)
        calls += pool.finish_calls()
    for call in calls[:2]:
        with pytest.raises(Exception, match=r'cannot be sent|pickle'):
            call.result()
    assert calls[2].result() == 3


@pytest.mark.parametrize('gone', [False, True])
def test_a_folder_of_temporary_files_that_no_socket_fits_into(monkeypatch, tmp_path, gone):
    """The fork server has a socket there. PyTorch's DataLoader used to hang with a long one."""
    folder = tmp_path / ('x' * 100)
    folder.mkdir()
    if gone:

        def none_is_usable():
            raise FileNotFoundError(2, 'No usable temporary directory found')

        monkeypatch.setattr(tempfile, 'gettempdir', none_is_usable)
    else:
        monkeypatch.setattr(tempfile, 'tempdir', str(folder))
    assert server_context().get_start_method() == 'spawn'
    assert sorted(pool_map(give_back, range(3), 1)) == [0, 1, 2]


def test_arrays_come_back_as_they_are():
    arrays = {
        'float': np.arange(12, dtype=np.float32).reshape(3, 4),
        'turned': np.arange(12).reshape(3, 4).T,
        'part': np.arange(12)[::2],
        'empty': np.zeros((0, 3), np.uint8),
        'text': ['a', 'b'],
    }
    with Pool(1) as pool:
        pool.submit(give_back, arrays)
        (back,) = pool.finish()
    for name in ('float', 'turned', 'part', 'empty'):
        np.testing.assert_array_equal(back[name], arrays[name])
        assert back[name].dtype == arrays[name].dtype
        assert back[name].flags.writeable
    assert back['text'] == ['a', 'b']
