"""eval.py takes no more memory and opens no more files for many pictures than for few.

The numbers of pictures and their size are small here. Those of docs/results.md were measured by

    PPC_LOAD=1000,12031 PPC_LOAD_SIZE=375x500 python -m pytest tests/stages/test_load.py -s
"""

import os
import sys

import numpy as np
import pytest

from mini import ROOT
from process_load import IS_MEASURED, load_of
from tool.files.lists import write_list
from tool.files.npy import write_npy
from tool.files.pictures import write_mask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not IS_MEASURED, reason='/proc says what processes take'),
]
FEW, MANY = map(int, os.environ.get('PPC_LOAD', '200,1000').split(','))
HEIGHT, WIDTH = map(int, os.environ.get('PPC_LOAD_SIZE', '150x200').split('x'))
# Files with contents of their own; the others are links to them.
CONTENTS = 16
# MB that more pictures may take in one process: their names, and what allocators leave. A worker
# that keeps its masks, 30 kB each, would take 12 MB more; CAMs and histograms are far larger.
MORE_MEMORY = 8
# Open files that may differ because the processes are looked at at other moments. A file that is
# left open would be one for each picture.
MORE_OPEN_FILES = 20
KINDS = {
    'masks': ('masks', '--type', 'png'),
    'cams': ('cams', '--type', 'npy', '--t', '0.3'),
    'curve': ('cams', '--type', 'npy', '--curve'),
}


def areas(rng):
    """A mask of 20 classes and the background with areas as in VOC, uint8 [H, W]."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for _ in range(3):
        top, left = rng.integers(0, HEIGHT // 2), rng.integers(0, WIDTH // 2)
        height, width = rng.integers(9, HEIGHT // 2), rng.integers(9, WIDTH // 2)
        mask[top : top + height, left : left + width] = rng.integers(1, 21)
    return mask


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Ground truth, masks and CAMs of MANY pictures, and a list of FEW and one of all."""
    root = tmp_path_factory.mktemp('load')
    names = [f'2007_{index:06d}' for index in range(MANY)]
    rng = np.random.default_rng(0)
    for name in names[:CONTENTS]:
        truth = areas(rng)
        write_mask(str(root / 'truth' / f'{name}.png'), truth)
        write_mask(str(root / 'masks' / f'{name}.png'), np.where(truth > 10, 0, truth))
        shown = [class_id for class_id in np.unique(truth) if class_id]
        scores = {
            int(class_id) - 1: (truth == class_id) * rng.random(truth.shape, np.float32)
            for class_id in shown
        }
        write_npy(str(root / 'cams' / f'{name}.npy'), scores)
    for index, name in enumerate(names[CONTENTS:]):
        content = names[index % CONTENTS]
        for kind, ending in (('truth', 'png'), ('masks', 'png'), ('cams', 'npy')):
            os.link(root / kind / f'{content}.{ending}', root / kind / f'{name}.{ending}')
    for count in (FEW, MANY):
        write_list(str(root / f'{count}.txt'), names[:count])
    return root


@pytest.mark.parametrize('kind', KINDS)
def test_memory_and_open_files_do_not_grow_with_the_number_of_pictures(folder, kind):
    predictions, *flags = KINDS[kind]
    command = [sys.executable, 'eval.py', '--gt_dir', str(folder / 'truth'), '--jobs', '2']
    command += ['--predict_dir', str(folder / predictions), *flags]
    loads = {}
    for count in (FEW, MANY):
        load = load_of([*command, '--list', str(folder / f'{count}.txt')], ROOT)
        assert f'{count} images' in load.output
        print(
            f'{kind}, {count} pictures: {load.memory:.1f} MB in one process, '
            f'{load.total_memory:.0f} MB in {load.processes}, {load.open_files} open files, '
            f'{load.seconds:.1f} s'
        )
        loads[count] = load
    assert loads[MANY].memory < loads[FEW].memory + MORE_MEMORY
    assert loads[MANY].open_files <= loads[FEW].open_files + MORE_OPEN_FILES
