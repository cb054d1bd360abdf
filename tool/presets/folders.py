"""The folders and lists of a run, and what the data folder given with --voc12_root has of them."""

import os

from tool.files.lists import read_list
from tool.files.manifest import missing
from tool.presets.stages import BY_LABELS, BY_MASKS, PSA, REFINERS, ROOT, RunSettings
from tool.run.errors import UserError

# The folder of the lists in a data folder that voc12.from_folder or voc12.from_coco has made, and
# the files that a training needs of it.
LISTS = 'lists'
TRAIN_LIST = 'train_aug.txt'
LABELS = 'cls_labels.npy'


def has_lists(folder: str) -> bool:
    """Whether a folder holds an image list to train on and image-level labels."""
    files = [os.path.join(folder, file) for file in (TRAIN_LIST, LABELS)]
    return all(map(os.path.exists, files))


def with_lists(run: RunSettings) -> RunSettings:
    """The settings of a run with its data folder and the folder of its lists.

    Lists and labels are those in `lists`, or those of the data folder. Where they do not exist, the
    run makes them with voc12.make_lists.
    """
    run = run.defaults(voc=os.path.join(ROOT, 'VOC2012'))
    own_lists = f'{run.voc}/{LISTS}'
    made_lists = f'{run.work}/{LISTS}'
    run = run.defaults(lists=own_lists if has_lists(own_lists) else made_lists)
    assert run.lists is not None
    is_made = run.lists == made_lists or not has_lists(run.lists)
    return run.defaults(makes_lists=is_made)


def with_folders(run: RunSettings) -> RunSettings:
    """The settings of a run with all folders and lists, where it does not name its own.

    Without the list `score_list` or without the masks of its pictures nothing is scored against
    ground truth, and the choices are made by image labels. Without a list of val, DeepLab is tested
    on the pictures of `score_list`, or else on all that got masks.

    Raises:
        UserError: the choices are to be made by ground-truth masks, and there are not enough; or
            there is no such refiner.
    """
    run = with_lists(run)
    run = run.defaults(
        refiner=PSA,
        experiment='segmentation/experiment/SEAM_deeplabv1_resnet38',
        mask_list=f'{run.lists}/{TRAIN_LIST}',
        score_list=f'{run.lists}/train.txt',
        gt=f'{run.voc}/SegmentationClass',
    )
    if run.refiner not in REFINERS:
        raise UserError(f'preset.refiner={run.refiner}: give one of {", ".join(REFINERS)}')
    run = run.defaults(val_list=tested_list(run))
    lack = '' if run.makes_lists else lacking_truth(run)
    run = run.defaults(has_truth=not lack)
    run = run.defaults(choose=BY_MASKS if run.has_truth else BY_LABELS)
    if run.choose == BY_MASKS and not run.has_truth:
        raise UserError(f'--choose {BY_MASKS}: {lack}; use --choose {BY_LABELS}')
    return run


def tested_list(run: RunSettings) -> str:
    """The list of the pictures that DeepLab is tested on, where the run does not name one."""
    assert run.score_list is not None and run.mask_list is not None
    val_list = f'{run.lists}/val.txt'
    cannot_look = run.makes_lists or not os.path.isdir(run.voc or '')
    if cannot_look or os.path.exists(val_list):
        return val_list
    return run.score_list if os.path.exists(run.score_list) else run.mask_list


def lacking_truth(run: RunSettings) -> str:
    """The ground truth that a run lacks to be scored, in words for a message; '' if it has all.

    A data folder that does not exist counts as one that has all: the stages will refuse it.

    Args:
        run: its lists exist before the run.
    """
    assert run.score_list is not None and run.val_list is not None and run.gt is not None
    if not os.path.isdir(run.voc or ''):
        return ''
    for path in (run.score_list, run.val_list):
        if not os.path.exists(path):
            return f'there is no list {path} of pictures to score'
        names = read_list(path)
        without = missing(names, [(run.gt, '.png')])
        if without:
            return (
                f'{len(without)} of the {len(names)} pictures of {path} have no ground truth, '
                f'e.g. {run.gt}/{without[0]}.png'
            )
    return ''
