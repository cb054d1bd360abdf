"""The stages in which the network of a refiner learns from seeds: aff_prepare and aff_train.

A refiner turns seeds into pseudo masks by a random walk: AffinityNet (psa), or the class boundaries
of IRN (irn). Its checkpoint tells the stage walk which one it is.
"""

from tool.presets.stages import IRN, PSA, RunSettings, Stage


def learning_stages(run: RunSettings, imagenet: str) -> list[Stage]:
    """The stages aff_prepare and aff_train of the run's refiner.

    Args:
        run: the settings of the run with its folders.
        imagenet: ImageNet weights of ResNet-38, for AffinityNet.
    """
    if run.refiner == PSA:
        return affinity_stages(run, imagenet)
    assert run.refiner == IRN  # no other is one of REFINERS
    return boundary_stages(run)


def affinity_stages(run: RunSettings, imagenet: str) -> list[Stage]:
    """The stages of AffinityNet over ResNet-38, as published."""
    prepare = Stage(
        'aff_prepare',
        script='aff_prepare.py',
        flags=dict(
            infer_list=run.mask_list,
            voc12_root=run.voc,
            cam_dir=f'{run.work}/cam',
            out_crf=f'{run.work}/aff_crf',
            alpha=[4, 24],
        ),
        makes=['aff_crf'],
    )

    train = Stage(
        'aff_train',
        script='aff_train.py',
        flags=dict(
            weights=imagenet,
            train_list=run.mask_list,
            voc12_root=run.voc,
            la_crf_dir=f'{run.work}/aff_crf/4.00',
            ha_crf_dir=f'{run.work}/aff_crf/24.00',
            session_name=f'{run.work}/aff',
            seed=run.seed,
            device=run.device,
        ),
        makes=['aff.*'],
    )
    return [prepare, train]


def boundary_stages(run: RunSettings) -> list[Stage]:
    """The stages of IRN's boundary head over timm's ResNet-50, whose weights timm downloads."""
    prepare = Stage(
        'aff_prepare',
        script='aff_prepare.py',
        flags=dict(
            irn=True,
            infer_list=run.mask_list,
            voc12_root=run.voc,
            cam_dir=f'{run.work}/cam',
            out_crf=f'{run.work}/irn_label',
        ),
        makes=['irn_label'],
    )

    train = Stage(
        'aff_train',
        script='aff_train.py',
        flags=dict(
            refiner=IRN,
            weights='imagenet',
            train_list=run.mask_list,
            voc12_root=run.voc,
            label_dir=f'{run.work}/irn_label',
            session_name=f'{run.work}/aff',
            seed=run.seed,
            device=run.device,
        ),
        makes=['aff.*'],
    )
    return [prepare, train]
