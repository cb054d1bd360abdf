"""tool/setup.sh on machines that lack something. Python, pip, df and the compiler are small shell
scripts here."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mini import ROOT

# the real commands that the scripts use; nothing else of this machine is on PATH
COMMANDS = 'awk bash cat chmod cmp cp dirname env grep head ls mkdir mktemp rm sed'.split()
COMMANDS += ['sleep', 'tail', 'touch']

# A Python that answers what setup.sh asks it. Its version is VERSION; $state keeps its calls of pip
# and its settings.
PYTHON = r"""#!/bin/bash
state=STATE
case "$*" in
    *version_info*) echo VERSION ;;
    *ensurepip*) [ ! -e $state/no_ensurepip ] ;;
    *sys.prefix*) dirname "$(dirname "$0")" ;;
    *find_spec*pydensecrf*) [ -e $state/pydensecrf_is_there ] ;;
    *find_spec*pip*) true ;;
    *find_spec*torch*) [ -e $state/torch_is_there ] ;;
    "-m venv --clear "*)
        [ ! -e $state/venv_fails ] || { mkdir -p "$4/bin"; exit 1; }
        rm -rf "$4"
        mkdir -p "$4/bin"
        touch "$4/pyvenv.cfg" "$4/MADE_BY_VERSION"
        cp "$0" "$4/bin/python"
        echo "PATH=$(cd "$4/bin" && pwd):\$PATH" > "$4/bin/activate" ;;
    "-m pip install"*)
        words="$*"
        echo "${words#-m }" >> $state/pip
        case "$words" in
            */dev/stdin*)
                cat > $state/installed
                if [ -e $state/pip_hangs ]; then
                    trap 'touch $state/pip_was_ended; exit 1' TERM
                    touch $state/pip_started
                    while true; do sleep 0.1; done
                fi
                [ ! -e $state/pip_fails ] ;;
            *--index-url*) [ ! -e $state/no_cpu_index ] ;;
            *pydensecrf*) [ -e $state/pydensecrf_compiles ] ;;
        esac ;;
    "-m tool.pipeline"*) [ ! -e $state/smoke_fails ] ;;
    *) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""


class Machine:
    """A folder with the repository's scripts, and a PATH that has only what a test puts there."""

    def __init__(self, folder: Path):
        self.state, self.bin, self.repository = (
            folder / 'state',
            folder / 'bin',
            folder / 'repository',
        )
        for made in (self.state, self.bin, self.repository / 'tool', folder / 'tmp'):
            made.mkdir(parents=True)
        for name in (
            'tool/setup.sh',
            'tool/pythons.sh',
            'tool/test_pythons.sh',
            'requirements.txt',
        ):
            shutil.copy(ROOT / name, self.repository / name)
        for name in COMMANDS:
            os.symlink(shutil.which(name), self.bin / name)
        self.command('uname', 'echo Linux')
        self.command('g++', 'true')
        self.free_disk(100)
        self.environment = {
            'PATH': str(self.bin),
            'HOME': str(folder),
            'TMPDIR': str(folder / 'tmp'),
        }

    def command(self, name: str, script: str) -> None:
        self.script(self.bin / name, f'#!/bin/bash\n{script}\n')

    def script(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def python(self, name: str, version: str) -> None:
        """A Python on PATH, or at a path relative to the repository."""
        path = self.repository / name if '/' in name else self.bin / name
        self.script(path, PYTHON.replace('VERSION', version).replace('STATE', str(self.state)))

    def free_disk(self, gigabytes: int) -> None:
        self.command('df', f'echo header; echo /dev/sda1 0 0 {gigabytes}500000 1% /home')

    def has(self, *settings: str) -> None:
        for name in settings:
            (self.state / name).touch()

    def run(
        self, command: str = 'set -euo pipefail; . tool/setup.sh', **environment: str
    ) -> subprocess.CompletedProcess:
        return subprocess.run(
            [shutil.which('bash'), '-c', command],
            cwd=self.repository,
            text=True,
            capture_output=True,
            env={**self.environment, **environment},
            timeout=60,
        )

    def pip_calls(self) -> list[str]:
        path = self.state / 'pip'
        return path.read_text().splitlines() if path.exists() else []

    def refuses(self, *parts: str, **environment: str) -> None:
        """setup.sh ends with exit code 2 and one line that has these parts; it makes nothing and
        installs nothing."""
        before = sorted(self.repository.rglob('*'))
        result = self.run(**environment)
        lines = result.stderr.splitlines()
        assert result.returncode == 2 and len(lines) == 1 and not result.stdout, result
        assert lines[0].startswith('setup: error: ')
        for part in parts:
            assert part in lines[0]
        assert sorted(self.repository.rglob('*')) == before and not self.pip_calls()

    def made_by(self, venv: str = '.venv') -> str:
        """The version of the Python that made the environment."""
        (mark,) = (self.repository / venv).glob('MADE_BY_*')
        return mark.name.removeprefix('MADE_BY_')


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def ranges() -> list[str]:
    """What requirements.txt says of the packages that decide which Pythons are supported."""
    return re.findall(
        r'^(?:torch|numba|opencv-python)[<>=].*$',
        (ROOT / 'requirements.txt').read_text(),
        re.MULTILINE,
    )


def test_it_installs_everything_and_then_nothing(machine):
    machine.python('python3', '3.11')
    machine.has('pydensecrf_compiles', 'pydensecrf_is_there')
    result = machine.run()
    assert (result.returncode, result.stdout, result.stderr) == (0, '', '')
    assert machine.pip_calls() == [
        'pip install --quiet -r /dev/stdin',
        'pip install --quiet pydensecrf2>=1.1; python_version < "3.13"',
    ]
    installed = (machine.state / 'installed').read_text()
    assert 'torch>=' in installed and 'numba>=' in installed and 'pydensecrf' not in installed
    assert machine.run().returncode == 0 and len(machine.pip_calls()) == 2


@pytest.mark.parametrize('version', ['2.7', '3.9', '3.15'])
def test_a_python_out_of_range_is_refused(machine, version):
    machine.python('python3', version)
    assert len(ranges()) == 3
    machine.refuses(f'python3 is Python {version}', '3.10 to 3.14', *ranges())


def test_no_python_at_all(machine):
    machine.refuses('no Python on PATH', '3.10 to 3.14')


def test_the_newest_supported_python_on_path_stands_in(machine):
    for name, version in (
        ('python3', '3.9'),
        ('python3.9', '3.9'),
        ('python3.10', '3.10'),
        ('python3.13', '3.13'),
    ):
        machine.python(name, version)
    machine.command('python3.14', 'echo "not installed" >&2; exit 127')  # as pyenv's shims do
    assert machine.run().returncode == 0
    assert machine.made_by() == '3.13'


def test_python3_is_taken_when_it_is_supported(machine):
    machine.python('python3', '3.11')
    machine.python('python3.13', '3.13')
    assert machine.run().returncode == 0
    assert machine.made_by() == '3.11'


def test_the_user_chooses_python_and_folder(machine):
    machine.python('python3', '3.11')
    machine.python('other/python', '3.12')
    assert (
        machine.run(
            PPC_PYTHON='other/python', PPC_VENV='elsewhere/env', VIRTUAL_ENV='/active'
        ).returncode
        == 0
    )
    assert machine.made_by('elsewhere/env') == '3.12'
    assert not (machine.repository / '.venv').exists()


def test_a_chosen_python_that_cannot_be_used(machine):
    machine.python('python3', '3.11')
    machine.python('other/python', '3.8')
    machine.refuses(
        'PPC_PYTHON=other/python is Python 3.8', '3.10 to 3.14', PPC_PYTHON='other/python'
    )
    machine.refuses('PPC_PYTHON=/nowhere does not run', PPC_PYTHON='/nowhere')


def test_a_chosen_python_that_is_not_the_one_of_the_environment(machine):
    machine.python('python3', '3.11')
    assert machine.run().returncode == 0
    machine.python('other/python', '3.12')
    (machine.state / 'pip').unlink()
    machine.refuses('.venv has Python 3.11', 'delete', PPC_PYTHON='other/python')


def test_an_active_environment_is_used(machine):
    machine.python('active/bin/python', '3.12')
    path = f'{machine.repository}/active/bin:{machine.bin}'
    assert machine.run(VIRTUAL_ENV='/active', PATH=path).returncode == 0
    assert (machine.repository / 'active' / '.ppc-requirements').exists()
    assert not (machine.repository / '.venv').exists()


def test_an_active_environment_with_an_old_python(machine):
    machine.python('active/bin/python', '3.9')
    machine.refuses(
        'active environment has Python 3.9',
        '3.10 to 3.14',
        CONDA_PREFIX='/active',
        PATH=f'{machine.repository}/active/bin:{machine.bin}',
    )


def test_the_venv_module_is_missing(machine):
    machine.python('python3', '3.11')
    machine.has('no_ensurepip')
    machine.refuses('venv module is missing', 'apt install python3.11-venv')


def test_the_disk_is_too_full(machine):
    machine.python('python3', '3.11')
    machine.free_disk(9)
    machine.refuses('/home has 9 GB free', 'needs 10 GB', 'PPC_CPU=1')
    machine.free_disk(2)
    machine.refuses('/home has 2 GB free', 'needs 3 GB', PPC_CPU='1')


def test_downloads_that_go_to_another_disk_do_not_count(machine):
    machine.python('python3', '3.11')
    machine.command(
        'df',
        'echo header; case "$2" in */tmp) echo a 0 0 4500000 1% /tmp ;; *) echo b 0 0 8500000 1% '
        '/home ;; esac',
    )
    assert machine.run().returncode == 0


def test_the_disk_does_not_matter_once_torch_is_there(machine):
    machine.python('python3', '3.11')
    assert machine.run().returncode == 0
    machine.has('torch_is_there')
    machine.free_disk(1)
    with open(machine.repository / 'requirements.txt', 'a') as file:
        file.write('another\n')
    assert machine.run().returncode == 0
    assert 'another' in (machine.state / 'installed').read_text()


def test_the_cpu_builds_are_installed_first(machine):
    machine.python('python3', '3.11')
    machine.free_disk(4)
    assert machine.run(PPC_CPU='1').returncode == 0
    first, second, _ = machine.pip_calls()
    assert (
        '--index-url https://download.pytorch.org/whl/cpu torch>=' in first
        and ' torchvision>=' in first
    )
    assert second == 'pip install --quiet -r /dev/stdin'


def test_an_index_without_cpu_builds(machine):
    machine.python('python3', '3.11')
    machine.has('no_cpu_index')
    result = machine.run(PPC_CPU='1', PPC_CPU_INDEX='https://mirror/cpu')
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert 'https://mirror/cpu' in result.stderr and 'PPC_CPU_INDEX' in result.stderr
    assert (
        len(machine.pip_calls()) == 1
        and not (machine.repository / '.venv' / '.ppc-requirements').exists()
    )


@pytest.mark.parametrize(
    ('version', 'compiler', 'settings', 'reason'),
    [
        ('3.12', False, [], 'there is no C++ compiler'),
        ('3.12', True, [], 'it did not compile'),
        (
            '3.13',
            True,
            ['pydensecrf_compiles'],
            'it does not compile on Python 3.13',
        ),  # pip leaves it out and succeeds
    ],
)
def test_pydensecrf_is_left_out(machine, version, compiler, settings, reason):
    machine.python('python3', version)
    machine.has(*settings)
    if not compiler:
        (machine.bin / 'g++').unlink()
    result = machine.run()
    (line,) = result.stderr.splitlines()
    assert result.returncode == 0 and reason in line and '--crf_backend pydensecrf' in line
    assert (machine.repository / '.venv' / '.ppc-requirements').exists()


def test_an_installation_that_failed_is_done_again(machine):
    machine.python('python3', '3.11')
    machine.has('pip_fails')
    result = machine.run()
    assert result.returncode == 2 and result.stderr.startswith(
        'setup: error: pip could not install'
    )
    assert not (machine.repository / '.venv' / '.ppc-requirements').exists()
    (machine.state / 'pip_fails').unlink()
    assert machine.run().returncode == 0
    assert (machine.repository / '.venv' / '.ppc-requirements').exists()


def test_an_environment_that_cannot_be_made_is_removed(machine):
    machine.python('python3', '3.11')
    machine.has('venv_fails')
    machine.refuses('could not make .venv')


@pytest.mark.parametrize('broken', ['bin/activate', 'bin/python'])
def test_a_broken_environment_is_made_anew(machine, broken):
    machine.python('python3', '3.11')
    assert machine.run().returncode == 0
    (machine.repository / '.venv' / broken).unlink()
    machine.python('python3', '3.12')
    result = machine.run()
    assert result.returncode == 0 and 'made anew' in result.stderr.splitlines()[0]
    assert machine.made_by() == '3.12'


def test_a_folder_of_the_user_is_not_cleared(machine):
    machine.python('python3', '3.11')
    machine.refuses('tool is there and is no environment', PPC_VENV='tool')


def test_the_matrix_tests_the_oldest_and_the_newest(machine):
    for version in ('3.10', '3.11'):
        machine.python(f'python{version}', version)
    machine.python(f'{machine.environment["HOME"]}/.pyenv/versions/3.13.0/bin/python', '3.13')
    result = machine.run('bash tool/test_pythons.sh --pythons oldest newest --skip 3.10')
    found, skipped, passed, count = result.stdout.splitlines()
    assert result.returncode == 0 and not result.stderr
    assert found == 'Pythons found: 3.10 3.11 3.13; not found: 3.12 3.14'
    assert skipped.startswith('Python 3.10: skipped')
    assert re.fullmatch(r'Python 3.13: passed in \d+ s \(installation \d+ s\)', passed)
    assert count == 'Pythons: 1 passed, 0 failed'
    assert not os.listdir(machine.environment['TMPDIR'])


def test_a_failure_of_the_matrix(machine):
    for version in ('3.10', '3.12'):
        machine.python(f'python{version}', version)
    machine.has('smoke_fails')
    result = machine.run('bash tool/test_pythons.sh --all_pythons')
    assert result.returncode == 1
    assert result.stdout.count('in the smoke preset') == 2
    assert result.stdout.splitlines()[-1] == 'Pythons: 0 passed, 2 failed'
    assert not os.listdir(machine.environment['TMPDIR'])


def test_the_matrix_is_stopped(machine):
    """The environment and the installation that fills it end with it."""
    machine.python('python3.12', '3.12')
    machine.has('pip_hangs')
    wait_for = f'while [ ! -e {machine.state}/NAME ]; do sleep 0.1; done'
    result = machine.run(
        'bash tool/test_pythons.sh --all_pythons & '
        + wait_for.replace('NAME', 'pip_started')
        + '; kill -TERM $!; wait $!'
    )
    assert result.returncode == 143
    assert not os.listdir(machine.environment['TMPDIR'])
    machine.run(wait_for.replace('NAME', 'pip_was_ended'))  # fails after a minute


@pytest.mark.parametrize(
    'wrong', ['--pythons', '--pythons 3.9', '--pythons 3.11', '--all_pythons --skip']
)
def test_wrong_arguments_of_the_matrix(machine, wrong):
    machine.python('python3.10', '3.10')
    result = machine.run(f'bash tool/test_pythons.sh {wrong}')
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1


def test_the_readme_states_the_range():
    versions = re.search(
        r'^SUPPORTED_PYTHONS="(.*?)"', (ROOT / 'tool' / 'pythons.sh').read_text(), re.MULTILINE
    )[1].split()
    readme = (ROOT / 'README.md').read_text()
    assert f'Python {versions[0]} to {versions[-1]}' in readme
    for requirement in ranges():
        name, lowest = requirement.split('>=')
        assert f'{name} ≥ {lowest}' in readme
