"""tool/run/pool.py: the same results with and without processes, errors on one line, and never too
many calls waiting."""

import os
import signal
import time

import pytest

from tool.run.errors import UserError
from tool.run.pool import Pool, pool_map


def square(number):
    if number == 13:
        raise UserError('a13.png: damaged')
    return number * number


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def mark(folder, number):
    open(f'{folder}/{number}', 'w').close()
    time.sleep(0.01)
    return number


@pytest.mark.parametrize('jobs', [0, 1, 2])
def test_results_are_complete(jobs):
    assert sorted(pool_map(square, range(12), jobs)) == [n * n for n in range(12)]
    assert list(pool_map(square, [], jobs)) == []


def test_no_jobs_means_this_process_in_order():
    assert list(pool_map(lambda n: (n, os.getpid()), range(3), 0)) == [
        (n, os.getpid()) for n in range(3)
    ]


@pytest.mark.parametrize('jobs', [0, 2])
def test_user_errors_come_through_as_they_are(jobs):
    with pytest.raises(UserError) as caught:
        list(pool_map(square, range(40), jobs))
    assert str(caught.value) == 'a13.png: damaged'


@pytest.mark.parametrize('jobs', [0, 2])
def test_error_in_the_last_call_is_not_lost(jobs):
    with pytest.raises(UserError, match='a13.png'):
        with Pool(jobs) as pool:
            pool.submit(square, 13)
    if jobs:
        with pytest.raises(RuntimeError, match='after shutdown'):  # the processes are gone
            pool.submit(square, 1)


def test_killed_worker_is_a_user_error():
    with pytest.raises(UserError, match='killed .* use fewer --jobs'):
        list(pool_map(die, range(3), 1))


def test_calls_are_handed_out_as_results_come_in():
    taken = []

    def items():
        for number in range(30):
            taken.append(number)
            yield number

    for count, _ in enumerate(pool_map(square, (n + 20 for n in items()), 2), 1):
        assert len(taken) - count <= 2 * 2
    assert len(taken) == count == 30


def test_an_error_outside_cancels_what_waits(tmp_path):
    with pytest.raises(ZeroDivisionError), Pool(1) as pool:
        pool.submit(mark, tmp_path, 0)
        pool.submit(mark, tmp_path, 1)
        raise ZeroDivisionError
    before = len(list(tmp_path.iterdir()))
    time.sleep(0.1)
    assert len(list(tmp_path.iterdir())) == before
