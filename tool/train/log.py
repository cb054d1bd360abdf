"""The logs of a training run: a text log, the losses of every step as JSON lines, TensorBoard."""

import contextlib
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from tool.files.atomic import atomic, cannot_be_written, empty_file, is_device
from tool.files.reading import open_text
from tool.run.errors import UserError

# The end of a message about a damaged .jsonl file.
_HOW_TO_GO_ON = 'restore it, or move it away to continue without the earlier losses'


def commit() -> str:
    """Short hash of this code's git commit, with '+' if files were edited since.

    'none' where the code is not a git checkout or git is not installed.
    """
    try:
        revision = _git('rev-parse', '--short', 'HEAD')
        edited = _git('status', '--porcelain', '-uno')
    except (OSError, subprocess.TimeoutExpired):
        return 'none'
    if revision.returncode != 0:
        return 'none'
    short_hash = revision.stdout.strip()
    return short_hash + '+' if edited.stdout.strip() else short_hash


def _git(*words: str) -> subprocess.CompletedProcess:
    """Run git in the folder of this code, for half a minute at most."""
    here = os.path.dirname(os.path.abspath(__file__))
    return subprocess.run(['git', '-C', here, *words], capture_output=True, text=True, timeout=30)


def versions() -> str:
    """Versions of the software that decides the numbers, as text."""
    import numpy
    import torch

    return (
        f'python {platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}'
    )


class RunLog:
    """The open logs of a run: `<session>.log`, `<session>.jsonl` and TensorBoard.

    A log that is a symbolic link is written where it leads. One that is begun anew is a new file,
    so a hard link to the earlier one, such as a backup, keeps what it holds.

    The .log file holds the lines that the terminal shows, the .jsonl file one record for each step.

    Args:
        session: path prefix of the files.
        tblog_dir: TensorBoard folder; None or '': no TensorBoard.
        first_step: step that the run starts at. A resumed run appends to its logs; records that the
            interrupted run has written for this step and later ones are dropped.
    Raises:
        OutputError: a log cannot be written, here or in any of the methods; the message names it.
        UserError: the .jsonl file of a resumed run is not the one that it wrote.
    """

    def __init__(self, session: str, tblog_dir: str | None = None, first_step: int = 0):
        _keep_steps(session + '.jsonl', first_step)
        self._text = _Lines(session + '.log', append=first_step > 0)
        self._records = _Lines(session + '.jsonl', append=True)
        self.board = Board(tblog_dir, first_step) if tblog_dir else None

    def say(self, line: str) -> None:
        """Write one line to the terminal and to the log file."""
        try:
            if sys.stderr.isatty():
                tqdm.write(line)  # above the progress bar
            else:
                print(line)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has ended; `command_line.run` knows what to do
            raise
        except OSError as error:
            raise cannot_be_written('the output on the terminal', error) from None
        self._text.write(line + '\n')

    def header(self, **facts: object) -> None:
        """Write the start of the log: command, versions, commit and the given facts, one a line."""
        self.say('command: ' + ' '.join(sys.argv))
        lines = {'versions': versions(), 'commit': commit(), **facts}
        for name, value in lines.items():
            self.say(f'{name.replace("_", " ")}: {value}')

    def records(self, records: list[dict]) -> None:
        """Append the records of steps, {'step': …, 'loss_cls': …, …} each, to the .jsonl file."""
        self._records.write(''.join(json.dumps(record) + '\n' for record in records))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write {name: value} of a step to TensorBoard, if there is one."""
        if self.board is not None:
            for name, value in values.items():
                self.board.scalar(name, value, step)

    def close(self) -> None:
        """Close all logs."""
        self._text.close()
        self._records.close()
        if self.board is not None:
            self.board.close()


class _Lines:
    """A text file that lines are added to.

    It has no buffer: a line is in the file when `write` returns, and after an error nothing is left
    that Python would try to write once more at its end.
    """

    def __init__(self, path: str, append: bool):
        self.path = path
        try:
            if not append:
                empty_file(path)
            self._file = open(path, 'ab', buffering=0)
        except OSError as error:
            raise cannot_be_written(path, error) from None

    def write(self, text: str) -> None:
        """Add a text to the file."""
        left = text.encode('utf-8', 'backslashreplace')
        try:
            while left:  # on a disk that gets full, a part may be written
                written = self._file.write(left)
                left = left[written:]
        except OSError as error:
            raise cannot_be_written(self.path, error) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Board:
    """TensorBoard's event file of a run.

    TensorBoard writes it in a thread of its own. An error there is raised by one of the next calls.

    Args:
        folder: the TensorBoard folder.
        first_step: step that the run starts at; TensorBoard hides later ones of an interrupted run.
    Raises:
        OutputError: the folder or the file cannot be written, here or in any of the methods.
    """

    def __init__(self, folder: str, first_step: int = 0):
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        _keep_errors_of_tensorboard_short()
        with self._errors():
            self._writer: Any = SummaryWriter(folder, purge_step=first_step or None)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn an error of writing into an OutputError that names the folder."""
        try:
            yield
        except OSError as error:
            raise cannot_be_written(f'{self.folder} (TensorBoard)', error) from None

    def scalar(self, name: str, value: float, step: int) -> None:
        """Write a number of a step."""
        with self._errors():
            self._writer.add_scalar(name, value, step)

    def images(self, name: str, images: Any, step: int, layout: str = 'NCHW') -> None:
        """Write pictures of a step, [N, 3, H, W] or, with the layout NHWC, [N, H, W, 3]."""
        with self._errors():
            self._writer.add_images(name, images, step, dataformats=layout)

    def close(self) -> None:
        """Write what is left, and close the file."""
        with self._errors():
            self._writer.close()


def _keep_errors_of_tensorboard_short() -> None:
    """Let TensorBoard's thread end without a traceback where it cannot write its file.

    The error is not lost: the next call of the writer raises it.
    """
    show = threading.excepthook

    def show_others(args: Any) -> None:
        is_of_tensorboard = type(args.thread).__module__.startswith('tensorboard.')
        if not (is_of_tensorboard and issubclass(args.exc_type, OSError)):
            show(args)

    threading.excepthook = show_others


def _keep_steps(path: str, first_step: int) -> None:
    """Keep the records of a .jsonl file before `first_step`; drop a half-written last line too.

    Raises:
        UserError: a line is no record of a step, so that the file is not what the run wrote.
    """
    if is_device(path):  # nothing is kept there
        return
    kept = []
    if first_step and os.path.exists(path):
        try:
            with open_text(path) as file:
                for number, line in enumerate(file, 1):
                    is_whole = line.endswith('\n')
                    if is_whole and _step_of(path, number, line) < first_step:
                        kept.append(line)
        except (OSError, UnicodeError) as error:
            raise UserError(f'{path}: cannot be read ({error}); {_HOW_TO_GO_ON}') from None
    where = os.path.realpath(path)
    with atomic(where) as temporary, open(temporary, 'w', encoding='utf-8') as file:
        file.writelines(kept)


def _step_of(path: str, number: int, line: str) -> int:
    """The step of a record.

    Args:
        path, number: the file and the number of the line, for the message.
        line: the record as JSON.
    """
    try:
        step = json.loads(line)['step']
        if type(step) is int and step >= 0:
            return step
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise UserError(
        f'{path}: line {number} is not a record that the training wrote; {_HOW_TO_GO_ON}'
    )
