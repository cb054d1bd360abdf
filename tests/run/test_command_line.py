"""tool/run/command_line.py and errors.py: one line on stderr, exit code 2, and argument types that
mean what they say."""

import argparse
import sys

import pytest
import torch

from tool.run import command_line
from tool.run.errors import UserError


@pytest.fixture
def run(monkeypatch, capsys):
    """run(main, *arguments): (exit code, stdout, stderr) of a stage with the flags --flag, --count
    and --device."""

    def call(main, *arguments):
        def parse_args():
            parser = command_line.Parser('A stage.')
            parser.add_argument('--flag', type=command_line.boolean, default=True, help='a switch')
            parser.add_argument(
                '--count', type=command_line.number(int, 1, 8), default=3, help='how many'
            )
            parser.add_argument('--off', action='store_true', help='another switch')
            command_line.add_device_flag(parser)
            return parser.parse_args()

        monkeypatch.setattr(sys, 'argv', ['folder/stage.py', *arguments])
        code = 0
        try:
            command_line.run(main, parse_args)
        except SystemExit as end:
            code = end.code
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def refuse(_):
    print('half a table')
    raise UserError('a.npy: is\n  damaged;\nwrite it again')


def test_user_error_is_one_line_and_exit_code_2(run):
    assert run(refuse) == (
        2,
        'half a table\n',
        'stage.py: error: a.npy: is damaged; write it again\n',
    )


def test_other_errors_keep_their_traceback(run):
    with pytest.raises(ZeroDivisionError):
        run(lambda _: 1 / 0)


def test_interrupt_is_130(run):
    def interrupted(_):
        raise KeyboardInterrupt

    assert run(interrupted) == (130, '', '')


def test_good_flags(run):
    assert run(lambda args: print(args.flag, args.count), '--flag', 'no', '--count', '8') == (
        0,
        'False 8\n',
        '',
    )


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--flag', 'maybe'], "argument --flag: 'maybe' is neither True nor False"),
        (['--count', '0'], 'argument --count: 0 is out of range: at least 1 and at most 8'),
        (['--count', 'x'], "argument --count: 'x' is not a whole number"),
        (['--nonsense'], 'unrecognized arguments: --nonsense'),
    ],
)
def test_bad_flags_are_one_line(run, arguments, message):
    assert run(print, *arguments) == (2, '', f'stage.py: error: {message} (see stage.py --help)\n')


def test_help_shows_defaults_but_not_of_switches(run):
    code, out, _ = run(print, '--help')
    assert code == 0 and 'how many (default: 3)' in out and 'a switch (default: True)' in out
    assert '--off' in out and 'another switch\n' in out
    assert '(default: None)' not in out


def test_help_shows_a_default_of_0_but_no_empty_one():
    parser = command_line.Parser('A stage.')
    for flag, default in (('--steps', 0), ('--note', ''), ('--column', [])):
        parser.output.add_argument(flag, default=default, help=f'what {flag} is')
    text = parser.format_help()
    assert 'what --steps is (default: 0)' in text and text.count('default') == 1


def test_groups_of_the_help_have_a_fixed_order_and_empty_ones_are_left_out():
    parser = command_line.Parser('A stage.')
    for group in (parser.additions, parser.run, parser.data):
        group.add_argument(f'--{group.title.split()[0]}')
    text = parser.format_help()
    titles = [line for line in text.splitlines() if line.endswith(':')]
    assert titles == ['options:', 'data:', 'run:', 'additions of this project (not in the paper):']


def test_boolean():
    assert [command_line.boolean(text) for text in ('True', 'true', 'YES', '1', 'on')] == [True] * 5
    assert [command_line.boolean(text) for text in ('False', 'false', 'No', '0', 'off')] == [
        False
    ] * 5
    with pytest.raises(argparse.ArgumentTypeError):
        command_line.boolean('')


def test_number():
    assert command_line.number(int)('-3') == -3 and command_line.number(float, 0)('1e-3') == 0.001
    for kind, low, high, text in [
        (int, 0, None, '-1'),
        (float, 0, 1, '1.1'),
        (float, 0, None, 'nan'),
        (float, None, None, 'nan'),
        (int, None, None, '1.5'),
        (float, None, None, 'one'),
    ]:
        with pytest.raises(argparse.ArgumentTypeError):
            command_line.number(kind, low, high)(text)
    with pytest.raises(argparse.ArgumentTypeError, match='-1 is out of range: at least 0'):
        command_line.number(int, 0)('-1')
    with pytest.raises(argparse.ArgumentTypeError, match='9 is out of range: at most 8'):
        command_line.number(int, high=8)('9')


def test_devices():
    assert command_line.pick_device('cpu') == torch.device('cpu')
    for name in ('tpu9', 'cuda:99', ''):
        with pytest.raises(UserError, match=f'--device {name}: not available here'):
            command_line.pick_device(name)


def test_error_of_a_data_loader_worker_is_its_own_line():
    class Bad(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            raise UserError('/JPEGImages/a.jpg: damaged; copy the file again')

    with pytest.raises(UserError) as caught:
        list(torch.utils.data.DataLoader(Bad(), num_workers=1))
    assert str(caught.value) == '/JPEGImages/a.jpg: damaged; copy the file again'


def test_a_crf_backend_that_is_not_installed_is_one_line(run, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pydensecrf', None)
    code, _, stderr = run(lambda args: command_line.need_crf_backend('pydensecrf'))
    assert code == 2
    assert stderr.count('\n') == 1
    assert 'error: --crf_backend pydensecrf: the package is not installed' in stderr
    assert 'pip install pydensecrf2' in stderr
