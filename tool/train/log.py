"""Logs of a training run: the text log, the jsonl of every loss term, TensorBoard."""

import json
import os
import platform
import subprocess
import sys

from tqdm import tqdm

from tool.files.atomic import atomic


def commit() -> str:
    """Short git commit of this code, '+' appended when it was edited; 'none' outside a checkout."""
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        revision = subprocess.run(
            ['git', '-C', here, 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True
        )
        edited = subprocess.run(
            ['git', '-C', here, 'status', '--porcelain', '-uno'], capture_output=True, text=True
        )
    except OSError:
        return 'none'
    return (
        revision.stdout.strip() + ('+' if edited.stdout.strip() else '')
        if revision.returncode == 0
        else 'none'
    )


def versions() -> str:
    """Versions of what decides the numbers."""
    import numpy
    import torch

    return (
        f'python {platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}'
    )


class RunLog:
    """What a training run tells: `<session>.log` (text), `<session>.jsonl` (a record a step) and
    TensorBoard.

    Args:
        session: path prefix of the files.
        tblog_dir: TensorBoard folder; None for none.
        first_step: step the run starts at; records of a broken-off run from there on are dropped,
            the rest is kept.
    """

    def __init__(self, session: str, tblog_dir: str | None = None, first_step: int = 0):
        os.makedirs(os.path.dirname(os.path.abspath(session)), exist_ok=True)
        _keep_steps(session + '.jsonl', first_step)
        self._text = open(session + '.log', 'a' if first_step else 'w', encoding='utf-8')
        self._records = open(session + '.jsonl', 'a', encoding='utf-8')
        self.board = None
        if tblog_dir:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(tblog_dir, purge_step=first_step or None)

    def say(self, line: str) -> None:
        """One line to the terminal and the log file."""
        if sys.stderr.isatty():
            tqdm.write(line)
        else:  # no bar to step around
            print(line)
        sys.stdout.flush()
        self._text.write(line + '\n')
        self._text.flush()

    def header(self, **facts) -> None:
        """The start of the log: command, versions, commit and the given facts, one a line."""
        self.say('command: ' + ' '.join(sys.argv))
        for name, value in {'versions': versions(), 'commit': commit(), **facts}.items():
            self.say(f'{name.replace("_", " ")}: {value}')

    def records(self, records: list[dict]) -> None:
        """Append step records ({'step': …, 'loss_cls': …, …}) to the jsonl."""
        self._records.write(''.join(json.dumps(record) + '\n' for record in records))
        self._records.flush()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Values to TensorBoard."""
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self._text.close()
        self._records.close()
        if self.board:
            self.board.close()


def _keep_steps(path: str, first_step: int) -> None:
    """Drop the records of a jsonl from `first_step` on, and a half-written last line."""
    kept = []
    if first_step and os.path.exists(path):
        with open(path, encoding='utf-8') as file:
            kept = [
                line
                for line in file
                if line.endswith('}\n') and json.loads(line)['step'] < first_step
            ]
    with atomic(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
        file.writelines(kept)
