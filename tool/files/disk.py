"""Room on disks, for the dry runs of the stages."""

import os


def in_words(size: int) -> str:
    """A number of bytes for the eye: '3.2 GB'."""
    if size < 1000:
        return f'{size} bytes'
    amount = float(size)
    for unit in ('kB', 'MB', 'GB'):
        amount /= 1000
        if amount < 1000:
            return f'{amount:.1f} {unit}'
    return f'{amount / 1000:.1f} TB'


def existing_part(path: str) -> str:
    """The folder that a path lies in or is, or the nearest one above it that exists."""
    folder = os.path.abspath(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder
