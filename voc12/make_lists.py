"""Image lists and image-level labels of a data folder in VOC 2012's layout.

    python -m voc12.make_lists --voc12_root VOC2012

Reads  classes.txt (where there is none, the classes are VOC's),
       ImageSets/Segmentation/{train,val,test}.txt, SegmentationClassAug/*.png and, for the labels,
       Annotations/*.xml. A picture without an annotation is labelled with the classes of its mask.
Writes into --out_dir the lists {train,val,test,train_aug}.txt, one name a line, and cls_labels.npy,
       a dict {name: float32 [K]} over the K foreground classes. train_aug has every picture that
       has a SegmentationClassAug mask and is not in val. trainaug.txt is the same list: the
       published README has both spellings.
"""

import argparse
import os
from collections import Counter
from functools import partial
from xml.etree import ElementTree

import numpy as np

from tool.files.atomic import need_folder
from tool.files.lists import read_list, unlistable, write_list
from tool.files.npy import write_npy
from tool.files.pictures import read_mask
from tool.files.places import keep_apart
from tool.method.class_set import IGNORE, MASK_COLOURS, ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.pool import pool_map
from tool.run.progress import progress
from voc12.classes import VOC
from voc12.layout import IMAGE_SETS, class_set, data_places

# pictures in the lists of the whole VOC 2012
EXPECTED = {'train': 1464, 'val': 1449, 'train_aug': 10582, 'test': 1456}
# folders that the label of a picture without an annotation is read from, in this order
MASKS = ('SegmentationClassAug', 'SegmentationClass')


def find_lists(root: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The lists of a devkit folder.

    Returns:
        {list: picture names}, and {list that cannot be made: why}.
    Raises:
        UserError: a list of the devkit is damaged, or a list cannot hold the name of a mask.
    """
    lists: dict[str, list[str]] = {}
    skipped: dict[str, str] = {}
    for name in ('train', 'val', 'test'):
        path = os.path.join(root, IMAGE_SETS, f'{name}.txt')
        if os.path.exists(path):
            lists[name] = read_list(path)
        else:
            skipped[name] = f'there is no {path}'
    folder = os.path.join(root, MASKS[0])
    if not os.path.isdir(folder):
        skipped['train_aug'] = (
            f'there is no {folder} (python -m voc12.prepare makes the augmented masks)'
        )
    elif 'val' not in lists:
        skipped['train_aug'] = 'it must leave out the pictures of val, and there is no val list'
    else:
        names = sorted(mask_names(folder) - set(lists['val']))
        _refuse_unlistable(folder, names)
        if names:
            lists['train_aug'] = names
        else:
            skipped['train_aug'] = f'{folder} has no mask of a picture outside val'
    return lists, skipped


def mask_names(folder: str) -> set[str]:
    """Names of the pictures that have a mask in a folder."""
    files = [file for file in os.listdir(folder) if not file.startswith('.')]
    return {file.removesuffix('.png') for file in files if file.endswith('.png')}


def _refuse_unlistable(folder: str, names: list[str]) -> None:
    """UserError if a list cannot hold the name of a mask; `write_list` would come too late."""
    for name in names:
        problem = unlistable(name)
        if problem:
            raise UserError(f'{folder}/{name}.png: the name {problem}; rename the file')


def annotated_classes(path: str, classes: ClassSet) -> set[int]:
    """Class ids 1…K of all objects of an annotation; objects marked as difficult count too.

    Raises:
        UserError: the XML is broken, or an object has an unknown class.
    """
    try:
        root = ElementTree.parse(path).getroot()
        names = [element.text for element in root.findall('object/name')]
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise UserError(
            f'{path}: not a readable annotation ({error}); unpack Annotations again'
        ) from None
    found = {(name or '').strip() for name in names}
    unknown = sorted(found - set(classes.foreground))
    if unknown:
        raise UserError(
            f'{path}: unknown class {unknown[0]!r}; expected one of {", ".join(classes.foreground)}'
        )
    return {classes.names.index(name) for name in found}


def image_label(
    root: str, name: str, classes: ClassSet, colours: str = MASK_COLOURS[0]
) -> tuple[str, np.ndarray, str]:
    """The image-level label of one picture, from its annotation or else from its mask.

    Args:
        root: the data folder.
        name: the picture.
        classes: its classes.
        colours: one of MASK_COLOURS, how masks are read.
    Returns:
        (name, multi-hot label float32 [K], folder that it comes from).
    Raises:
        UserError: the picture has neither annotation nor mask, or the file is damaged.
    """
    found, source = _classes_of_picture(root, name, classes, colours)
    label = np.zeros(classes.num_foreground, np.float32)
    for class_id in found:
        label[class_id - 1] = 1
    return name, label, source


def _classes_of_picture(
    root: str, name: str, classes: ClassSet, colours: str
) -> tuple[set[int], str]:
    """(class ids 1…K in a picture, folder of the file that says so); errors as `image_label`."""
    path = os.path.join(root, 'Annotations', f'{name}.xml')
    if os.path.exists(path):
        return annotated_classes(path, classes), 'Annotations'
    for folder in MASKS:
        path = os.path.join(root, folder, f'{name}.png')
        if os.path.exists(path):
            values = np.unique(read_mask(path, classes, colours)).tolist()
            return set(values) - {0, IGNORE}, folder
    raise UserError(
        f'{path}: no such mask, and no Annotations/{name}.xml either; '
        f'one of them must give the label of {name}'
    )


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.data.add_argument(
        '--voc12_root',
        required=True,
        help="the devkit's VOC2012 folder, with ImageSets and masks in it",
    )
    parser.output.add_argument(
        '--out_dir', default='voc12', help='folder for the lists and cls_labels.npy'
    )
    command_line.add_mask_colours_flag(parser)
    command_line.add_jobs_flag(parser, 'reading annotations and masks')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    root = need_folder(args.voc12_root, 'give the VOC2012 folder of the devkit as --voc12_root')
    keep_apart([('--out_dir', args.out_dir)], data_places(root))
    make(root, args.out_dir, args.jobs, args.mask_colours)


def make(
    root: str, out_dir: str, jobs: int, colours: str = MASK_COLOURS[0]
) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
    """Write the lists and the labels of a devkit folder, and print how many pictures they have.

    Args:
        root: the folder.
        out_dir: folder for the lists and cls_labels.npy.
        jobs: number of processes that read annotations and masks.
        colours: one of MASK_COLOURS, how masks are read.
    Returns:
        {list: picture names} and {picture name: label}.
    Raises:
        UserError: no list can be made, an annotation or a mask is damaged, or no picture shows a
            class.
    """
    lists, skipped = find_lists(root)
    to_label = _names_to_label(lists)
    if not to_label:
        reasons = '; '.join(f'{name}: {why}' for name, why in skipped.items())
        raise UserError(f'{root}: no list can be made; {reasons}')
    classes = class_set(root)
    function = partial(image_label, root, classes=classes, colours=colours)
    results = pool_map(function, to_label, jobs)
    found = list(progress(results, total=len(to_label), desc='labels'))
    if not any(label.any() for _, label, _ in found):
        raise UserError(
            f'{root}: no picture of its lists shows a class, by its annotation or its mask; check '
            'Annotations and the values of the masks'
        )

    for name, names in lists.items():
        write_list(os.path.join(out_dir, f'{name}.txt'), names)
    if 'train_aug' in lists:
        write_list(os.path.join(out_dir, 'trainaug.txt'), lists['train_aug'])
    label_of = {name: label for name, label, _ in found}
    labels = {name: label_of[name] for name in sorted(label_of)}
    write_npy(os.path.join(out_dir, 'cls_labels.npy'), labels)

    report_lists(lists, skipped, classes)
    report_labels(found)
    print(f'written to {out_dir}')
    return lists, labels


def _names_to_label(lists: dict[str, list[str]]) -> list[str]:
    """Sorted names of the pictures of all lists but test, whose labels are not public."""
    names: set[str] = set()
    for split, names_of_split in lists.items():
        if split != 'test':
            names.update(names_of_split)
    return sorted(names)


def report_lists(lists: dict[str, list[str]], skipped: dict[str, str], classes: ClassSet) -> None:
    """Print how many pictures each list has, or why it was not made."""
    for name, expected in EXPECTED.items():
        if name in lists:
            whole = f' (the whole VOC 2012 has {expected})' if classes == VOC else ''
            print(f'{name:10} {len(lists[name]):6} images{whole}')
        else:
            print(f'{name:10} skipped: {skipped[name]}')


def report_labels(found: list[tuple[str, np.ndarray, str]]) -> None:
    """Print which folders the labels come from; `found` holds a row of `image_label` a picture."""
    counts = Counter(source for _, _, source in found)
    sources = ', '.join(f'{count} from {source}' for source, count in counts.items())
    print(f'{"labels":10} {len(found):6} images ({sources})')
    empty = [name for name, label, _ in found if not label.any()]
    if empty:
        print(f'{"":10} {len(empty):6} of them have no class at all, e.g. {min(empty)}')


if __name__ == '__main__':
    command_line.run(main, parse_args)
