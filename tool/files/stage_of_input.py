"""Which stage the files of an input folder come from, by the manifest of the folder.

CAMs, the maps of aff_prepare.py and the probabilities of aff_infer.py are all files of per-class
maps. Class 0 of CAMs is the first foreground class, class 0 of the other two is the background, so
files of another stage would be read without an error and give wrong results.
"""

from dataclasses import dataclass

from tool.files.manifest import read_manifest
from tool.run.errors import UserError
from tool.run.shard import is_first


@dataclass(frozen=True)
class Kind:
    """A kind of input folder."""

    # what its files are, for messages
    what: str
    # the stages whose output it may be, as manifests name them
    stages: tuple[str, ...]


CAMS = Kind('CAMs (contrast_infer.py --out_cam)', ('contrast_infer',))
AFFINITY_MAPS = Kind('maps of one α (aff_prepare.py --out_crf)', ('aff_prepare',))
BOUNDARY_LABELS = Kind('label maps (aff_prepare.py --irn)', ('aff_prepare --irn',))
PROBABILITIES = Kind(
    'maps of background and classes (aff_prepare.py --out_crf, aff_infer.py --out_rw_prob)',
    ('aff_prepare', 'aff_infer'),
)
# The stages that make masks; the data of voc12.synth are no predictions.
PREDICTING = (
    'contrast_infer',
    'seed_masks',
    'aff_infer',
    'make_pseudo_masks',
    'segmentation test',
    'predict',
)
MASKS = Kind('masks', (*PREDICTING, 'synth'))


def need_stage(folder: str, kind: Kind, flag: str) -> dict:
    """Check by its manifest that a folder is of the wanted kind.

    A folder without a manifest, made by another tool or by hand, is taken as it is; the first
    process prints one line that says so.

    Args:
        folder: the folder.
        kind: what it has to hold.
        flag: the flag or config key that names the folder, for messages.
    Returns:
        The settings in the manifest; {} where there is none.
    Raises:
        UserError: the files were made by a stage that makes something else.
    """
    settings = read_manifest(folder) or {}
    stage = settings.get('stage')
    if stage is None:
        if is_first():
            print(f'no manifest in {folder}: taken for {kind.what}', flush=True)
    elif stage not in kind.stages:
        raise UserError(
            f'{flag} {folder}: holds the output of {describe(settings)}; {kind.what} are needed, '
            f'so check {flag}'
        )
    return settings


def describe(settings: dict) -> str:
    """The stage of a manifest in words, e.g. 'aff_prepare (α = 4)'."""
    alpha = settings.get('alpha')
    if settings.get('stage') == 'aff_prepare' and alpha is not None:
        return f'aff_prepare (α = {alpha})'
    return str(settings.get('stage'))
