"""tool.cam_threshold: the background score of all CAMs of a list."""

import json

import numpy as np
import pytest

from tool.files.npy import write_npy
from tool.method.background_score import end_of_tail, relative_density, winning_histogram


@pytest.fixture
def cams(tmp_path):
    """(folder, {name: CAM}): two pictures of one and two classes, and one of none."""
    rng = np.random.default_rng(0)
    cams = {}
    for name, classes in (('a', (3,)), ('b 1', (0, 11)), ('none', ())):
        cams[name] = {key: rng.beta(0.6, 1.2, (20, 30)).astype(np.float32) for key in classes}
        write_npy(str(tmp_path / 'cam' / f'{name}.npy'), cams[name])
    (tmp_path / 'list.txt').write_text('\n'.join(cams))
    return tmp_path, cams


def flags(folder, *more):
    return (
        '--list',
        folder / 'list.txt',
        '--cam_dir',
        folder / 'cam',
        '--voc12_root',
        folder,
        *more,
    )


@pytest.mark.parametrize('jobs', [0, 2])
def test_it_is_that_of_the_histogram_of_all_pictures(cams, run, jobs):
    folder, maps = cams
    code, out, _ = run(
        'tool.cam_threshold', *flags(folder, '--json', folder / 'out.json', '--jobs', jobs)
    )
    histogram = winning_histogram(maps['a']) + winning_histogram(maps['b 1'])
    threshold = end_of_tail(histogram)
    assert code == 0 and f'background score {threshold:.2f},' in out
    result = json.loads((folder / 'out.json').read_text())
    assert (result['t'], result['images']) == (threshold, 3)
    assert result['histogram'] == histogram.tolist()
    assert result['relative_density'] == pytest.approx(relative_density(histogram).tolist())


def test_what_is_refused(cams, refused):
    folder, _ = cams
    (folder / 'list.txt').write_text('none')
    refused('tool.cam_threshold', flags(folder), 'no picture of', 'has a CAM of any class')
    (folder / 'list.txt').write_text('a\nnothing')
    refused('tool.cam_threshold', flags(folder), 'nothing.npy: no such file')
