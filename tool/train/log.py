"""The logs of a training run: a text log, the losses of every step as JSON lines, TensorBoard."""

import json
import os
import platform
import subprocess
import sys

from tqdm import tqdm

from tool.files.atomic import atomic


def commit() -> str:
    """Short hash of this code's git commit, with '+' if files were edited since.

    'none' where the code is not a git checkout or git is not installed.
    """
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
    if revision.returncode != 0:
        return 'none'
    short_hash = revision.stdout.strip()
    return short_hash + '+' if edited.stdout.strip() else short_hash


def versions() -> str:
    """Versions of the software that decides the numbers, as text."""
    import numpy
    import torch

    return (
        f'python {platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}'
    )


class RunLog:
    """The open logs of a run: `<session>.log`, `<session>.jsonl` and TensorBoard.

    The .log file holds the lines that the terminal shows, the .jsonl file one record for each step.

    Args:
        session: path prefix of the files.
        tblog_dir: TensorBoard folder; None or '': no TensorBoard.
        first_step: step that the run starts at. A resumed run appends to its logs; records that the
            interrupted run has written for this step and later ones are dropped.
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
        """Write one line to the terminal and to the log file."""
        if sys.stderr.isatty():
            tqdm.write(line)  # above the progress bar
        else:
            print(line)
        sys.stdout.flush()
        self._text.write(line + '\n')
        self._text.flush()

    def header(self, **facts: object) -> None:
        """Write the start of the log: command, versions, commit and the given facts, one a line."""
        self.say('command: ' + ' '.join(sys.argv))
        lines = {'versions': versions(), 'commit': commit(), **facts}
        for name, value in lines.items():
            self.say(f'{name.replace("_", " ")}: {value}')

    def records(self, records: list[dict]) -> None:
        """Append the records of steps, {'step': …, 'loss_cls': …, …} each, to the .jsonl file."""
        for record in records:
            self._records.write(json.dumps(record) + '\n')
        self._records.flush()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write {name: value} of a step to TensorBoard, if there is one."""
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Close all logs."""
        self._text.close()
        self._records.close()
        if self.board:
            self.board.close()


def _keep_steps(path: str, first_step: int) -> None:
    """Keep the records of a .jsonl file before `first_step`; drop a half-written last line too."""
    kept = []
    if first_step and os.path.exists(path):
        with open(path, encoding='utf-8') as file:
            for line in file:
                is_whole = line.endswith('}\n')
                if is_whole and json.loads(line)['step'] < first_step:
                    kept.append(line)
    with atomic(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
        file.writelines(kept)
