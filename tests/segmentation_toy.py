"""Puts segmentation/lib on the path, and makes a toy devkit of two classes (background and
aeroplane) to train on."""

import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / 'segmentation' / 'experiment'
sys.path.insert(0, str(ROOT / 'segmentation' / 'lib'))


def config_of(experiment: str, **changes) -> dict:
    """The config of an experiment with all defaults and some keys changed."""
    from utils.keys import with_defaults

    return with_defaults({**config_dict_of(experiment), **changes})


def config_dict_of(experiment: str) -> dict:
    """The `config_dict` of an experiment as it is written."""
    return runpy.run_path(str(EXPERIMENTS / experiment / 'config.py'))['config_dict']


def run_script(
    script: str, *arguments, experiment: str = 'EPS_deeplabv1_resnet101', launcher: tuple = ()
):
    """Run an experiment's train.py or test.py as a user would, from its own folder."""
    command = [sys.executable, *launcher, script, *map(str, arguments)]
    return subprocess.run(
        command, cwd=EXPERIMENTS / experiment, capture_output=True, text=True, timeout=600
    )


def make_devkit(root: Path, train: int, val: int, size: int = 64) -> Path:
    """A VOC2012 folder of noisy pictures: striped ellipses (class 1) on a plain ground of any
    colour (class 0)."""
    for folder in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(7)
    names = [f'2007_{i:06d}' for i in range(train + val)]
    for name in names:
        mask = np.zeros((size, size + 8), np.uint8)
        centre, axes = (
            rng.integers(size // 4, 3 * size // 4, 2).tolist(),
            rng.integers(size // 5, size // 3, 2).tolist(),
        )
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        ground, dark, light = (
            rng.integers(60, 200, 3),
            rng.integers(0, 60, 3),
            rng.integers(200, 256, 3),
        )
        stripes = np.where((np.indices(mask.shape).sum(0) // 3 % 2)[..., None] == 0, dark, light)
        picture = np.where(mask[..., None] == 1, stripes, ground) + rng.normal(
            0, 12, (*mask.shape, 3)
        )
        cv2.imwrite(str(root / 'JPEGImages' / f'{name}.jpg'), picture.clip(0, 255).astype(np.uint8))
        cv2.imwrite(str(root / 'SegmentationClass' / f'{name}.png'), mask)
    for split, part in (('train', names[:train]), ('val', names[train:]), ('test', names[train:])):
        (root / 'ImageSets' / 'Segmentation' / f'{split}.txt').write_text('\n'.join(part) + '\n')
    return root
