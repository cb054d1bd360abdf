"""The paper's settings with the SEAM baseline: full VOC 2012, on GPUs.

    python -m tool.pipeline --preset seam --voc12_root VOC2012 \
        --set preset.imagenet=ilsvrc-cls_rna-a1_cls1000_ep-0001.params

A flag that is not given here has the published value, which is the default of its script.
"""

from tool.presets.folders import with_folders
from tool.presets.refiners import learning_stages
from tool.presets.stages import (
    BEST_MASKS,
    BEST_THRESHOLD,
    BY_LABELS,
    BY_MASKS,
    Preset,
    RunSettings,
    Stage,
    Stages,
)


def preset(
    run: RunSettings,
    imagenet: str = 'ilsvrc-cls_rna-a1_cls1000_ep-0001.params',  # ImageNet weights of ResNet-38
) -> Preset:
    run = with_folders(run)
    work = run.work
    # Without ground truth there is nothing to score against it.
    has_truth = bool(run.has_truth)
    # Where image labels choose, tool.cam_threshold and tool.agreement decide in place of eval.py.
    by_masks = run.choose == BY_MASKS

    lists_and_labels = Stage(
        'data',
        script='voc12.make_lists',
        flags=dict(voc12_root=run.voc, out_dir=run.lists),
        makes=['lists'],
        enabled=bool(run.makes_lists),
    )

    train = Stage(
        'train',
        script='contrast_train.py',
        flags=dict(
            weights=imagenet,
            baseline='seam',
            voc12_root=run.voc,
            train_list=f'{run.lists}/train_aug.txt',
            cls_labels=f'{run.lists}/cls_labels.npy',
            session_name=f'{work}/train',
            tblog_dir=f'{work}/tensorboard',
            seed=run.seed,
            device=run.device,
        ),
        makes=['train.*', 'tensorboard'],
    )

    infer = Stage(
        'infer',
        script='contrast_infer.py',
        flags=dict(
            weights=f'{work}/train.pth',
            infer_list=run.mask_list,
            voc12_root=run.voc,
            cls_labels=f'{run.lists}/cls_labels.npy',
            out_cam=f'{work}/cam',
            device=run.device,
        ),
        makes=['cam'],
    )

    score_seeds = Stage(
        'score_seeds',
        script='eval.py',
        flags=dict(
            list=run.score_list,  # train: 1,464 pictures
            gt_dir=run.gt,
            predict_dir=f'{work}/cam',
            type='npy',
            curve=True,
            json=f'{work}/scores/seeds.json',
            plot=f'{work}/scores/curve.png',
        ),
        row='seeds, best threshold',
        masks=f'{work}/seed',
        makes=['scores/seeds.json'],
        decides=by_masks,
        enabled=has_truth,
    )

    threshold = Stage(
        'threshold',
        script='tool.cam_threshold',
        flags=dict(
            list=run.mask_list,
            voc12_root=run.voc,
            cam_dir=f'{work}/cam',
            json=f'{work}/scores/threshold.json',
        ),
        row=score_seeds.row,
        makes=['scores/threshold.json'],
        enabled=run.choose == BY_LABELS,
    )

    seed_masks = Stage(
        'seed_masks',
        script='tool.seed_masks',
        flags=dict(
            cam_dir=f'{work}/cam',
            list=run.mask_list,
            voc12_root=run.voc,
            t=BEST_THRESHOLD,
            out_png=f'{work}/seed',
            out_crf=f'{work}/seed_crf',
        ),
        makes=['seed', 'seed_crf'],
    )

    agree_seeds = agreement_stage('agree_seeds', score_seeds, run)

    score_crf = Stage(
        'score_crf',
        script='eval.py',
        flags=dict(
            list=run.score_list,
            gt_dir=run.gt,
            predict_dir=f'{work}/seed_crf',
            json=f'{work}/scores/seed_crf.json',
        ),
        row='seeds + CRF',
        masks=f'{work}/seed_crf',
        makes=['scores/seed_crf.json'],
        decides=by_masks,
        enabled=has_truth,
    )

    agree_crf = agreement_stage('agree_crf', score_crf, run)

    # AffinityNet or IRN's boundary head learns from the seeds.
    refiner_prepare, refiner_train = learning_stages(run, imagenet)

    walk = Stage(
        'walk',
        script='aff_infer.py',
        flags=dict(
            weights=f'{work}/aff.pth',
            infer_list=run.mask_list,
            voc12_root=run.voc,
            cam_dir=f'{work}/cam',
            out_rw=f'{work}/walk',
            out_rw_crf=f'{work}/walk_crf',
            device=run.device,
        ),
        makes=['walk', 'walk_crf'],
    )

    score_walk = Stage(
        'score_walk',
        like='score_crf',
        flags=dict(predict_dir=f'{work}/walk', json=f'{work}/scores/walk.json'),
        row='seeds + random walk',
        masks=f'{work}/walk',
        makes=['scores/walk.json'],
        decides=by_masks,
        enabled=has_truth,
    )

    agree_walk = agreement_stage('agree_walk', score_walk, run)

    score_walk_crf = Stage(
        'score_walk_crf',
        like='score_crf',
        flags=dict(predict_dir=f'{work}/walk_crf', json=f'{work}/scores/walk_crf.json'),
        row='seeds + random walk + CRF',
        masks=f'{work}/walk_crf',
        makes=['scores/walk_crf.json'],
        decides=by_masks,
        enabled=has_truth,
    )

    agree_walk_crf = agreement_stage('agree_walk_crf', score_walk_crf, run)

    # DeepLab learns from the best of the four kinds of masks above, and sees no image labels.
    deeplab_train = Stage(
        'deeplab_train',
        script=f'{run.experiment}/train.py',
        flags=dict(device=run.device),
        config=dict(
            EXP_NAME='deeplab',
            DATA_ROOT=run.voc,
            DATA_TRAIN_LIST=run.mask_list,
            DATA_PSEUDO_GT=BEST_MASKS,
            MODEL_BACKBONE_PRETRAIN=f'{work}/train.pth',
            MODEL_SAVE_DIR=f'{work}/deeplab',
            TRAIN_SEED=run.seed,
        ),
        makes=['deeplab'],
    )

    deeplab_test = Stage(
        'deeplab_test',
        like='deeplab_train',
        script=f'{run.experiment}/test.py',
        flags=dict(
            device=run.device,
            list=run.val_list,
            out_dir=f'{work}/deeplab_val_crf',
            out_no_crf=f'{work}/deeplab_val',
            split=None if has_truth else 'test',  # the test split needs no ground truth
        ),
        config=dict(DATA_PSEUDO_GT='', TEST_CRF='deeplab'),
        makes=['deeplab_val', 'deeplab_val_crf'],
    )

    score_deeplab = Stage(
        'score_deeplab',
        like='score_crf',
        flags=dict(
            list=run.val_list,
            predict_dir=f'{work}/deeplab_val',
            json=f'{work}/scores/deeplab.json',
        ),
        row='DeepLab, without CRF',
        makes=['scores/deeplab.json'],
        enabled=has_truth,
    )

    score_deeplab_crf = Stage(
        'score_deeplab_crf',
        like='score_deeplab',
        flags=dict(predict_dir=f'{work}/deeplab_val_crf', json=f'{work}/scores/deeplab_crf.json'),
        row='DeepLab + CRF',
        makes=['scores/deeplab_crf.json'],
        enabled=has_truth,
    )

    # The contact sheet shows eight pictures, for which DeepLab predicts masks too.
    sheet_list = Stage(
        'sheet_list',
        script='tool.contact_sheet',
        flags=dict(
            list=run.score_list if has_truth else run.mask_list,
            rows=8,
            out_list=f'{work}/sheet.txt',
        ),
        makes=['sheet.txt'],
    )

    deeplab_sheet = Stage(
        'deeplab_sheet',
        like='deeplab_test',
        flags=dict(
            split='train' if has_truth else 'test',
            list=f'{work}/sheet.txt',
            out_dir=f'{work}/deeplab_train',
            out_no_crf=None,
        ),
        config=dict(TEST_CRF='none'),
        makes=['deeplab_train'],
    )

    columns = [
        f'seed={work}/seed',
        f'random walk={work}/walk',
        f'DeepLab={work}/deeplab_train',
    ]
    note = 'Pictures of the training list. DeepLab has learned from masks of these.'
    if has_truth:
        columns.append(f'ground truth={run.gt}')
        note = (
            'Pictures of the training list. DeepLab has learned from masks of these, not from the '
            'ground truth.'
        )
    sheet = Stage(
        'sheet',
        script='tool.contact_sheet',
        flags=dict(
            list=f'{work}/sheet.txt',
            voc12_root=run.voc,
            cam_dir=f'{work}/cam',
            column=columns,
            note=note,
            out=f'{work}/contact_sheet.png',
        ),
        makes=['contact_sheet.png'],
    )

    stages = Stages(
        [
            lists_and_labels,
            train,
            infer,
            score_seeds,
            threshold,
            seed_masks,
            agree_seeds,
            score_crf,
            agree_crf,
            refiner_prepare,
            refiner_train,
            walk,
            score_walk,
            agree_walk,
            score_walk_crf,
            agree_walk_crf,
            deeplab_train,
            deeplab_test,
            score_deeplab,
            score_deeplab_crf,
            sheet_list,
            deeplab_sheet,
            sheet,
        ]
    )
    return Preset("the paper's settings, SEAM baseline", stages, run.core or ())


def agreement_stage(name: str, score: Stage, run: RunSettings) -> Stage:
    """The stage that scores, without ground truth, the masks that the stage `score` scores.

    Args:
        name: name of the stage.
        score: a stage of eval.py.
        run: the settings of the run. The stage is enabled if image labels choose.
    """
    return Stage(
        name,
        script='tool.agreement',
        flags=dict(
            list=run.mask_list,
            voc12_root=run.voc,
            predict_dir=score.masks,
            json=f'{run.work}/scores/{name}.json',
        ),
        row=score.row,
        masks=score.masks,
        makes=[f'scores/{name}.json'],
        enabled=run.choose == BY_LABELS,
    )
