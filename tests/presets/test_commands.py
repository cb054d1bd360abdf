"""The commands of every preset, word by word, as tests/presets/commands/ holds them.

A file there holds several runs of the pipeline with --show. A line that starts with `$ ` gives the
flags of the run; the lines below it are what the pipeline prints. WORK stands for the work folder,
ROOT for the repository, SHARED for the folder of data beside it. The presets wrote these files when
they were still INI files; `coco`, which came later, wrote its own.
"""

import contextlib
import io
import shlex
import sys
from pathlib import Path

import pytest

from mini import ROOT, SHARED
from tool import pipeline
from tool.presets.load import NAMES

FOLDER = Path(__file__).parent / 'commands'
WORK = '/somewhere/work dir'


def runs(path: Path) -> dict[str, list[str]]:
    """{flags: lines that are printed} of a file."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line.startswith('$ '):
            shown = found[line.removeprefix('$ ')] = []
        else:
            shown.append(line)
    return found


def show(flags: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that the pipeline prints on a machine with room for two processes."""
    monkeypatch.setattr('tool.presets.processes.most_processes', lambda device: 2)
    words = [*shlex.split(flags), '--work_dir', WORK, '--show']
    monkeypatch.setattr(sys, 'argv', ['pipeline.py', *words])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        pipeline.main(pipeline.parse_args())
    text = printed.getvalue()
    for folder, name in ((WORK, 'WORK'), (ROOT, 'ROOT'), (SHARED, 'SHARED')):
        text = text.replace(str(folder), name)
    return text.splitlines()


CASES = [
    pytest.param(flags, lines, id=flags)
    for path in sorted(FOLDER.glob('*.txt'))
    for flags, lines in runs(path).items()
]


@pytest.mark.parametrize('flags, lines', CASES)
def test_commands(flags, lines, monkeypatch):
    shown = show(flags, monkeypatch)
    assert len(shown) == len(lines)
    for line, expected in zip(shown, lines):
        assert shlex.split(line) == shlex.split(expected)


def test_there_are_commands_of_every_preset():
    named = {path.stem for path in FOLDER.glob('*.txt')}
    # own depends on the pictures: tests/presets/test_own.py
    assert named == set(NAMES) - {'own'}
