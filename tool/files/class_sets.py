"""classes.txt, the file of a data folder that names its foreground classes, one a line."""

import os

from tool.files.atomic import write_text
from tool.files.reading import open_text
from tool.method.class_set import BACKGROUND, ClassSet
from tool.run.errors import UserError

FILE = 'classes.txt'


def read_class_set(data_root: str, default: ClassSet) -> ClassSet:
    """The classes that the classes.txt of a data folder names; `default` if there is no such file.

    Raises:
        UserError: as `read_classes`.
    """
    path = os.path.join(data_root, FILE)
    if not os.path.exists(path):
        return default
    return read_classes(path)


def read_classes(path: str) -> ClassSet:
    """The class set of a text file with one foreground class a line.

    The encoding is UTF-8 with or without a byte-order mark. Blank lines are ignored.

    Raises:
        UserError: the file is missing or not readable, or its lines are not a class set.
    """
    try:
        with open_text(path, 'utf-8-sig') as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: not a readable text file ({error})') from None
    names = [line for line in lines if line]
    if BACKGROUND in names:
        raise UserError(
            f'{path}: names the class {BACKGROUND}, which every class set has; '
            'list the foreground classes only'
        )
    try:
        return ClassSet.of(names)
    except ValueError as error:
        raise UserError(f'{path}: {error}; one foreground class a line is expected') from None


def write_classes(path: str, classes: ClassSet) -> None:
    """Write the foreground classes of a class set to a text file, one a line."""
    write_text(path, '\n'.join(classes.foreground) + '\n')
