"""Progress bars for a terminal, and lines of progress for a file."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


class _Lines(tqdm):
    """tqdm for output that is not a terminal: a line now and then, not a bar that is redrawn."""

    def display(self, msg=None, pos=None):
        if self.n or msg:
            text = (msg or str(self)).strip()
            if pos is None:  # close() gives a position, and ends its line itself
                text += '\n'
            self.fp.write(text)
            self.fp.flush()
        return True


def progress(
    iterable: Iterable | None = None,
    total: int | None = None,
    desc: str | None = None,
    unit: str = 'image',
    initial: int = 0,
    quiet: bool = False,
    scale: bool = False,
) -> tqdm:
    """A progress bar on stderr with rate and remaining time.

    Where stderr is not a terminal, it is a line every half minute.

    Args:
        iterable: what to go through; None if the caller calls update() itself.
        total: number of its items, where it cannot tell.
        desc: the word in front.
        unit: what is counted.
        initial: items that were done before.
        quiet: show nothing.
        scale: write large counts with k, M and G, as for bytes.
    """
    if quiet:
        return tqdm(iterable, disable=True)
    if sys.stderr.isatty():
        return tqdm(
            iterable,
            total=total,
            desc=desc,
            unit=unit,
            initial=initial,
            unit_scale=scale,
            dynamic_ncols=True,
        )
    return _Lines(
        iterable,
        total=total,
        desc=desc,
        unit=unit,
        initial=initial,
        unit_scale=scale,
        mininterval=30,
        maxinterval=60,
        ncols=100,
    )
