"""The common part of all stages that make files for pictures.

They share out the pictures of a list over processes, skip the files that are complete, make the
others in a pool of worker processes, and report. A file is complete if the records of its folder
(`tool.files.records`) say that it was made from what its inputs are now.

This module does not import torch, so that stages without a network start quickly.
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from tool.files.atomic import remove_left_overs
from tool.files.disk import existing_part, in_words
from tool.files.folder_locks import FolderLocks
from tool.files.manifest import MANIFEST, check_claims, check_distinct, claim_all, read_manifest
from tool.files.places import same_place
from tool.files.records import (
    FileState,
    History,
    Inputs,
    Made,
    RecordFile,
    as_json,
    made_from,
    read_records,
    record_files,
    remove_records,
    state_of,
)
from tool.run.command_line import need_crf_backend
from tool.run.errors import OutputError, OutputNameError, UserError
from tool.run.pool import Pool
from tool.run.progress import progress
from tool.run.shard import is_first, own_share, shard_index
from tool.run.workers import TIMEOUT_VARIABLE, timeout


@dataclass(frozen=True)
class Output:
    """A folder into which a stage writes one file for each picture."""

    folder: str
    # of the files: '.npy' or '.png'
    extension: str
    # what decides the bytes of the files; the content of the folder's manifest
    settings: dict
    # estimated_bytes(name): how large a picture's file will be, for --dry_run; None: not known
    estimated_bytes: Callable[[str], int] | None = None

    def path(self, name: str) -> str:
        """The path of a picture's file."""
        return os.path.join(self.folder, name + self.extension)


@dataclass(frozen=True)
class Outcome:
    """The result of a worker process for a picture."""

    name: str
    # the record for the file in each output
    made: tuple[Made, ...] = ()
    # why the picture cannot be made; '' if it was made
    problem: str = ''


class PictureStage:
    """A stage that makes files for the pictures of a list.

    A stage script reads its list and makes a PictureStage. Then it takes these steps: check the
    inputs of `names`, `claim` the output folders, work on `todo` with `map` or `writers`, `report`.

    Args:
        title: name of the stage, shown beside the progress bar.
        names: all pictures of the list.
        overwrite: replace the files that other settings have written.
        on_error: 'stop' at a picture that cannot be made, or 'skip' it.
        dry_run: `claim` prints what the stage would do, and ends the run.
    Attributes:
        names: the pictures of the list that this process works on.
        todo: those that lack a file: {name: the outputs in which it is missing or stale}.
        stale: those of them that have a file which was made from other inputs, {name: the file}.
        outputs: the outputs that were claimed.
        left_out: why pictures were skipped, {name: message}.
    Raises:
        UserError: `overwrite` is asked for with several processes.
    """

    def __init__(
        self,
        title: str,
        names: list[str],
        overwrite: bool = False,
        on_error: str = 'stop',
        dry_run: bool = False,
    ):
        self.title = title
        self.overwrite = overwrite
        self.on_error = on_error
        self.dry_run = dry_run
        self.names = own_share(names, overwrite)
        self.outputs: list[Output] = []
        self.todo: dict[str, list[Output]] = {}
        self.stale: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self._inputs: dict[str, Inputs] = {}
        # of the input files of each picture to do, before any of them is read
        self._states: dict[str, list[FileState | None]] = {}
        self._locks = FolderLocks([])
        # what killed runs have left of temporary files may be removed
        self._may_remove = not dry_run
        # while `writers` is open
        self._records: list[RecordFile] = []
        self._bar: Any = None

    def claim(
        self,
        outputs: list[Output],
        inputs: Callable[[str], Inputs],
        crf_backend: str | None = None,
        crf_option: str = '--crf_backend',
    ) -> None:
        """Make the output folders this stage's own, and find out which files they lack.

        Until the files are written, no other run may write into the folders. A dry run ends here.
        Folders that are complete need not be writable.

        Args:
            outputs: the folders.
            inputs: inputs(name) says what the files of a picture are made from.
            crf_backend: the backend of the dense CRF, None where the stage computes no CRF. It has
                to be installed only if a picture is still to be made.
            crf_option: the flag or the config key that chose the backend, for the message.
        Raises:
            UserError: a folder holds output of other settings or files that this stage did not
                write, another run writes into it, it is a folder of inputs, or the backend is not
                installed.
            SystemExit: at the end of a dry run.
        """
        self.outputs = outputs
        check_distinct([output.folder for output in outputs])  # before any of them is locked
        self._inputs = {name: inputs(name) for name in self.names}
        _keep_apart(outputs, self._inputs)
        if self.dry_run:
            check_claims(_claims(outputs), self.overwrite, _Recorded(outputs))
        else:
            self._locks = self._claimed_unless_complete()
        try:
            self._find_todo()
            if self.todo and crf_backend is not None:
                need_crf_backend(crf_backend, crf_option)
        except BaseException:
            self._locks.release()
            raise
        if self.dry_run:
            self._end_dry_run()
        if not self.todo:
            self._locks.release()

    def _claimed_unless_complete(self) -> FolderLocks:
        """Claim the output folders; those that cannot be written are left as they are if no file is
        to be made, as on a disk that is read-only now.

        Returns:
            The locks, which are held; no locks for folders that are left as they are.
        Raises:
            UserError: see `claim`.
        """
        try:
            return claim_folders(self.outputs, self.overwrite)
        except OutputError:
            self._may_remove = False
            if self.overwrite:
                raise
            check_claims(_claims(self.outputs), is_own=_Recorded(self.outputs))
            self._find_todo()
            if self.todo:
                raise
            return FolderLocks([])

    def _find_todo(self) -> None:
        """Set `todo` and `stale`, and remove what killed runs have left of temporary files.

        Raises:
            UserError: a file is not the one that this stage has written.
        """
        lacked: dict[str, list[Output]] = {name: [] for name in self.names}
        for output in self.outputs:
            if self._may_remove:
                files = [name + output.extension for name in self.names]
                remove_left_overs(output.folder, [*files, MANIFEST])
            histories = read_records(output.folder)
            replaced = self.dry_run and self.overwrite
            for name in self.names:
                path = output.path(name)
                history = histories.get(name, History())
                if replaced or _has_to_be_made(path, history):
                    lacked[name].append(output)
                elif not _made_from_these(path, history, self._inputs[name]):
                    lacked[name].append(output)
                    self.stale[name] = path
        self.todo = {name: where for name, where in lacked.items() if where}
        for name in self.todo:
            self._states[name] = [state_of(path) for path in self._inputs[name].files]

    def _tell_stale(self) -> None:
        """Print how many pictures are made again."""
        if self.stale and is_first():
            print(
                f'{len(self.stale)} pictures are made again, because their inputs have changed, '
                f'e.g. {min(self.stale.values())}',
                flush=True,
            )

    def _end_dry_run(self) -> NoReturn:
        """Print what the stage would do and exit."""
        folders = _folders_of(self._inputs)
        print(f'{self.title}: {len(self.names)} pictures, read from {", ".join(folders)}')
        self._tell_stale()
        for output in self.outputs:
            names = [name for name, lacked in self.todo.items() if output in lacked]
            complete = len(self.names) - len(names)
            line = f'{output.folder}: {len(names)} files to make, {complete} complete'
            if output.estimated_bytes is not None:
                size, unreadable = self._estimated(output.estimated_bytes, names)
                free = shutil.disk_usage(existing_part(output.folder)).free
                line += f'; about {in_words(size)} to write, {in_words(free)} free'
                if size > free:
                    line += ': NOT ENOUGH'
                if unreadable:
                    line += f'; {len(unreadable)} would be left out, e.g. {unreadable[0]}'
            print(line)
            if self.overwrite and os.path.isdir(output.folder):
                count = sum(name.endswith(output.extension) for name in os.listdir(output.folder))
                print(f'{output.folder}: --overwrite removes {count} files first')
        print('dry run: nothing was made')
        sys.exit(0)

    def _estimated(
        self, estimated_bytes: Callable[[str], int], names: list[str]
    ) -> tuple[int, list[str]]:
        """The bytes of the files of pictures, for a dry run.

        Returns:
            Their sum, and the problem of each picture that cannot be read and would be skipped.
        Raises:
            UserError: a picture cannot be read, with on_error 'stop'.
        """
        size = 0
        problems = []
        for name in names:
            try:
                size += estimated_bytes(name)
            except UserError as error:
                if self.on_error == 'stop':
                    raise
                problems.append(str(error))
        return size, problems

    @contextlib.contextmanager
    def writers(self, jobs: int) -> Iterator[Callable[..., None]]:
        """Open a pool of worker processes that complete pictures; the end waits for all of them.

        Args:
            jobs: number of workers; with 0 this process does the work itself, at once.
        Yields:
            submit(name, function, *arguments), which lets a worker call function(*arguments). The
            call has to write the files of the picture in all outputs that `todo` names.
        """
        self._tell_stale()
        rank, _ = shard_index()
        if self.todo:  # a folder that is complete may be read-only
            self._records = [RecordFile(output.folder, rank) for output in self.outputs]
        self._bar = progress(
            total=len(self.names),
            initial=len(self.names) - len(self.todo),
            desc=self.title,
            quiet=not is_first(),
        )

        def submit(name: str, function: Callable, *arguments) -> None:
            for record in self._records:
                record.begin(name)
            paths = [output.path(name) for output in self.outputs]
            work = (function, arguments, name, paths, self._inputs[name], self._states[name])
            for outcome in pool.submit(make_files, *work):
                self._note(outcome)

        try:
            with contextlib.closing(self._bar), Pool(jobs) as pool:
                yield submit
                for outcome in pool.finish():
                    self._note(outcome)
        finally:
            self._locks.release()

    def _note(self, outcome: Outcome) -> None:
        """Note in the records that a picture is complete, or leave it out."""
        if outcome.problem:
            self.leave_out(outcome.name, outcome.problem)
            return
        for record, made in zip(self._records, outcome.made):
            record.complete(outcome.name, made)
        self._bar.update()

    def leave_out(self, name: str, problem: str) -> None:
        """Skip a picture that cannot be made, within the block of `writers`.

        Args:
            name: the picture.
            problem: a message that names the file and says what is wrong with it.
        Raises:
            UserError: with on_error 'stop'.
        """
        if self.on_error == 'stop':
            raise UserError(problem)
        self.left_out[name] = problem
        self._bar.update()

    def usable(self, items: Iterable[dict]) -> Iterator[dict]:
        """Yield the items of a loader over `CatchesProblems`, and leave out those with a problem.

        To be used within the block of `writers`.
        """
        for item in items:
            if 'problem' in item:
                self.leave_out(item['name'], item['problem'])
            else:
                yield item

    def map(self, function: Callable, tasks: Iterable[tuple[str, tuple]], jobs: int) -> None:
        """Make the files of pictures in `jobs` worker processes.

        Args:
            function: function(*arguments) makes those of one picture.
            tasks: (name of the picture, arguments) of each picture in `todo`.
            jobs: number of workers.
        """
        with self.writers(jobs) as submit:
            for name, arguments in tasks:
                submit(name, function, *arguments)

    def report(self, about: str = '', where: str = '') -> None:
        """Print how many pictures were made, and which were left out.

        Args:
            about: text that follows the number of pictures, e.g. which list they are of.
            where: the output, if it is not the folders.
        Raises:
            SystemExit: with 1, if pictures were left out.
        """
        if is_first():
            made = len(self.todo) - len(self.left_out)
            there = len(self.names) - len(self.todo)
            counts = f'{made} made, {there} were there'
            if self.left_out:
                counts += f', {len(self.left_out)} left out'
            where = where or ' and '.join(output.folder for output in self.outputs)
            print(f'{len(self.names)} pictures{about}: {counts}; in {where}', flush=True)
        self.exit_if_incomplete()

    def exit_if_incomplete(self) -> None:
        """End the run with exit code 1 if pictures were left out, and print why they were.

        Raises:
            SystemExit: there are such pictures.
        """
        if not self.left_out:
            return
        print(f'left out, {len(self.left_out)} pictures:', file=sys.stderr)
        for problem in self.left_out.values():
            print(f'  {problem}', file=sys.stderr)
        self._wait_for_others()
        sys.exit(1)

    def _wait_for_others(self) -> None:
        """Under torchrun, wait until the other processes have ended their work.

        torchrun stops all processes as soon as one of them ends with an exit code other than 0. As
        long as they complete pictures they are waited for, and no longer than the longest wait for
        a worker after the last one.
        """
        _, world = shard_index()
        if world == 1 or 'TORCHELASTIC_RUN_ID' not in os.environ:
            return
        limit = timeout()
        recorded = self._recorded_bytes()
        last_change = time.monotonic()
        while self._locks.others_at_work():
            time.sleep(min(1, limit))
            if self._recorded_bytes() != recorded:
                recorded = self._recorded_bytes()
                last_change = time.monotonic()
            elif time.monotonic() - last_change > limit:
                print(
                    f'the other processes have completed no picture for {limit:g} s, so they are '
                    f'not waited for; {TIMEOUT_VARIABLE}=<seconds> waits longer',
                    file=sys.stderr,
                )
                return

    def _recorded_bytes(self) -> int:
        """The size of all records, which grow with every picture that a process completes."""
        total = 0
        for output in self.outputs:
            for path in record_files(output.folder):
                state = state_of(path)
                total += state.size if state else 0
        return total


class CatchesProblems:
    """A dataset of pictures that gives a problem in place of an item that cannot be loaded.

    Args:
        dataset: its items are dicts.
        names: name of the picture of each item.
    """

    def __init__(self, dataset, names: list[str]):
        self.dataset = dataset
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        """The item, or {'name': name of the picture, 'problem': message}."""
        try:
            return self.dataset[index]
        except UserError as error:
            return {'name': self.names[index], 'problem': str(error)}


def make_files(
    function: Callable,
    arguments: tuple,
    name: str,
    paths: list[str],
    inputs: Inputs,
    states: list[FileState | None],
) -> Outcome:
    """Make the files of one picture, in a worker process.

    Args:
        function, arguments: function(*arguments) makes them.
        name: the picture.
        paths: its files in all outputs.
        inputs: what they are made from.
        states: the state of each input file before any of them was read.
    Returns:
        The records of the files, or what is wrong with the inputs.
    Raises:
        OutputError: a file cannot be written, and not because of its name. The next picture would
            meet that too: the stage ends, also with on_error 'skip'.
    """
    try:
        function(*arguments)
    except UserError as error:
        if isinstance(error, OutputError) and not isinstance(error, OutputNameError):
            raise
        return Outcome(name, problem=str(error))
    return Outcome(name, made_from(inputs, states, paths))


def claim_folders(outputs: list[Output], overwrite: bool = False) -> FolderLocks:
    """Take the locks of output folders and write their manifests.

    Args:
        outputs: the folders.
        overwrite: remove what this stage has written into them.
    Returns:
        The locks, which are held.
    Raises:
        UserError: see `PictureStage.claim`.
    """
    locks = FolderLocks([output.folder for output in outputs], *shard_index())
    locks.acquire()
    try:
        for output in outputs:
            if locks.is_shared and read_manifest(output.folder) != as_json(output.settings):
                raise UserError(
                    f'{output.folder}: processes with other settings are writing there; wait until '
                    'they have ended, or use another folder'
                )
        claim_all(_claims(outputs), overwrite, _Recorded(outputs))
        if overwrite:
            for output in outputs:
                remove_records(output.folder)
    except BaseException:
        locks.release()
        raise
    locks.claimed()
    return locks


def _claims(outputs: list[Output]) -> list[tuple[str, dict]]:
    """(folder, settings) of outputs, as `claim_all` takes them."""
    return [(output.folder, output.settings) for output in outputs]


class _Recorded:
    """Tells files that are as the stage has written them from those of others and changed ones."""

    def __init__(self, outputs: list[Output]):
        self.histories = {output.folder: read_records(output.folder) for output in outputs}

    def __call__(self, folder: str, file: str) -> bool:
        name, _ = os.path.splitext(file)
        history = self.histories[folder].get(name)
        if history is None:
            return False
        path = os.path.join(folder, file)
        state = state_of(path)
        if history.is_begun or state is None or state.size == 0:
            return True
        return any(made.output.is_unchanged(path) for made in history.made)


def _has_to_be_made(path: str, history: History) -> bool:
    """Whether a file is missing or empty, or its process was stopped before it was complete.

    Raises:
        UserError: there is a file that the stage has not written.
    """
    state = state_of(path)
    if state is None and os.path.isdir(path):
        raise UserError(f'{path}: is a folder; remove it')
    if state is None or state.size == 0:
        return True
    if any(made.output.is_unchanged(path) for made in history.made):
        return False
    if history.is_begun:
        return True
    if history.made:
        raise UserError(
            f'{path}: was changed after this stage had written it; move it away, or use another '
            'output folder'
        )
    raise UserError(
        f'{path}: no record says what it was made from, so this stage (in this version) did not '
        'write it; move it away, or use another output folder'
    )


def _made_from_these(path: str, history: History, inputs: Inputs) -> bool:
    """Whether a file, which the stage has written, was made from what its inputs are now."""
    for made in history.made:
        if made.has_inputs(inputs) and made.output.is_unchanged(path):
            return True
    return False


def _folders_of(inputs: dict[str, Inputs]) -> list[str]:
    """The folders that the inputs of all pictures lie in."""
    folders = set()
    for of_picture in inputs.values():
        for path in of_picture.files:
            folders.add(os.path.dirname(path))
    return sorted(folders)


def _keep_apart(outputs: list[Output], inputs: dict[str, Inputs]) -> None:
    """Make sure that no output folder is a folder of inputs, links resolved.

    Raises:
        UserError: one is.
    """
    for output in outputs:
        for folder in _folders_of(inputs):
            if same_place(output.folder, folder):
                raise UserError(
                    f'{output.folder}: is also the folder of inputs {folder}; use another output '
                    'folder'
                )
