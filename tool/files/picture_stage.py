"""The frame of every stage that makes files of pictures: whose pictures, which of them are missing,
the work on them, and what is said about it.

Imports no torch, so that the CPU stages start quickly.
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
    """A folder into which a stage writes a file of every picture."""

    folder: str
    # '.npy' or '.png'
    extension: str
    # what decides the bytes of the files: the folder's manifest
    settings: dict

    def path(self, name: str) -> str:
        """The file of a picture."""
        return os.path.join(self.folder, name + self.extension)


class PictureStage:
    """A stage that makes files of the pictures of a list.

    A stage script reads its list, makes a PictureStage, and takes these steps: check the inputs of
    `names` → `claim` the output folders → work on `todo` with `map` or `writers` → `report`.

    Args:
        title: stands beside the progress bar.
        names: all pictures of the list.
        overwrite: replace what other settings have written.
    Attributes:
        names: the pictures of this process.
        todo: those of them that lack an output, each with the outputs it lacks.
        outputs: what was claimed.
    Raises:
        UserError: `overwrite` with several processes.
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
    def writers(self, jobs: int) -> Iterator[Callable]:
        """Within it `submit(function, *arguments)` hands out what completes one picture to a pool
        of `jobs` processes; the end waits for all of it.

        With jobs = 0 the work is done at once in this process.
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
        """function(*task) for the task of every picture to do, on `jobs` processes."""
        with self.writers(jobs) as submit:
            for task in tasks:
                submit(function, *task)

    def report(self, about: str = '', where: str = '') -> None:
        """Say how many pictures were made; the first process alone does.

        Args:
            about: of which list and how they were made. where: the output, if not the folders.
        """
        if not is_first():
            return
        made = len(self.todo)
        there = len(self.names) - made
        where = where or ' and '.join(output.folder for output in self.outputs)
        print(f'{len(self.names)} pictures{about}: {made} made, {there} were there; in {where}')


def lacking(names: list[str], outputs: list[Output]) -> dict[str, list[Output]]:
    """The pictures of which a file is missing, in the order of `names`, each with the outputs it
    lacks."""
    lost: dict[str, list[Output]] = {name: [] for name in names}
    for output in outputs:
        for name in missing(list(lost), [(output.folder, output.extension)]):
            lost[name].append(output)
    return {name: wanted for name, wanted in lost.items() if wanted}
