"""Generated pictures, a narrow ResNet-38, no ImageNet weights: minutes on two cores.

    python -m tool.pipeline --preset quickstart
    python -m tool.pipeline --preset quickstart --voc12_root data

With --voc12_root it takes the pictures of that folder in place of generated ones. What is not
changed here is as in the preset seam.
"""

from tool.presets import seam
from tool.presets.stages import BEST_THRESHOLD, IRN, Preset, RunSettings, Stage, Stages

NEXT_STEPS = (
    'your own pictures: python -m voc12.from_folder --images photos --labels labels.csv --out data',
    '                   python -m tool.pipeline --preset own --voc12_root data (docs/data.md)',
    'the paper:         python -m tool.reproduce seam --voc12_root VOC2012 (docs/options.md)',
)


def preset(run: RunSettings) -> Preset:
    if run.voc is not None:
        stages = small_training(run)
        about = f'the pictures of {run.voc}, ResNet-38 at width 1/8 from scratch'
        return Preset(about, stages, run.core or ())
    run = run.defaults(voc=f'{run.work}/voc', makes_lists=True)
    run = run.defaults(lists=f'{run.voc}/lists')
    stages = small_training(run)
    stages.replace(
        Stage(
            'data',
            script='voc12.synth',
            flags=dict(
                out=run.voc,
                images=500,
                val=100,
                seed=1,  # of the pictures: the same for every --seed of the pipeline
            ),
            makes=['voc'],
        )
    )
    about = '500 + 100 generated pictures, ResNet-38 at width 1/8 from scratch'
    return Preset(about, stages, run.core or (), NEXT_STEPS)


def small_training(run: RunSettings) -> Stages:
    """The stages of the preset seam for small networks and few steps; a warm-up comes first."""
    work = run.work
    stages = seam.preset(run).stages

    # Without ImageNet weights the backbone first learns to classify, BatchNorm included. The stage
    # has all flags of 'train' that are set further below, and these on top.
    warmup = Stage(
        'warmup',
        like='train',
        flags=dict(
            weights='scratch',
            width=0.125,
            no_contrast=True,
            no_seam=True,
            lr='1e-3',
            lr_new_factor=1,
            warmup_steps=30,
            max_steps=480,
            session_name=f'{work}/warmup',
        ),
        processes=2,
        makes=['warmup.*'],
    )
    stages.insert_before('train', warmup)

    # Then BatchNorm is frozen and all losses count, as in the published recipe from ImageNet
    # weights on.
    stages.set_flags(
        'train',
        weights=f'{work}/warmup.pth',
        crop_size=128,
        view2_size=64,
        batch_size=16,
        optimizer='adamw',
        lr='5e-4',
        lr_new_factor=4,
        # In so few steps it helps to have no dropout, and prototypes that are made only of pictures
        # that hold the class. After the warm-up 71 % of their pixels are of their class; of the
        # pixels of the published prototypes 22 % are.
        dropout=0,
        prototypes='label_aware',
        contrast_weight=0.3,
        max_steps=220,
        save_every=100,
        channels_last=True,
        tblog_dir='',  # no TensorBoard
    )
    stages.set_fields('train', processes=2, makes=['train.*'])

    stages.set_flags('infer', scales=[0.75, 1], channels_last=True)
    stages.set_fields('infer', processes=2)

    stages.set_flags(
        'aff_train',
        weights=f'{work}/train.pth',
        crop_size=128,
        batch_size=16,
        optimizer='adamw',
        lr='5e-4',
        lr_new_factor=4,
        max_steps=75,
        save_every=100,
        channels_last=True,
    )
    stages.set_fields('aff_train', processes=2)
    if run.refiner == IRN:
        # bg_score stays the published one: the seeds' best score is no score of IRN's walk
        # (docs/options.md)
        stages.set_flags('walk', logt=6)  # 64 steps of the walk: maps are 44 × 44 cells
    else:
        stages.set_flags('aff_prepare', dtype='float16')
        stages.set_flags(
            'walk',
            logt=4,  # 16 steps of the walk: maps are 22 × 22 cells
            bg_score=BEST_THRESHOLD,
        )

    stages.set_config(
        'deeplab_train',
        DATA_RANDOMCROP=128,
        DATA_WORKERS=2,
        TRAIN_BATCHES=8,
        TRAIN_ITERATION=200,
        TRAIN_LR=0.004,
        TRAIN_BN_MOM=0.1,
        MODEL_CLS_STD=0.01,
        TRAIN_CHANNELS_LAST=True,
        TRAIN_SAVE_ITERS=100,
        TRAIN_TBLOG=False,
    )
    stages.set_config('deeplab_test', TEST_MULTISCALE=[0.75, 1], TEST_CRF='seam')
    stages.set_fields('deeplab_test', processes=2)
    return stages


def use_published_contrast(stages: Stages) -> None:
    """Take this project's additions to the contrast out of the training of a small preset."""
    stages.set_flags(
        'train',
        prototypes=None,
        bg_threshold=None,
        bg_certain=None,
        min_class_share=None,
        contrast_weight=None,
    )


def start_from(stages: Stages, warmup: str) -> None:
    """Start the training of a small preset from the checkpoint of a warm-up that is done."""
    stages.drop('warmup')
    stages.set_flags('train', weights=warmup)
