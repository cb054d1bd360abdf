"""Progress bars that suit a terminal and a file."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


class _Lines(tqdm):
    """tqdm where no terminal watches: a line now and then instead of a bar that rewrites itself."""

    def display(self, msg=None, pos=None):
        if self.n or msg:
            self.fp.write(
                (msg or str(self)).strip() + '\n' * (pos is None)
            )  # close() gives a pos and ends its line
            self.fp.flush()
        return True


def progress(
    iterable: Iterable = None,
    total: int = None,
    desc: str = None,
    unit: str = 'image',
    initial: int = 0,
    quiet: bool = False,
) -> tqdm:
    """A progress bar with rate and ETA on stderr; when stderr is not a terminal, a line every half
    minute; none if quiet."""
    if quiet:
        return tqdm(iterable, disable=True)
    if sys.stderr.isatty():
        return tqdm(
            iterable, total=total, desc=desc, unit=unit, initial=initial, dynamic_ncols=True
        )
    return _Lines(
        iterable,
        total=total,
        desc=desc,
        unit=unit,
        initial=initial,
        mininterval=30,
        maxinterval=60,
        ncols=100,
    )
