"""tool/run/interrupts.py: what SIGTERM and Ctrl-C do, once and twice."""

import os
import signal
import subprocess
import sys

import pytest

from tool.run import command_line, interrupts
from tool.run.errors import Interrupted

BOTH = pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])


def handlers():
    return [signal.getsignal(number) for number in interrupts.SIGNALS]


@BOTH
def test_a_command_ends_in_order_with_one_line(monkeypatch, capfd, number):
    cleaned = []

    def main(args):
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # torchrun sends another one: no matter
            cleaned.append('up')

    monkeypatch.setattr('sys.argv', ['/here/stage.py'])
    before = handlers()
    with pytest.raises(SystemExit) as stop:
        command_line.run(main, lambda: None)
    assert stop.value.code == 128 + number and cleaned == ['up']
    assert capfd.readouterr() == ('', f'stage.py: stopped by {number.name}\n')
    assert handlers() == before


def test_an_error_of_compiled_code_that_a_signal_has_interrupted_is_that_signal(capfd, monkeypatch):
    def main(args):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Interrupted as stop:
            raise SystemError('a function returned a result with an exception set') from stop

    monkeypatch.setattr('sys.argv', ['/here/stage.py'])
    with pytest.raises(SystemExit) as stop:
        command_line.run(main, lambda: None)
    assert stop.value.code == 128 + signal.SIGTERM
    assert capfd.readouterr() == ('', 'stage.py: stopped by SIGTERM\n')


@BOTH
def test_code_that_goes_on_after_any_error_does_not_after_a_signal(number):
    with pytest.raises(Interrupted), interrupts.raised():
        try:
            os.kill(os.getpid(), number)
        except Exception:
            pytest.fail('went on')


def test_ctrl_c_that_a_shell_in_the_background_ignores_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.raised():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@BOTH
def test_training_notes_the_first_signal_and_ends_at_a_much_later_one(monkeypatch, capfd, number):
    now = [100.0]
    monkeypatch.setattr(interrupts.time, 'monotonic', lambda: now[0])
    before = handlers()
    with interrupts.Interrupts() as signals:
        os.kill(os.getpid(), number)
        now[0] += interrupts.SAME_REQUEST
        os.kill(os.getpid(), number)
        assert signals.signal == number
        now[0] += 1
        with pytest.raises(Interrupted, match=f'stopped by a second {number.name}') as stop:
            os.kill(os.getpid(), number)
    assert stop.value.code == 128 + number and handlers() == before
    assert capfd.readouterr().err == f'\n{number.name}: stops after this step\n'


@BOTH
def test_a_wait_for_other_processes_is_ended_by_the_system(number):
    with interrupts.raised():
        with interrupts.at_once():
            assert signal.getsignal(number) == signal.SIG_DFL
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), number)


BLOCKED = 'import signal; print(len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))'


@pytest.mark.skipif(os.name != 'posix', reason='Windows holds no signals back')
def test_processes_begin_without_signals_where_they_are_held_back():
    def blocked():
        command = [sys.executable, '-c', BLOCKED]
        return int(subprocess.run(command, capture_output=True, text=True).stdout)

    before = blocked()
    with interrupts.held_back():
        assert blocked() == before + 2
        with interrupts.held_back():
            interrupts.deliver()  # what a worker calls
            assert blocked() == before
    assert blocked() == before
