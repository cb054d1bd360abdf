"""The class set of a data folder: classes.txt, one foreground class a line."""

import os

from tool.files.atomic import write_text
from tool.method.class_set import BACKGROUND, ClassSet
from tool.run.errors import UserError

FILE = 'classes.txt'


def read_class_set(data_root: str, default: ClassSet) -> ClassSet:
    """The classes of a data folder: those of its classes.txt, `default` where it has none."""
    path = os.path.join(data_root, FILE)
    return read_classes(path) if os.path.exists(path) else default


def read_classes(path: str) -> ClassSet:
    """The class set of a text file: UTF-8 with or without BOM, one foreground class a line, blank
    lines ignored.

    Raises:
        UserError: missing or not readable, or no class set; names the file.
    """
    try:
        with open(path, encoding='utf-8-sig') as file:
            names = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: not a readable text file ({error})') from None
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
    """Write the foreground classes, one a line."""
    write_text(path, '\n'.join(classes.foreground) + '\n')
