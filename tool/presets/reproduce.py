"""A run of tool.reproduce: SEAM or EPS with every stage that a table of the paper has a figure of.

    python -m tool.pipeline --preset reproduce --voc12_root VOC2012 --set preset.method=eps \
        preset.saliency=SALImages preset.resnet101=resnet101.pth \
        preset.imagenet=ilsvrc-cls_rna-a1_cls1000_ep-0001.params

At the scale paper it is the preset seam or eps with further stages: seeds of val, and for EPS
DeepLab v1 beside v2. At the scale laptop the networks and lengths are those of the preset laptop.
At the scale tiny they are so small that the run takes a minute or two and its scores mean nothing.
At every scale the contrast is the published one with the published constants.
"""

from tool.presets import eps, laptop, quickstart, seam, smoke
from tool.presets.folders import with_folders, with_lists
from tool.presets.stages import BEST_THRESHOLD, Preset, RunSettings, Stage, Stages
from tool.run.errors import UserError

SCALES = ('paper', 'laptop', 'tiny')
METHODS = ('seam', 'eps')
DEEPLAB_V1 = 'segmentation/experiment/EPS_deeplabv1_resnet101'


def preset(
    run: RunSettings,
    method: str = 'seam',  # seam or eps
    scale: str = 'paper',  # paper, laptop or tiny
    only_seeds: bool = False,  # end after the seeds, and make those of the scored pictures only
    warmup: str = '',  # the warm-up's checkpoint, from a run that has made it
    imagenet: str = 'ilsvrc-cls_rna-a1_cls1000_ep-0001.params',  # ImageNet weights of ResNet-38
    saliency: str = 'SALImages',  # EPS: folder of the saliency maps
    resnet101: str = 'resnet101.pth',  # EPS: ImageNet weights, torchvision's or a deep-stem one
) -> Preset:
    if method not in METHODS:
        raise UserError(f'preset.method={method}: give one of {", ".join(METHODS)}')
    if scale not in SCALES:
        raise UserError(f'preset.scale={scale}: give one of {", ".join(SCALES)}')
    run = with_every_folder(run, method, scale)

    if scale == 'paper':
        stages = seam.preset(run, imagenet).stages
    elif scale == 'laptop':
        stages = laptop.preset(run).stages
    else:
        stages = smoke.preset(run).stages
        shrink(stages)
    if method == 'eps':
        eps.change_to_eps(stages, run, saliency)
        if scale == 'paper':
            stages.set_config('deeplab_train', MODEL_BACKBONE_PRETRAIN=resnet101)
    if scale != 'paper':
        quickstart.use_published_contrast(stages)
        if method == 'eps' and 'MODEL_BACKBONE' not in stages['deeplab_train'].config:
            # DeepLab is over the network of stage 1, as it is for SEAM at this scale.
            stages.set_config('deeplab_train', MODEL_BACKBONE='resnet38')
        if warmup:
            quickstart.start_from(stages, warmup)

    if only_seeds:
        keep_seeds(stages, run)
    else:
        add_seeds_of_val(stages, run)
        if method == 'eps':
            add_deeplab_v1(stages, run)
    about = f'{method} at the scale {scale}, a run of tool.reproduce'
    return Preset(about, stages, run.core or ())


def with_every_folder(run: RunSettings, method: str, scale: str) -> RunSettings:
    """The settings of a run with all its folders."""
    if method == 'eps':
        run = run.defaults(experiment=eps.EXPERIMENT)
    if scale == 'laptop':
        run = with_lists(run)
        run = run.defaults(mask_list=f'{run.lists}/train.txt', core=laptop.core_classes(run))
    return with_folders(run)


def shrink(stages: Stages) -> None:
    """Make the preset smoke still smaller, but for its width: layers have 16 channels or more."""
    stages.set_flags('warmup', width=0.25, crop_size=64, max_steps=3, warmup_steps=0)
    stages.set_flags('train', crop_size=64, view2_size=64, batch_size=8, max_steps=2)
    stages.set_flags('infer', scales=0.5)
    stages.set_flags('aff_train', crop_size=64, max_steps=2)
    stages.set_config('deeplab_train', DATA_RANDOMCROP=64, TRAIN_ITERATION=2, TRAIN_SAVE_ITERS=2)
    stages.set_config('deeplab_test', TEST_MULTISCALE=0.5)


def keep_seeds(stages: Stages, run: RunSettings) -> None:
    """End after the seeds, and make them of no other pictures than those that are scored."""
    names = stages.names()
    stages.drop(*names[names.index('score_seeds') + 1 :])
    stages.set_flags('infer', infer_list=run.score_list)


def add_seeds_of_val(stages: Stages, run: RunSettings) -> None:
    """Add seeds of val, scored at the background score that was chosen on train."""
    infer_val = Stage(
        'infer_val',
        like='infer',
        flags=dict(infer_list=run.val_list, out_cam=f'{run.work}/cam_val'),
        makes=['cam_val'],
        enabled=bool(run.has_truth),
        processes=stages['infer'].processes,
    )
    score_seeds_val = Stage(
        'score_seeds_val',
        like='score_seeds',
        flags=dict(
            list=run.val_list,
            predict_dir=f'{run.work}/cam_val',
            curve=None,
            plot=None,
            t=BEST_THRESHOLD,
            json=f'{run.work}/scores/seeds_val.json',
        ),
        row='seeds of val',
        makes=['scores/seeds_val.json'],
        enabled=bool(run.has_truth),
        decides=False,
    )
    stages.insert_after('threshold', infer_val, score_seeds_val)


def add_deeplab_v1(stages: Stages, run: RunSettings) -> None:
    """Add DeepLab v1 after DeepLab v2, trained on the same masks."""
    work = run.work
    train = Stage(
        'deeplab_v1_train',
        like='deeplab_train',
        script=f'{DEEPLAB_V1}/train.py',
        flags=dict(device=run.device),
        config=dict(MODEL_SAVE_DIR=f'{work}/deeplab_v1'),
        makes=['deeplab_v1'],
        processes=stages['deeplab_train'].processes,
    )
    test = Stage(
        'deeplab_v1_test',
        like='deeplab_test',
        script=f'{DEEPLAB_V1}/test.py',
        flags=dict(
            device=run.device,
            list=run.val_list,
            out_dir=f'{work}/deeplab_v1_val_crf',
            out_no_crf=f'{work}/deeplab_v1_val',
            split=stages['deeplab_test'].flags['split'],
        ),
        config=dict(MODEL_SAVE_DIR=f'{work}/deeplab_v1'),
        makes=['deeplab_v1_val', 'deeplab_v1_val_crf'],
        processes=stages['deeplab_test'].processes,
    )
    score = Stage(
        'score_deeplab_v1',
        like='score_deeplab',
        flags=dict(predict_dir=f'{work}/deeplab_v1_val', json=f'{work}/scores/deeplab_v1.json'),
        row='DeepLab v1, without CRF',
        makes=['scores/deeplab_v1.json'],
        enabled=bool(run.has_truth),
    )
    score_crf = Stage(
        'score_deeplab_v1_crf',
        like='score_deeplab',
        flags=dict(
            predict_dir=f'{work}/deeplab_v1_val_crf', json=f'{work}/scores/deeplab_v1_crf.json'
        ),
        row='DeepLab v1 + CRF',
        makes=['scores/deeplab_v1_crf.json'],
        enabled=bool(run.has_truth),
    )
    stages.insert_after('score_deeplab_crf', train, test, score, score_crf)
