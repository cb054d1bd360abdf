"""Writing a data folder in VOC 2012's layout from pictures that lie elsewhere.

`voc12.from_folder` and `voc12.from_coco` share this module. A data folder remembers in its
manifest which files were written and from what, so that the same command can run again, and so
that nothing is removed that the command did not write.
"""

import argparse
import contextlib
import filecmp
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from tool.files.atomic import (
    atomic,
    cannot_be_written,
    is_full_disk,
    make_link,
    write_text,
)
from tool.files.class_sets import FILE as CLASS_FILE
from tool.files.class_sets import write_classes
from tool.files.folder_locks import FolderLocks
from tool.files.lists import unlistable, write_list
from tool.files.manifest import MANIFEST, first_difference
from tool.files.npy import write_npy
from tool.files.picture_files import lies_in
from tool.files.pictures import read_image
from tool.files.reading import open_text, read_json
from tool.method.class_set import ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from voc12.layout import IMAGE_SETS, PICTURES

BAD_FILES = 'bad_files.txt'
# The first line of bad_files.txt, by which a later run knows that it may replace the file.
_BAD_HEADER = '# Files that cannot be used, and why, one a line'
# Bytes that the name of a picture may have in UTF-8. A file name may have 255; the rest is for the
# extension and for what a file is called while it is written.
_LONGEST_NAME = 230


@dataclass(frozen=True)
class Picture:
    """One labelled picture."""

    # file name without folder and extension; see path_as_name for pictures named by their path
    name: str
    # path of the picture
    source: str
    # foreground classes that the picture shows, 0…K−1; empty: it shows none of them
    classes: tuple[int, ...]
    # the path, below the folder of pictures, that the name is made of; '': the name is that of the
    # file alone
    named_by: str = ''

    @property
    def file(self) -> str:
        """Path below the data folder."""
        file = path_as_name(self.named_by) if self.named_by else os.path.basename(self.source)
        return f'{PICTURES}/{file}'


def path_as_name(path: str) -> str:
    """A path with its separators replaced, e.g. cat_001.jpg of cat/001.jpg."""
    return path.replace(os.sep, '_')


@dataclass(frozen=True)
class Lists:
    """The image lists of a data folder: sorted names of pictures."""

    # pictures to train on that are scored, too
    train: list[str]
    # pictures that are scored and not trained on
    val: list[str]
    # all pictures to train on
    train_aug: list[str]


# ---------------------------------------------------------------- command line


def add_flags(parser: command_line.Parser) -> None:
    """Add the flags that both commands have."""
    parser.data.add_argument(
        '--val',
        type=command_line.number(float, 0, 0.9),
        default=0.1,
        help='share of the pictures that the list val gets; the others are train',
    )
    parser.data.add_argument(
        '--skip_bad',
        action='store_true',
        help=f'leave out files that cannot be used, instead of stopping; {BAD_FILES} names them',
    )
    parser.output.add_argument('--out', required=True, help='data folder to write')
    parser.output.add_argument(
        '--copy', action='store_true', help='copy the pictures instead of linking to them'
    )
    parser.output.add_argument(
        '--overwrite',
        action='store_true',
        help='replace what an earlier run wrote from other files or with other flags',
    )
    parser.run.add_argument(
        '--seed',
        type=command_line.number(int, 0),
        default=0,
        help='decides which pictures the list val gets',
    )
    command_line.add_jobs_flag(parser, 'reading pictures')


# ---------------------------------------------------------------- checks


def refuse_inside(out: str, images: str, flag: str = '--images') -> None:
    """UserError if the data folder would lie in the folder of pictures that it is made from."""
    if lies_in(out, images):
        raise UserError(f'{out}: lies in {images}, the folder of {flag}; choose another --out')


def refuse_same_names(pictures: Iterable[Picture], fix: str = 'rename one of them') -> None:
    """UserError if two files have the same picture name.

    Args:
        pictures: all pictures.
        fix: the end of the message: what the user can do.
    """
    source_of: dict[str, str] = {}
    for picture in pictures:
        other = source_of.setdefault(picture.name, picture.source)
        if other != picture.source:
            raise UserError(
                f'{other} and {picture.source} are both of the name {picture.name}; {fix}'
            )


def picture_problem(picture: Picture) -> str:
    """Why a picture cannot be used, with the fix; '' if it can."""
    path, name = picture.source, picture.name
    problem = unlistable(name)
    if problem:
        return f'{path}: the name {problem}; rename the file'
    length = len(name.encode('utf-8'))
    if length > _LONGEST_NAME:
        return f'{path}: the name has {length} bytes, more than {_LONGEST_NAME}; rename the file'
    try:
        read_image(path)
    except UserError as error:
        return str(error)
    return ''


def report_bad(out: str, problems: list[str], skip: bool) -> None:
    """Write bad_files.txt, and stop unless bad files are to be skipped.

    Args:
        out: the data folder.
        problems: messages that name a file and a reason. Without any, the file of an earlier run
            is removed.
        skip: the value of --skip_bad.
    Raises:
        UserError: there are problems and they are not to be skipped.
    """
    path = os.path.join(out, BAD_FILES)
    if os.path.exists(path):
        with open_text(path, errors='replace') as file:
            is_ours = file.readline().startswith(_BAD_HEADER)
        if not is_ours:
            raise UserError(f'{path}: is a file of another kind; rename it or choose another --out')
        if not problems:
            os.unlink(path)
    if not problems:
        return
    text = '\n'.join([_BAD_HEADER, *sorted(problems)]) + '\n'
    write_text(path, text.encode('utf-8', 'backslashreplace').decode('utf-8'))
    if not skip:
        raise UserError(
            f'{path}: names {len(problems)} files, e.g. {min(problems)} '
            '(nothing was written; mend them, or give --skip_bad)'
        )
    print(f'{len(problems)} files cannot be used and were left out: see {path}')


# ---------------------------------------------------------------- the manifest


def digest(value) -> str:
    """The first 16 hex digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def check_claim(
    out: str, settings: dict, files: Iterable[str], overwrite: bool, sources: Iterable[str] = ()
) -> set[str]:
    """Check that files may be written into a data folder.

    Args:
        out: the data folder, which need not exist.
        settings: JSON values that decide the files.
        files: paths of the files below the folder.
        overwrite: replace what was written with other settings.
        sources: pictures and masks that the files are made from.
    Returns:
        Paths below the folder that the manifest names: what an earlier run wrote.
    Raises:
        UserError: the folder was made with other settings, it holds one of the files and no run
            wrote it, or a source is itself one of the files.
    """
    before, written = _read_manifest(out)
    if before is not None and not overwrite:
        difference = first_difference(before, settings)
        if difference is not None:
            raise UserError(
                f'{out}: was made with {difference}; use --overwrite to replace it or another --out'
            )
    files = list(files)
    for file in files:
        path = os.path.join(out, file)
        if file not in written and os.path.lexists(path):
            raise UserError(
                f'{path}: exists and was not written by this command; choose another --out'
            )
    root = os.path.realpath(out)
    own = {os.path.join(root, file) for file in (*written, *files)}
    for source in sources:
        if os.path.realpath(source) in own:
            raise UserError(
                f'{source}: is a file that this command writes in {out}, and cannot be its own '
                'source; choose another --out'
            )
    return written


@contextlib.contextmanager
def claimed(out: str, settings: dict, files: Iterable[str], overwrite: bool) -> Iterator[None]:
    """Make a data folder the output of this run, whose files the block writes.

    What an earlier run wrote too many is removed. No other run may write there meanwhile. Arguments
    and errors are those of `check_claim`, which has been called.

    Raises:
        UserError: another run writes into the folder.
    """
    now = set(files)
    with FolderLocks([out]):
        written = check_claim(out, settings, now, overwrite)
        # Until the end the manifest names the files of both runs, so that a run after a stop knows
        # all.
        _write_manifest(out, settings, written | now)
        for file in sorted(written - now):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(out, file))
        yield
        _write_manifest(out, settings, now)


def _read_manifest(out: str) -> tuple[dict | None, set[str]]:
    """(settings, files) of a data folder's manifest; (None, no files) where there is none."""
    path = os.path.join(out, MANIFEST)
    try:
        content = read_json(path)
        settings = dict(content['settings'])
        files = {str(file) for file in content['files']}
    except FileNotFoundError:
        return None, set()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f'{path}: unreadable manifest ({error}); choose another --out') from None
    for name in files:
        if os.path.isabs(name) or '..' in name.split('/'):
            raise UserError(f'{path}: names {name}, outside its folder; choose another --out')
    return settings, files


def _write_manifest(out: str, settings: dict, files: set[str]) -> None:
    """Write the manifest of a data folder."""
    content = {'settings': settings, 'files': sorted(files)}
    write_text(os.path.join(out, MANIFEST), json.dumps(content, indent=1) + '\n')


# ---------------------------------------------------------------- files


def place(source: str, path: str, copy: bool) -> None:
    """Make `path` a link to a file, or a copy of it.

    Raises:
        UserError: it cannot be written.
    """
    source = os.path.abspath(source)
    if copy:
        if not os.path.islink(path) and os.path.exists(path):
            if filecmp.cmp(source, path, shallow=False):
                return
        with atomic(path) as temporary:
            shutil.copyfile(source, temporary)
        return
    if os.path.islink(path) and os.readlink(path) == source:
        return
    try:
        make_link(source, path)
    except OSError as error:
        if is_full_disk(error):
            raise cannot_be_written(path, error) from None
        raise UserError(f'{path}: cannot be linked ({error.strerror}); try --copy') from None


def split(
    pictures: list[Picture], share: float, seed: int, more: Iterable[Picture] = ()
) -> tuple[list[str], list[str]]:
    """Random lists of train and val that hold each combination of classes in the same proportion.

    The pictures are put in random order and then sorted by their classes. At a share of 0.1, every
    tenth of this sequence goes to val, unless that left a class without a picture to train on.

    Args:
        pictures: all pictures.
        share: share of val, 0…1.
        seed: decides the random order.
        more: further pictures to train on, which are in neither list.
    Returns:
        Sorted names of train and of val.
    """
    by_name = sorted(pictures, key=_name)
    order = np.random.default_rng(seed).permutation(len(by_name))
    shuffled = [by_name[index] for index in order]
    train: list[Picture] = []
    drawn: list[Picture] = []
    for picture in sorted(shuffled, key=_classes):
        count = len(train) + len(drawn) + 1
        wanted = int(count * share + 0.5)
        if len(drawn) < wanted:
            drawn.append(picture)
        else:
            train.append(picture)
    in_train: set[int] = set()
    for picture in (*train, *more):
        in_train.update(picture.classes)
    val: list[Picture] = []
    for picture in drawn:
        if in_train.issuperset(picture.classes):
            val.append(picture)
        else:
            train.append(picture)
            in_train.update(picture.classes)
    return sorted(map(_name, train)), sorted(map(_name, val))


def _name(picture: Picture) -> str:
    return picture.name


def _classes(picture: Picture) -> tuple[int, ...]:
    return picture.classes


def draw_lists(pictures: list[Picture], scored: set[str], share: float, seed: int) -> Lists:
    """Draw the lists of a data folder.

    As in VOC, `train` and `val` are for scoring, so they hold only pictures that can be scored:
    those with a mask. `train_aug` is for training and holds every picture that is not in `val`.

    Args:
        pictures: all pictures.
        scored: names of the pictures with a mask. Without any, train and val are drawn of all
            pictures.
        share: share of val among the pictures that it is drawn from, 0…1.
        seed: decides the random order, see `split`.
    """
    to_draw = [picture for picture in pictures if picture.name in scored] or pictures
    drawn_from = {picture.name for picture in to_draw}
    not_scored = [picture for picture in pictures if picture.name not in drawn_from]
    train, val = split(to_draw, share, seed, not_scored)
    in_val = set(val)
    train_aug = sorted(picture.name for picture in pictures if picture.name not in in_val)
    return Lists(train, val, train_aug)


def list_files(lists: Lists) -> dict[str, list[str]]:
    """{path below the data folder: names} of all image lists; an empty list is not written.

    Code in the field reads the augmented list under both spellings, train_aug and trainaug.
    """
    names_of = {'train': lists.train, 'train_aug': lists.train_aug, 'val': lists.val}
    files = {f'lists/{name}.txt': names for name, names in names_of.items()}
    for name, names in {**names_of, 'trainaug': lists.train_aug}.items():
        files[f'{IMAGE_SETS}/{name}.txt'] = names
    return {file: names for file, names in files.items() if names}


def write_image_sets(out: str, lists: Lists) -> None:
    """Write the lists of the devkit, ImageSets/Segmentation/*.txt."""
    for file, names in list_files(lists).items():
        if file.startswith(IMAGE_SETS):
            write_list(os.path.join(out, file), names)


def text_files(lists: Lists) -> list[str]:
    """Paths below the data folder of what `write_lists` writes."""
    return [CLASS_FILE, 'lists/cls_labels.npy', *list_files(lists)]


def write_lists(out: str, classes: ClassSet, pictures: list[Picture], lists: Lists) -> None:
    """Write classes.txt, the image lists and the image-level labels."""
    write_classes(os.path.join(out, CLASS_FILE), classes)
    labels: dict[str, np.ndarray] = {}
    for picture in sorted(pictures, key=_name):
        label = np.zeros(classes.num_foreground, np.float32)
        label[list(picture.classes)] = 1
        labels[picture.name] = label
    write_npy(os.path.join(out, 'lists', 'cls_labels.npy'), labels)
    for file, names in list_files(lists).items():
        write_list(os.path.join(out, file), names)


def make_class_set(names: Iterable[str], source: str) -> ClassSet:
    """The class set of these foreground classes; UserError if they are none."""
    try:
        return ClassSet.of(names)
    except ValueError as error:
        raise UserError(f'{source}: {error}; mend the names of the classes') from None


def report(classes: ClassSet, pictures: list[Picture], lists: Lists, out: str) -> None:
    """Print how many pictures to train on and of val show each class."""
    in_val = set(lists.val)
    counts: dict[bool, Counter[int]] = {False: Counter(), True: Counter()}
    none = 0
    for picture in pictures:
        counts[picture.name in in_val].update(picture.classes)
        none += not picture.classes
    width = max(map(len, classes.foreground))
    header = 'train' if lists.train == lists.train_aug else 'train_aug'
    print(f'{"class":{width}}  {header:>9}  {"val":>7}')
    for index, name in enumerate(classes.foreground):
        print(f'{name:{width}}  {counts[False][index]:9}  {counts[True][index]:7}')
    print(f'{"pictures":{width}}  {len(lists.train_aug):9}  {len(lists.val):7}')
    if lists.train != lists.train_aug:
        print(
            f'of these, only pictures with a mask are in train ({len(lists.train)}) '
            f'and val ({len(lists.val)}), the lists that are scored'
        )
    if none:
        print(f'{none} pictures show none of the classes')
    root = os.path.normpath(out)
    print(
        f'written to {out}; the stages take --voc12_root "{root}" '
        f'--train_list "{root}/lists/train_aug.txt" --cls_labels "{root}/lists/cls_labels.npy"'
    )


def common_settings(args: argparse.Namespace, stage: str) -> dict:
    """The part of the manifest's settings that both commands have."""
    return {
        'stage': stage,
        'images': os.path.abspath(args.images),
        'val': args.val,
        'seed': args.seed,
        'copy': args.copy,
    }
