"""Fixtures for the tests of the scripts: how a command is run, and what a refusal looks like."""

import importlib
import os
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

from tool.run import command_line

# an unexpected error of a command fails its test with a traceback
os.environ.setdefault(command_line.TRACEBACK, '1')

# A shell that starts the tests in the background lets them, and so all commands that they start,
# ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Examples of hypothesis. By default they are the same in every run, so that no run fails by chance;
# `--hypothesis-profile=search` tries many others and remembers those that failed.
_FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
settings.register_profile(
    'same',
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    suppress_health_check=_FIXTURES,
)
settings.register_profile(
    'search', deadline=None, max_examples=1000, suppress_health_check=_FIXTURES
)
settings.load_profile('same')


@pytest.fixture
def run(monkeypatch, capfd):
    """run('eval', '--flag', value, …) runs a script in this process → (exit code, stdout,
    stderr)."""

    def call(script, *flags):
        monkeypatch.setattr(sys, 'argv', [f'{script}.py', *map(str, flags)])
        module = importlib.import_module(script)
        try:
            command_line.run(module.main, module.parse_args)
            code = 0
        except SystemExit as stop:
            code = stop.code
        return (code, *capfd.readouterr())

    return call


@pytest.fixture
def refused(run):
    """refused(script, flags, *parts): the command exits with 2 and one line on stderr that has all
    parts."""

    def check(script, flags, *parts):
        code, _, err = run(script, *flags)
        lines = [line for line in err.splitlines() if 'error:' in line]
        assert code == 2 and len(lines) == 1 and 'Traceback' not in err, err
        for part in parts:
            assert str(part) in lines[0]

    return check
