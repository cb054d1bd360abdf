"""A complete VOC2012 folder, augmented masks included, from the archives of VOC 2012 and of SBD.

    python -m voc12.prepare --root VOC2012 --download

Reads  VOCtrainval_11-May-2012.tar (PASCAL VOC 2012) and benchmark.tgz (the Semantic Boundaries
       Dataset, SBD) in --archives. With --download, what is missing there is downloaded.
Writes <root>/{JPEGImages,SegmentationClass,Annotations,ImageSets} out of VOC's archive;
       <root>/SegmentationClassAug/<name>.png, the masks of SBD and of VOC's train and val. Where
       both have a mask it is VOC's, with its borders of 255;
       what python -m voc12.make_lists writes: the lists and cls_labels.npy in --out_dir.

What is complete is skipped, so the same command continues an interrupted one. At the end it prints
the counts beside those of the whole data set. Once <root> is complete, the archives are not needed.
"""

import argparse
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from tool.files.atomic import need_folder, write_bytes, write_text
from tool.files.lists import labels_of, read_labels, read_list
from tool.files.mat_files import read_field
from tool.files.pictures import check_size, image_size, read_mask, write_mask
from tool.files.reading import read_json
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.pool import Pool, pool_map
from tool.run.progress import progress
from voc12 import make_lists
from voc12.archives import Archive, disk_size, need_space, provide, read_files
from voc12.classes import VOC
from voc12.layout import PICTURES, image_path

VOC_FOLDERS = (PICTURES, 'SegmentationClass', 'Annotations', 'ImageSets')
OWN_MASKS = 'SegmentationClass'
AUGMENTED = 'SegmentationClassAug'
SBD_FOLDER = 'benchmark_RELEASE/dataset/cls/'
STATE = '.prepared.json'  # in <root>: which archives have been used up, and what came of them
SBD_COUNT = 'masks in the archive'  # the entry of STATE that is no folder

# What the whole data set has; make_lists.EXPECTED has the lists.
EXPECTED_SBD = 11355
EXPECTED_MASKS = 12031
MASK_BYTES = 16384  # what an augmented mask takes on disk, generously

# The addresses and md5 sums are torchvision's. Those below are used beside them: releases of
# torchvision from before VOC moved to thor.robots.ox.ac.uk have an address that fails.
VOC_FILE = 'VOCtrainval_11-May-2012.tar'
VOC_URL = f'https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/{VOC_FILE}'
VOC_MIRROR = f'https://d2l-data.s3-accelerate.amazonaws.com/{VOC_FILE}'
VOC_MD5 = '6cd6e144f989b92b3379bac3b3de84fd'
VOC_BYTES = 1_999_639_040
SBD_FILE = 'benchmark.tgz'
SBD_URL = (
    'https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/'
    f'{SBD_FILE}'
)
SBD_MD5 = '82b4d87ceb2ed10f6038a1cba92111cb'
SBD_BYTES = 1_419_539_633

# Number of files that the folders have when nothing of an archive is missing.
WHOLE = {
    VOC_FILE: {
        PICTURES: 17125,
        'Annotations': 17125,
        OWN_MASKS: 2913,
        'ImageSets/Segmentation': 3,
    },
    SBD_FILE: {AUGMENTED: EXPECTED_MASKS},
}

# md5 sums of the published files, which are compared with what the lists here would be in each of
# the layouts of the field.
PUBLISHED = {
    'train': 'ac4c7a5654bc68b8b22da2278f451e01',
    'val': '53d7327483929cb14e992cc3da52e2f2',
    'train_aug': '3458f25de571f26d2b280a72356584ad',
}
LAYOUTS = (
    '{name}',
    '/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png',
    '/JPEGImages/{name}.jpg /SegmentationClass/{name}.png',
    '/JPEGImages/{name}.jpg',
)


# --- the archives ---------------------------------------------------------------------------------


def voc_archive() -> Archive:
    """The archive of VOC 2012's train and val, with torchvision's address and md5 first."""
    try:
        from torchvision.datasets.voc import DATASET_YEAR_DICT

        known = DATASET_YEAR_DICT['2012']
        urls = [known['url'], VOC_URL, VOC_MIRROR]
        md5 = known['md5']
    except (ImportError, KeyError):  # the table is no documented part of torchvision
        urls = [VOC_URL, VOC_MIRROR]
        md5 = VOC_MD5
    return Archive(VOC_FILE, tuple(dict.fromkeys(urls)), md5, VOC_BYTES)


def sbd_archive() -> Archive:
    """The archive of SBD, with torchvision's address and md5 first."""
    try:
        from torchvision.datasets import SBDataset

        urls = [SBDataset.url, SBD_URL]
        md5 = SBDataset.md5
    except (ImportError, AttributeError):  # the attributes are not documented
        urls = [SBD_URL]
        md5 = SBD_MD5
    return Archive(SBD_FILE, tuple(dict.fromkeys(urls)), md5, SBD_BYTES)


# --- what is complete -----------------------------------------------------------------------------


def read_state(root: str) -> dict[str, dict[str, int]]:
    """{archive: {folder: number of files when the archive was used up}} of a data folder.

    Of SBD's archive it also has the number of its masks, under SBD_COUNT.
    """
    try:
        state = read_json(os.path.join(root, STATE))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def is_complete(root: str, filename: str) -> bool:
    """True if nothing of an archive is missing in a data folder.

    That is so where the archive was used up and no folder has lost files since, or where the
    folders are as large as those of the whole data set, whoever made them.
    """
    counts = read_state(root).get(filename)
    if _has_files(root, WHOLE[filename]):
        return True
    return isinstance(counts, dict) and _has_files(root, counts)


def _has_files(root: str, counts: dict[str, int]) -> bool:
    """True if each folder has at least so many files; the entry SBD_COUNT is no folder."""
    return all(
        _count_files(os.path.join(root, folder)) >= count
        for folder, count in counts.items()
        if folder != SBD_COUNT
    )


def note_complete(root: str, filename: str, counts: dict[str, int]) -> None:
    """Record that an archive is used up; `counts` as in `read_state`."""
    state = read_state(root)
    state[filename] = counts
    write_text(os.path.join(root, STATE), json.dumps(state, indent=1) + '\n')


def _count_files(folder: str) -> int:
    """Number of files in a folder and below it, without hidden ones."""
    total = 0
    for _, _, files in os.walk(folder):
        total += sum(not file.startswith('.') for file in files)
    return total


def _mask_names(folder: str) -> set[str]:
    """Names of the pictures that have a mask in a folder, which need not exist."""
    if not os.path.isdir(folder):
        return set()
    return make_lists.mask_names(folder)


# --- VOC ------------------------------------------------------------------------------------------


def voc_file(name: str) -> str | None:
    """Path below the data folder of a file of VOC's archive; None for one that is not needed."""
    inside = name.partition('VOCdevkit/VOC2012/')[2]
    folder = inside.partition('/')[0]
    is_hidden = os.path.basename(inside).startswith('.')
    return inside if folder in VOC_FOLDERS and not is_hidden else None


def extract_voc(path: str, root: str) -> None:
    """Extract what is missing of VOC's archive; each file is written atomically.

    Raises:
        UserError: the archive is damaged, incomplete or another, or the disk is full.
    """

    def is_missing(name: str, size: int) -> bool:
        file = voc_file(name)
        if file is None:
            return False
        there = os.path.join(root, file)
        return not (os.path.isfile(there) and os.path.getsize(there) == size)

    needed = disk_size(path, is_missing)
    need_space(root, needed, f'what is in {path}')
    bar = progress(desc='VOC 2012', unit='file')
    with bar:
        for name, content in read_files(path, is_missing):
            target = os.path.join(root, str(voc_file(name)))
            write_bytes(target, content)
            bar.update()
    check_voc(root, path)
    counts = {folder: _count_files(os.path.join(root, folder)) for folder in VOC_FOLDERS}
    note_complete(root, VOC_FILE, counts)


def check_voc(root: str, path: str) -> None:
    """Check that the pictures of train and val have a picture and a mask.

    Raises:
        UserError: one has not.
    """
    for split in ('train', 'val'):
        list_file = os.path.join(root, 'ImageSets', 'Segmentation', f'{split}.txt')
        if not os.path.isfile(list_file):
            raise UserError(f'{path}: not the archive of VOC 2012, it has no {list_file}')
        for name in read_list(list_file):
            for file in (f'{PICTURES}/{name}.jpg', f'{OWN_MASKS}/{name}.png'):
                if not os.path.isfile(os.path.join(root, file)):
                    raise UserError(
                        f'{path}: incomplete, {file} of {split}.txt is not in it; remove it and '
                        'run the command again with --download'
                    )


# --- the augmented masks --------------------------------------------------------------------------


def make_augmented(path: str, root: str, jobs: int) -> None:
    """Make the masks of SegmentationClassAug that are missing.

    Args:
        path: SBD's archive.
        root: data folder, with VOC's files in it.
        jobs: number of processes that read and write masks.
    Raises:
        UserError: a mask or the archive is damaged, or the disk is full.
    """
    folder = os.path.join(root, AUGMENTED)
    have = _mask_names(folder)
    of_voc = _mask_names(os.path.join(root, OWN_MASKS))
    need_space(root, max(0, EXPECTED_MASKS - len(have)) * MASK_BYTES, f'{AUGMENTED}')

    to_copy = sorted(of_voc - have)
    copied = pool_map(partial(copy_voc_mask, root), to_copy, jobs)
    for _ in progress(copied, total=len(to_copy), desc="VOC's masks"):
        pass

    skip = have | of_voc
    of_sbd: set[str] = set()
    with Pool(jobs) as pool:
        for name, content in progress(_sbd_masks(path, skip, of_sbd), desc="SBD's masks"):
            pool.submit(write_sbd_mask, root, name, content)
        for _ in pool.finish():
            pass
    if not of_sbd:
        raise UserError(f'{path}: not the archive of SBD, it has no {SBD_FOLDER}<name>.mat')
    counts = {SBD_COUNT: len(of_sbd), AUGMENTED: _count_files(folder)}
    note_complete(root, SBD_FILE, counts)


def _sbd_masks(path: str, skip: set[str], found: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, .mat file) of the masks in SBD's archive.

    Args:
        path: the archive.
        skip: names of masks that are not wanted.
        found: set to which the names of all masks in the archive are added.
    """

    def is_wanted(file: str, size: int) -> bool:
        name = sbd_name(file)
        if name is None:
            return False
        found.add(name)
        return name not in skip

    for file, content in read_files(path, is_wanted):
        yield str(sbd_name(file)), content


def sbd_name(file: str) -> str | None:
    """The picture name of a mask in SBD's archive; None for a file that is no mask."""
    match = re.fullmatch(f'{SBD_FOLDER}([0-9]{{4}}_[0-9]{{6}})[.]mat', file)
    return match[1] if match else None


def read_sbd_mask(name: str, content: bytes) -> np.ndarray:
    """The mask in a .mat file of SBD.

    Args:
        name: name of the picture.
        content: the file: a struct GTcls, whose field Segmentation is the mask.
    Returns:
        uint8 [H, W], class ids 0…20; SBD does not have 255.
    Raises:
        UserError: the file is damaged, or it holds something else.
    """
    file = f'{SBD_FOLDER}{name}.mat of {SBD_FILE}'
    fix = 'download the archive again'
    try:
        mask = read_field(content, 'GTcls', 'Segmentation')
    except ValueError as error:
        raise UserError(f'{file}: not a mask of SBD ({error}); {fix}') from None
    if mask.max(initial=0) >= VOC.num_classes:
        raise UserError(f'{file}: holds class {mask.max()}, expected 0…20; {fix}')
    return mask


def write_sbd_mask(root: str, name: str, content: bytes) -> None:
    """Write a mask of SBD into SegmentationClassAug; `content` as in `read_sbd_mask`.

    Raises:
        UserError: the mask is damaged, or it has no picture or another size than its picture.
    """
    mask = read_sbd_mask(name, content)
    path = os.path.join(root, AUGMENTED, f'{name}.png')
    check_size(path, mask.shape, image_size(image_path(root, name)), fix='check the two archives')
    write_mask(path, mask)


def copy_voc_mask(root: str, name: str) -> None:
    """Write one of VOC's own masks, borders of 255 included, into SegmentationClassAug."""
    mask = read_mask(os.path.join(root, OWN_MASKS, f'{name}.png'), VOC)
    write_mask(os.path.join(root, AUGMENTED, f'{name}.png'), mask)


# --- comparison with the published files ----------------------------------------------------------


def published_layout(names: list[str], md5: str) -> str | None:
    """The layout of lines in which a list has a given md5, with or without a last line break.

    Args:
        names: the pictures, in the order of the list.
        md5: md5 sum of the published file.
    Returns:
        One of LAYOUTS; None if the list has that md5 in none of them.
    """
    for layout in LAYOUTS:
        text = '\n'.join(layout.format(name=name) for name in names)
        for ending in ('', '\n'):
            if _md5(text + ending) == md5:
                return layout
    return None


def list_content_md5(names: list[str]) -> str:
    """md5 sum of the sorted names of a list, one a line: the same for every layout and order."""
    return _md5(''.join(f'{name}\n' for name in sorted(names)))


def labels_content_md5(labels: dict[str, np.ndarray]) -> str:
    """md5 sum of labels as text, a line '<name> <20 digits 0 or 1>' a picture, sorted by name.

    Files of labels are pickles, whose bytes differ between versions of numpy and Python where
    their content does not.
    """
    lines = []
    for name in sorted(labels):
        digits = ''.join('1' if value else '0' for value in labels[name])
        lines.append(f'{name} {digits}\n')
    return _md5(''.join(lines))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def read_published(folder: str) -> tuple[dict[str, list[str]], dict[str, np.ndarray] | None]:
    """The lists and the labels of a folder of published files; what it does not have is left out.

    Raises:
        UserError: there is no such folder, or a file is damaged.
    """
    need_folder(folder, 'give the folder of the published lists as --published')
    lists = {}
    for split in PUBLISHED:
        path = os.path.join(folder, f'{split}.txt')
        if os.path.exists(path):
            lists[split] = read_list(path)
    path = os.path.join(folder, 'cls_labels.npy')
    labels = read_labels(path, VOC) if os.path.exists(path) else None
    return lists, labels


def report_published_list(split: str, names: list[str], published: list[str] | None) -> None:
    """Print whether a list has the content of the published one.

    Args:
        split: name of the list.
        names: its pictures.
        published: the pictures of the published list in --published, None without it.
    """
    if published is not None:
        if list_content_md5(names) == list_content_md5(published):
            print(f'{split:10} equal to the one in --published (the md5 of its content)')
        else:
            differing = len(set(names) ^ set(published))
            print(f'{split:10} differs from the one in --published in {differing} pictures')
    elif published_layout(names, PUBLISHED[split]) is not None:
        print(f'{split:10} equal to the published one (the md5 of its content)')
    else:
        print(
            f'{split:10} not recognised as the published one; --published compares picture by '
            'picture'
        )


def report_published_labels(
    labels: dict[str, np.ndarray], published: dict[str, np.ndarray] | None
) -> None:
    """Print the md5 of the labels' content, and whether published labels have the same.

    Args:
        labels: the labels made here.
        published: the labels in --published, None without them.
    """
    print(f'{"labels":10} md5 of the content: {labels_content_md5(labels)}')
    if published is None:
        return
    names = list(labels)
    found = dict(zip(names, labels_of(published, names)))
    same_names = {name: label for name, label in found.items() if label is not None}
    if labels_content_md5(same_names) == labels_content_md5(labels):
        print(f'{"labels":10} equal to those in --published (the md5 of their content)')
        return
    differing = [
        name
        for name in names
        if name not in same_names or not np.array_equal(labels[name], same_names[name])
    ]
    print(
        f'{"labels":10} differ from those in --published in {len(differing)} pictures, e.g. '
        f'{min(differing)}'
    )


# --- the command ----------------------------------------------------------------------------------


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.data.add_argument(
        '--archives',
        help='folder of the two archives, downloaded or copied (default: <root>/archives)',
    )
    parser.data.add_argument(
        '--download',
        action='store_true',
        help='download the archives that are missing: 3.4 GB, continued after a break',
    )
    parser.data.add_argument(
        '--no_md5',
        action='store_true',
        help='take archives with other md5 sums, as those that were packed again',
    )
    parser.data.add_argument(
        '--published',
        help='folder of the published train.txt, val.txt, train_aug.txt and cls_labels.npy, to '
        'compare the content of the ones made here with',
    )
    parser.output.add_argument(
        '--root', required=True, help='the VOC2012 folder to make or to complete'
    )
    parser.output.add_argument(
        '--out_dir', default='voc12', help='folder for the lists and cls_labels.npy'
    )
    command_line.add_jobs_flag(parser, 'masks and annotations')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    root = args.root
    # read before anything is made, because --published may be --out_dir
    published_lists: dict[str, list[str]] = {}
    published_labels = None
    if args.published:
        published_lists, published_labels = read_published(args.published)

    prepare(root, args)
    lists, labels = make_lists.make(root, args.out_dir, args.jobs)

    sbd_count = read_state(root).get(SBD_FILE, {}).get(SBD_COUNT)
    mask_count = len(_mask_names(os.path.join(root, AUGMENTED)))
    if sbd_count is None:
        print(f'{"SBD":10} not counted: {AUGMENTED} was complete without its archive')
    else:
        print(f'{"SBD":10} {sbd_count:6} masks (the whole SBD has {EXPECTED_SBD})')
    print(f'{"all masks":10} {mask_count:6} in {AUGMENTED} (expected {EXPECTED_MASKS})')
    for split in PUBLISHED:
        if split in lists:
            report_published_list(split, lists[split], published_lists.get(split))
    report_published_labels(labels, published_labels)


def prepare(root: str, args: argparse.Namespace) -> None:
    """Make what is missing of the data folder: VOC's files, then the augmented masks."""
    folder = args.archives or os.path.join(root, 'archives')
    archives = []
    if not is_complete(root, VOC_FILE):
        archives.append(voc_archive())
    if not is_complete(root, SBD_FILE):
        archives.append(sbd_archive())
    if args.no_md5:
        archives = [replace(archive, md5=None) for archive in archives]
    # both archives before the work begins: a download that fails shall not come after it
    paths = {archive.filename: provide(archive, folder, args.download) for archive in archives}
    if VOC_FILE in paths:
        extract_voc(paths[VOC_FILE], root)
    if SBD_FILE in paths:
        make_augmented(paths[SBD_FILE], root, args.jobs)


if __name__ == '__main__':
    command_line.run(main, parse_args)
