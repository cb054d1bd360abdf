"""The stages in which the network of a refiner learns from seeds: aff_prepare and aff_train.

A refiner turns seeds into pseudo masks by a random walk: AffinityNet (psa), or the class boundaries
of IRN (irn). Its checkpoint tells the stage walk which one it is.
"""

import os
from typing import Any

from tool.presets.stages import IRN, PSA, RunSettings, Stage


def learning_stages(run: RunSettings, imagenet: str) -> list[Stage]:
    """The stages aff_prepare and aff_train of the run's refiner.

    Args:
        run: the settings of the run with its folders.
        imagenet: ImageNet weights of ResNet-38, for AffinityNet.
    """
    return {PSA: affinity_stages, IRN: boundary_stages}[run.refiner](run, imagenet)


def affinity_stages(run: RunSettings, imagenet: str) -> list[Stage]:
    """The stages of AffinityNet over ResNet-38, as published."""
    maps = f'{run.work}/aff_crf'
    return [
        prepare_stage(run, maps, alpha=[4, 24]),
        train_stage(
            run,
            network=dict(weights=imagenet),
            labels=dict(la_crf_dir=f'{maps}/4.00', ha_crf_dir=f'{maps}/24.00'),
        ),
    ]


def boundary_stages(run: RunSettings, imagenet: str) -> list[Stage]:
    """The stages of IRN's boundary head over timm's ResNet-50, whose weights timm downloads."""
    labels = f'{run.work}/irn_label'
    return [
        prepare_stage(run, labels, irn=True),
        train_stage(
            run,
            network=dict(refiner=IRN, weights='imagenet'),
            labels=dict(label_dir=labels),
        ),
    ]


def prepare_stage(run: RunSettings, out_dir: str, **flags: Any) -> Stage:
    """The stage aff_prepare, which writes `out_dir`, with further flags."""
    return Stage(
        'aff_prepare',
        script='aff_prepare.py',
        flags=dict(
            infer_list=run.mask_list,
            voc12_root=run.voc,
            cam_dir=f'{run.work}/cam',
            out_crf=out_dir,
            **flags,
        ),
        makes=[os.path.basename(out_dir)],
    )


def train_stage(run: RunSettings, network: dict, labels: dict) -> Stage:
    """The stage aff_train, with the flags of its network and of what that learns from."""
    return Stage(
        'aff_train',
        script='aff_train.py',
        flags=dict(
            **network,
            train_list=run.mask_list,
            voc12_root=run.voc,
            **labels,
            session_name=f'{run.work}/aff',
            seed=run.seed,
            device=run.device,
        ),
        makes=['aff.*'],
    )
