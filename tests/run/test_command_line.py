"""tool/run/command_line.py and errors.py: one line on stderr, exit code 2, and argument types that
mean what they say."""

import argparse
import errno
import os
import re
import subprocess
import sys

import pytest
import torch

from mini import ROOT
from tool.run import command_line
from tool.run.errors import LONGEST_LINE, UserError


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


def test_an_unexpected_error_is_one_line_that_says_how_to_see_more(run, monkeypatch):
    monkeypatch.setenv('PPC_TRACEBACK', '0')
    code, _, err = run(lambda _: {}['a\n\x1b[2Jb' * 200])
    assert code == 1
    assert err.startswith("stage.py: error: KeyError: 'a")
    assert err.endswith(
        'this is a bug: PPC_TRACEBACK=1 before the same command shows the traceback, please report '
        'it\n'
    )
    assert '\x1b' not in err and err.count('\n') == 1 and len(err) <= LONGEST_LINE + 1


def test_an_unexpected_error_names_its_line(run, monkeypatch):
    monkeypatch.setenv('PPC_TRACEBACK', '')
    _, _, err = run(lambda _: command_line.number('no type')('3'))
    assert re.search(r'TypeError: .*\(tool/run/command_line.py, line \d+\); this is a bug', err)


def test_with_the_variable_an_unexpected_error_keeps_its_traceback(run, monkeypatch):
    monkeypatch.setenv('PPC_TRACEBACK', '1')
    with pytest.raises(ZeroDivisionError):
        run(lambda _: 1 / 0)


@pytest.mark.parametrize(
    'error, line',
    [
        (
            OSError(errno.ENOSPC, 'No space left on device', 'out/a.png'),
            'out/a.png: No space left on device; make room and give the same command again',
        ),
        (OSError(errno.ENOSPC, 'No space left on device'), 'No space left on device; make room'),
        (
            PermissionError(errno.EACCES, 'Permission denied', 'a.npy'),
            'a.npy: Permission denied; change its permissions or choose another place',
        ),
        (
            OSError(errno.EROFS, 'Read-only file system', 'runs'),
            'runs: Read-only file system; choose a place that can be written',
        ),
        (
            FileNotFoundError(errno.ENOENT, 'No such file or directory', 'a.jpg'),
            'a.jpg: No such file or directory; check this path',
        ),
        (MemoryError(), 'the memory is full; use a smaller batch'),
        (torch.OutOfMemoryError('CUDA out of memory.'), 'the memory is full; use a smaller batch'),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 'the memory is full; use'),
    ],
)
def test_what_is_wrong_with_the_machine_is_one_line_and_no_bug(run, monkeypatch, error, line):
    monkeypatch.setenv('PPC_TRACEBACK', '0')

    def fail(_):
        raise error

    code, _, err = run(fail)
    assert code == 2 and err.startswith(f'stage.py: error: {line}')
    assert err.count('\n') == 1 and 'bug' not in err


COMMAND = """
import sys
sys.path.insert(0, {root!r})
from tool.run import command_line
command_line.run(lambda _: {main}, lambda: None)
"""


def command(main, stdout=subprocess.PIPE, **environment):
    """Run `main`, an expression, as a command in a process of its own."""
    code = COMMAND.format(root=str(ROOT), main=main)
    return subprocess.run(
        [sys.executable, '-c', code],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, 'PPC_TRACEBACK': '0', **environment},
        timeout=60,
    )


def test_a_terminal_that_is_not_utf_8_ends_no_command():
    result = command("print('la → ha: 3,000 files')", PYTHONIOENCODING='ascii', PYTHONUTF8='0')
    assert (result.returncode, result.stdout) == (0, b'la ? ha: 3,000 files\n')
    assert result.stderr == b''


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_an_output_that_cannot_be_written_is_one_line():
    with open('/dev/full', 'w') as full:
        result = command("print('a table')", stdout=full)
    assert result.returncode == 2
    assert result.stderr.decode().count('\n') == 1
    assert b'No space left on device; make room' in result.stderr


@pytest.mark.parametrize('closed', ['>&-', '2>&-', '<&-', '>&- 2>&-', '<&- >&- 2>&-'])
def test_closed_streams_end_no_command_and_lend_their_numbers_to_no_file(closed, tmp_path):
    path = tmp_path / 'opened'
    code = (
        'import argparse, os, sys\n'
        'from tool.run import command_line\n'
        'def main(_):\n'
        f'    with open({str(path)!r}, "w") as file:\n'
        '        print("to stdout"); os.write(1, b"to stdout")\n'
        '        print("to stderr", file=sys.stderr, flush=True)\n'
        '        sys.stdout.flush()\n'
        '        file.write("content")\n'
        'command_line.run(main, lambda: argparse.Namespace())'
    )
    script = tmp_path / 'script.py'
    script.write_text(code)
    words = f'{sys.executable} {script} {closed}'
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    result = subprocess.run(['sh', '-c', words], env=environment, capture_output=True, timeout=60)
    assert result.returncode == 0 and b'Traceback' not in result.stderr
    assert path.read_text() == 'content'


def test_a_reader_of_the_output_that_has_ended_is_silent():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, 'w') as output:
        result = command("print('a table')", stdout=output)
    assert (result.returncode, result.stderr) == (1, b'')


def test_a_pipe_that_breaks_elsewhere_is_not_silent():
    result = command('(_ for _ in ()).throw(BrokenPipeError(32, "Broken pipe"))')
    assert result.returncode == 1 and b'BrokenPipeError' in result.stderr


def test_error_lines_are_short_and_keep_their_start_and_end(run):
    def fail(_):
        raise UserError(f'a.npy: entry {"x" * 5_000_000} is no map; make it again')

    code, _, err = run(fail)
    assert code == 2 and len(err) <= LONGEST_LINE + 1
    assert err.startswith('stage.py: error: a.npy: entry xxx') and 'xxx…xxx' in err
    assert err.endswith('is no map; make it again\n') and err.count('…') == 1


def test_a_bad_flag_of_any_length_is_a_short_line(run):
    code, _, err = run(print, '--count', '9' * 100_000)
    assert code == 2 and len(err) <= LONGEST_LINE + 1
    assert err.startswith('stage.py: error: argument --count: ')
    assert err.endswith('(see stage.py --help)\n')


def test_control_characters_of_a_file_do_not_reach_the_terminal():
    assert str(UserError('a\x1b[2J\x07\x9b.npy: no  such\nfile')) == (
        'a\\x1b[2J\\x07\\x9b.npy: no such file'
    )
    assert str(UserError('Küche/犬.npy: …')) == 'Küche/犬.npy: …'


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


@pytest.mark.parametrize('text', ['inf', '-inf', '1e999', 'nan'])
def test_a_number_that_is_not_finite_is_refused(text):
    for low in (None, 0):
        with pytest.raises(argparse.ArgumentTypeError, match='is no finite number'):
            command_line.number(float, low)(text)


def test_a_whole_number_may_have_any_size():
    assert command_line.number(int)('9' * 400) == int('9' * 400)


@pytest.mark.parametrize(
    'flag, value',
    [
        ('--seed', 2**64),
        ('--max_steps', 10**11),
        ('--save_every', 10**11),
        ('--warmup_steps', 10**11),
        ('--batch_size', 10**7),
        ('--crop_size', 10**6),
        ('--num_workers', 10**5),
        ('--lr', 'inf'),
        ('--wt_dec', 'nan'),
        ('--momentum', '-inf'),
    ],
)
def test_numbers_that_no_training_has(monkeypatch, capsys, flag, value):
    parser = command_line.Parser('A training.')
    command_line.add_train_flags(parser, width='of the network')
    needed = ['--weights', 'scratch', '--session_name', 'run']
    parser.parse_args(needed)
    with pytest.raises(SystemExit):
        parser.parse_args([*needed, f'{flag}={value}'])
    assert len(capsys.readouterr().err.splitlines()) == 1


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


def test_the_processes_of_a_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr(command_line.os, 'sched_getaffinity', lambda _: range(128), raising=False)
    monkeypatch.delenv('LOCAL_WORLD_SIZE', raising=False)
    assert command_line.default_jobs() == 128
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '8')
    assert command_line.default_jobs() == 16
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '200')
    assert command_line.default_jobs() == 1


def test_a_command_uses_no_more_cores_than_it_may(monkeypatch):
    monkeypatch.setattr(command_line.os, 'sched_getaffinity', lambda _: range(16), raising=False)
    monkeypatch.delenv('LOCAL_WORLD_SIZE', raising=False)
    for text, cores in (('', 16), ('6', 6), ('600', 16)):
        monkeypatch.setenv('PPC_CORES', text)
        assert command_line.default_jobs() == cores
    monkeypatch.setenv('PPC_CORES', '6')
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    assert command_line.default_jobs() == 3
    for text in ('0', '-1', 'all', '2.5', '9' * 5000):
        monkeypatch.setenv('PPC_CORES', text)
        with pytest.raises(UserError, match='PPC_CORES=.*: must be a whole number'):
            command_line.default_jobs()


def test_devices():
    assert command_line.pick_device('cpu') == torch.device('cpu')
    for name in ('tpu9', 'cuda:99', 'meta', ''):
        with pytest.raises(UserError, match=f'--device {name}: not available here'):
            command_line.pick_device(name)


@pytest.fixture
def gpus(monkeypatch):
    """A machine that shows two GPUs; the list of those that became the current one."""
    chosen = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    monkeypatch.setattr(torch, 'empty', lambda *size, device: None)
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    return chosen


@pytest.mark.parametrize('name', [None, 'cuda'])
@pytest.mark.parametrize('local_rank, index', [(None, 0), ('0', 0), ('1', 1)])
def test_cuda_is_the_own_gpu_of_every_process(gpus, monkeypatch, name, local_rank, index):
    if local_rank is not None:
        monkeypatch.setenv('LOCAL_RANK', local_rank)
    device = command_line.pick_device(name)
    assert device == torch.device('cuda', index)
    assert gpus == [device]


def test_a_numbered_gpu_is_that_one_in_every_process(gpus, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '1')
    assert command_line.pick_device('cuda:0') == torch.device('cuda', 0)
    assert command_line.pick_device('cpu') == torch.device('cpu')


def test_a_process_without_a_gpu_of_its_own_says_how_many_there_are(gpus, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '2')
    with pytest.raises(UserError, match=r'process 2 .* shows 2 GPUs.*--nproc_per_node 2') as error:
        command_line.pick_device('cuda')
    assert '\n' not in str(error.value)


def test_a_crf_backend_that_is_not_installed_is_one_line(run, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pydensecrf', None)
    code, _, stderr = run(lambda args: command_line.need_crf_backend('pydensecrf'))
    assert code == 2
    assert stderr.count('\n') == 1
    assert 'error: --crf_backend pydensecrf: the package is not installed' in stderr
    assert 'pip install pydensecrf2' in stderr
