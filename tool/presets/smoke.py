"""Every stage in as few steps as it takes to run: for the tests, the scores mean nothing.

    python -m tool.pipeline --preset smoke

What is not changed here is as in the preset quickstart.
"""

from tool.presets import quickstart
from tool.presets.stages import Preset, RunSettings


def preset(run: RunSettings) -> Preset:
    base = quickstart.preset(run)
    stages = base.stages

    if run.voc is None:
        stages.set_flags('data', images=24, val=6)
    stages.set_flags(
        'warmup',
        width=0.0625,
        crop_size=96,
        batch_size=8,
        max_steps=12,
        warmup_steps=2,
    )
    # Processes that load pictures take longer to start than these few pictures take to load.
    stages.set_flags('train', view2_size=48, max_steps=4, num_workers=0)
    stages.set_flags('infer', scales=1, num_workers=0, jobs=0)
    stages.set_flags('aff_train', crop_size=96, batch_size=8, max_steps=4, num_workers=0)
    stages.set_flags('walk', num_workers=0, jobs=0)
    stages.set_config(
        'deeplab_train',
        DATA_RANDOMCROP=96,
        TRAIN_BATCHES=8,
        TRAIN_ITERATION=6,
        TRAIN_SAVE_ITERS=3,
        DATA_WORKERS=0,
    )
    stages.set_config('deeplab_test', TEST_MULTISCALE=1)

    for name in ('warmup', 'train', 'infer', 'aff_train', 'deeplab_test'):
        stages.set_fields(name, processes=1)

    pictures = '24 + 6 generated pictures' if run.voc is None else f'the pictures of {run.voc}'
    about = f'{pictures}, width 1/16, a few steps: does everything run?'
    return Preset(about, stages, base.core)
