"""The common part of all stages that make files for pictures.

They share out the pictures of a list over processes, skip the files that exist, make the others in
a pool of worker processes, and report.

This module does not import torch, so that stages without a network start quickly.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tool.files.manifest import claim_all, missing
from tool.run.command_line import need_crf_backend
from tool.run.pool import Pool
from tool.run.progress import progress
from tool.run.shard import is_first, own_share


@dataclass(frozen=True)
class Output:
    """A folder into which a stage writes one file for each picture."""

    folder: str
    # of the files: '.npy' or '.png'
    extension: str
    # what decides the bytes of the files; the content of the folder's manifest
    settings: dict

    def path(self, name: str) -> str:
        """The path of a picture's file."""
        return os.path.join(self.folder, name + self.extension)


class PictureStage:
    """A stage that makes files for the pictures of a list.

    A stage script reads its list and makes a PictureStage. Then it takes these steps: check the
    inputs of `names`, `claim` the output folders, work on `todo` with `map` or `writers`, `report`.

    Args:
        title: name of the stage, shown beside the progress bar.
        names: all pictures of the list.
        overwrite: replace the files that other settings have written.
    Attributes:
        names: the pictures of the list that this process works on.
        todo: those that lack a file: {name: the outputs in which it is missing}.
        outputs: the outputs that were claimed.
    Raises:
        UserError: `overwrite` is asked for with several processes.
    """

    def __init__(self, title: str, names: list[str], overwrite: bool = False):
        self.title = title
        self.overwrite = overwrite
        self.names = own_share(names, overwrite)
        self.outputs: list[Output] = []
        self.todo: dict[str, list[Output]] = {}

    def claim(
        self,
        outputs: list[Output],
        crf_backend: str | None = None,
        crf_option: str = '--crf_backend',
    ) -> None:
        """Make the output folders this stage's own, and find out which files they lack.

        Args:
            outputs: the folders.
            crf_backend: the backend of the dense CRF, None where the stage computes no CRF. It has
                to be installed only if a picture is still to be made.
            crf_option: the flag or the config key that chose the backend, for the message.
        Raises:
            UserError: a folder holds output of other settings; the backend is not installed.
        """
        claim_all([(output.folder, output.settings) for output in outputs], self.overwrite)
        self.outputs = outputs
        self.todo = lacking(self.names, outputs)
        if self.todo and crf_backend is not None:
            need_crf_backend(crf_backend, crf_option)

    @contextlib.contextmanager
    def writers(self, jobs: int) -> Iterator[Callable[..., None]]:
        """Open a pool of worker processes that complete pictures; the end waits for all of them.

        Args:
            jobs: number of workers; with 0 this process does the work itself, at once.
        Yields:
            submit(function, *arguments), which lets a worker call the function. Each call has to
            complete one picture: the progress bar counts them.
        """
        bar = progress(
            total=len(self.names),
            initial=len(self.names) - len(self.todo),
            desc=self.title,
            quiet=not is_first(),
        )
        with Pool(jobs) as pool:

            def submit(function: Callable, *arguments) -> None:
                bar.update(len(pool.submit(function, *arguments)))

            yield submit
            for _ in pool.finish():
                bar.update()
        bar.close()

    def map(self, function: Callable, tasks: Iterable[tuple], jobs: int) -> None:
        """Call function(*task) for each task, one a picture, in `jobs` worker processes."""
        with self.writers(jobs) as submit:
            for task in tasks:
                submit(function, *task)

    def report(self, about: str = '', where: str = '') -> None:
        """Print how many pictures were made, in the first process.

        Args:
            about: text that follows the number of pictures, e.g. which list they are of.
            where: the output, if it is not the folders.
        """
        if not is_first():
            return
        made = len(self.todo)
        there = len(self.names) - made
        where = where or ' and '.join(output.folder for output in self.outputs)
        print(f'{len(self.names)} pictures{about}: {made} made, {there} were there; in {where}')


def lacking(names: list[str], outputs: list[Output]) -> dict[str, list[Output]]:
    """The pictures that lack a file, in the order of `names`: {name: outputs in which it lacks}."""
    lacked: dict[str, list[Output]] = {name: [] for name in names}
    for output in outputs:
        for name in missing(names, [(output.folder, output.extension)]):
            lacked[name].append(output)
    return {name: where for name, where in lacked.items() if where}
