"""EPS's settings for MS COCO 2014 on this method. They are not published for this method.

    python -m tool.pipeline --preset coco --voc12_root coco \
        --set preset.saliency=SALImages preset.resnet101=resnet101.pth \
        preset.imagenet=ilsvrc-cls_rna-a1_cls1000_ep-0001.params

PPC on COCO was never published, so there is no figure to compare with. The data folder is one that
`python -m voc12.from_coco` makes, with its lists and labels in <voc12_root>/lists.

What is not changed here is as in the preset eps, which has the settings for VOC: the constants of
the contrast, the second view of 128 pixels, the scales of inference, the CRF, and all of DeepLab
(crop, learning rate, number of steps), for which EPS's settings for COCO name nothing.
"""

import os

from tool.presets import eps
from tool.presets.stages import ROOT, Preset, RunSettings

# Background score of the masks.
MASK_THRESHOLD = 0.2


def preset(
    run: RunSettings,
    imagenet: str = 'ilsvrc-cls_rna-a1_cls1000_ep-0001.params',  # ImageNet weights of ResNet-38
    saliency: str = 'SALImages',  # folder of the saliency maps
    resnet101: str = 'resnet101.pth',  # ImageNet weights, torchvision's or a deep-stem one
) -> Preset:
    run = run.defaults(voc=os.path.join(ROOT, 'coco'))
    # voc12.from_coco has made the lists and the labels.
    run = run.defaults(lists=f'{run.voc}/lists', makes_lists=False)
    stages = eps.preset(run, imagenet, saliency, resnet101).stages

    stages.set_flags(
        'train',
        batch_size=16,
        # 50 epochs of the 82,081 pictures with an annotation. The schedule spans them all, where
        # EPS's settings for VOC end after 20,000 steps.
        max_steps=256_500,
        lr=0.01,
        crop_size=321,
        long_side=[256, 448],
        tau=0.4,
    )

    # The published threshold stands here, where masks are made of CAMs at a background score. On
    # VOC the preset takes the score with the highest mIoU on ground truth instead. The pseudo masks
    # after the CRF (stage masks) have no threshold: their CRF takes the scores themselves.
    stages.set_flags('seed_masks', t=MASK_THRESHOLD)
    # The seeds are scored at the same threshold, because the best masks are chosen by the scores.
    stages.set_flags('score_seeds', curve=None, plot=None, t=MASK_THRESHOLD)
    stages.set_fields('score_seeds', row='seeds')
    stages.set_fields('agree_seeds', row='seeds')
    stages.drop('threshold')

    about = "EPS's settings for MS COCO 2014, not published for this method"
    return Preset(about, stages, run.core or ())
