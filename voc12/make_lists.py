"""Image lists and image-level labels of a data folder in VOC 2012's layout, made from its own
folders.

    python -m voc12.make_lists --voc12_root VOC2012

Reads classes.txt (without it the classes are VOC's), ImageSets/Segmentation/{train,val,test}.txt,
SegmentationClassAug/*.png and, for the labels, Annotations/*.xml (for pictures without one, the
classes of their mask). Writes into --out_dir {train,val,test,train_aug}.txt, one name a line, and
cls_labels.npy, a dict {name: float32 [K]} over the K foreground classes. train_aug is every picture
with a SegmentationClassAug mask that is not in val.
"""

import argparse
import os
from collections import Counter
from functools import partial
from xml.etree import ElementTree

import numpy as np

from tool.files.atomic import need_folder, write_text
from tool.files.lists import read_list
from tool.files.npy import write_npy
from tool.files.pictures import read_mask
from tool.method.class_set import IGNORE, ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from tool.run.pool import pool_map
from tool.run.progress import progress
from voc12.classes import VOC
from voc12.layout import class_set

EXPECTED = {'train': 1464, 'val': 1449, 'train_aug': 10582, 'test': 1456}  # of the whole VOC 2012
MASKS = ('SegmentationClassAug', 'SegmentationClass')


def find_lists(root: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """({list: image names}, {list that cannot be made: why}) of a devkit folder."""
    lists, skipped = {}, {}
    for name in ('train', 'val', 'test'):
        path = os.path.join(root, 'ImageSets', 'Segmentation', f'{name}.txt')
        if os.path.exists(path):
            lists[name] = read_list(path)
        else:
            skipped[name] = f'there is no {path}'
    folder = os.path.join(root, MASKS[0])
    if not os.path.isdir(folder):
        skipped['train_aug'] = (
            f'there is no {folder} (the augmented masks are a download of their own)'
        )
    elif 'val' not in lists:
        skipped['train_aug'] = 'it must leave out the pictures of val, and there is no val list'
    else:
        masks = {
            file[:-4]
            for file in os.listdir(folder)
            if file.endswith('.png') and not file.startswith('.')
        }
        if names := sorted(masks - set(lists['val'])):
            lists['train_aug'] = names
        else:
            skipped['train_aug'] = f'{folder} has no mask of a picture outside val'
    return lists, skipped


def annotated_classes(path: str, classes: ClassSet) -> set[int]:
    """Class ids 1…K of the objects of an annotation, difficult ones too.

    Raises:
        UserError: broken XML or an object of an unknown class.
    """
    try:
        names = [
            element.text for element in ElementTree.parse(path).getroot().findall('object/name')
        ]
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise UserError(
            f'{path}: not a readable annotation ({error}); unpack Annotations again'
        ) from None
    found = {(name or '').strip() for name in names}
    if unknown := sorted(found - set(classes.foreground)):
        raise UserError(
            f'{path}: unknown class {unknown[0]!r}; expected one of {", ".join(classes.foreground)}'
        )
    return {classes.names.index(name) for name in found}


def image_label(root: str, name: str, classes: ClassSet) -> tuple[str, np.ndarray, str]:
    """(name, multi-hot float32 [K], folder it comes from) of one picture: its annotation, else its
    mask.

    Raises:
        UserError: the picture has neither, or it is damaged.
    """
    source, path = 'Annotations', os.path.join(root, 'Annotations', f'{name}.xml')
    if os.path.exists(path):
        found = annotated_classes(path, classes)
    else:
        for source in MASKS:
            path = os.path.join(root, source, f'{name}.png')
            if os.path.exists(path):
                break
        else:
            raise UserError(
                f'{path}: no such mask, and no Annotations/{name}.xml either; '
                f'one of them must give the label of {name}'
            )
        found = set(np.unique(read_mask(path, classes)).tolist()) - {0, IGNORE}
    label = np.zeros(classes.num_foreground, np.float32)
    label[[class_id - 1 for class_id in found]] = 1
    return name, label, source


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
    command_line.add_jobs_flag(parser, 'reading annotations and masks')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    root = need_folder(args.voc12_root, 'give the VOC2012 folder of the devkit as --voc12_root')
    lists, skipped = find_lists(root)
    labelled = sorted({name for split, names in lists.items() if split != 'test' for name in names})
    if not labelled:
        raise UserError(
            f'{root}: no list can be made; '
            + '; '.join(f'{name}: {why}' for name, why in skipped.items())
        )
    classes = class_set(root)
    found = pool_map(partial(image_label, root, classes=classes), labelled, args.jobs)
    found = list(progress(found, total=len(labelled), desc='labels'))
    for name, names in lists.items():
        write_text(os.path.join(args.out_dir, f'{name}.txt'), '\n'.join(names) + '\n')
    labels = {name: label for name, label, _ in sorted(found, key=lambda row: row[0])}
    write_npy(os.path.join(args.out_dir, 'cls_labels.npy'), labels)
    for name, expected in EXPECTED.items():
        if name in lists:
            whole = f' (the whole VOC 2012 has {expected})' if classes == VOC else ''
            print(f'{name:10} {len(lists[name]):6} images{whole}')
        else:
            print(f'{name:10} skipped: {skipped[name]}')
    sources = Counter(source for _, _, source in found)
    print(
        f'{"labels":10} {len(found):6} images ('
        + ', '.join(f'{n} from {name}' for name, n in sources.items())
        + ')'
    )
    if empty := [name for name, label, _ in found if not label.any()]:
        print(f'{"":10} {len(empty):6} of them have no class at all, e.g. {min(empty)}')
    print(f'written to {args.out_dir}')


if __name__ == '__main__':
    command_line.run(main, parse_args)
