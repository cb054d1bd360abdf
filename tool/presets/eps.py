"""The paper's settings with the EPS baseline, which also learns from saliency maps.

    python -m voc12.make_saliency --model wheel --voc12_root VOC2012 --out_dir SALImages \
        --list voc12/train_aug.txt
    python -m tool.pipeline --preset eps --voc12_root VOC2012 \
        --set preset.saliency=SALImages preset.resnet101=resnet101.pth \
        preset.imagenet=ilsvrc-cls_rna-a1_cls1000_ep-0001.params

The first command makes saliency maps of the pictures with U²-Net-p; the published ones and others
can be downloaded (docs/data.md). What is not changed here is as in the preset seam.
"""

from tool.presets import seam
from tool.presets.folders import with_folders
from tool.presets.stages import BY_MASKS, PSA, Preset, RunSettings, Stage, Stages
from tool.run.errors import UserError

EXPERIMENT = 'segmentation/experiment/EPS_deeplabv2_resnet101'


def preset(
    run: RunSettings,
    imagenet: str = 'ilsvrc-cls_rna-a1_cls1000_ep-0001.params',  # ImageNet weights of ResNet-38
    saliency: str = 'SALImages',  # folder of the saliency maps
    resnet101: str = 'resnet101.pth',  # ImageNet weights, torchvision's or a deep-stem one
) -> Preset:
    run = with_folders(run.defaults(experiment=EXPERIMENT))
    stages = seam.preset(run, imagenet).stages
    change_to_eps(stages, run, saliency)
    stages.set_config('deeplab_train', MODEL_BACKBONE_PRETRAIN=resnet101)
    return Preset("the paper's settings, EPS baseline", stages, run.core or ())


def change_to_eps(stages: Stages, run: RunSettings, saliency: str) -> None:
    """Change the stages of a preset with the SEAM baseline to those with the EPS baseline.

    Args:
        stages: the stages of the preset seam, or of one that builds on it.
        run: the settings of the run with its folders.
        saliency: folder of the saliency maps.
    """
    work = run.work
    if run.refiner != PSA:
        raise UserError(
            f'preset.refiner={run.refiner}: the pseudo masks of EPS are its maps after the CRF, '
            'without a refiner; leave it out'
        )
    stages.set_flags('train', baseline='eps', saliency_root=saliency)
    # These are SEAM's alone: EPS compares its maps at feature size and its seeds need no PCM.
    stages.set_flags('train', loss_size=None)
    stages.set_flags('infer', fill_empty=None)

    # For EPS the maps after the CRF are the pseudo masks: there is no AffinityNet.
    stages.drop('aff_train', 'walk', 'score_walk', 'score_walk_crf')
    stages.drop('agree_walk', 'agree_walk_crf')
    stages.set_flags('aff_prepare', unary='probs', alpha=8, crf_iters=5)
    masks = Stage(
        'masks',
        script='tool.make_pseudo_masks',
        flags=dict(
            crf_dir=f'{work}/aff_crf/8.00',
            voc12_root=run.voc,
            list=run.mask_list,
            out_dir=f'{work}/masks',
        ),
        makes=['masks'],
    )
    score_masks = Stage(
        'score_masks',
        like='score_crf',
        flags=dict(predict_dir=f'{work}/masks', json=f'{work}/scores/masks.json'),
        row='pseudo masks (CRF of scores)',
        masks=f'{work}/masks',
        makes=['scores/masks.json'],
        decides=run.choose == BY_MASKS,
        enabled=bool(run.has_truth),
    )
    agree_masks = seam.agreement_stage('agree_masks', score_masks, run)
    stages.insert_after('aff_prepare', masks, score_masks, agree_masks)

    columns = [
        f'seed={work}/seed',
        f'pseudo mask={work}/masks',
        f'DeepLab={work}/deeplab_train',
    ]
    if run.has_truth:
        columns.append(f'ground truth={run.gt}')
    stages.set_flags('sheet', column=columns)
