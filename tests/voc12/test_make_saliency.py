"""Stand-in saliency maps."""

import numpy as np

from mini import make_voc
from tool.files.pictures import read_gray, read_mask
from voc12.classes import VOC
from voc12.data import check_saliency


def test_maps_fit_their_pictures_and_mark_the_objects(tmp_path, run, refused):
    names = make_voc(tmp_path)
    flags = (
        '--mask_dir',
        tmp_path / 'SegmentationClass',
        '--out_dir',
        tmp_path / 'out',
        '--list',
        tmp_path / 'list.txt',
    )
    assert run('voc12.make_saliency', *flags, '--blur', 1)[0] == 0
    check_saliency(str(tmp_path / 'out'), str(tmp_path), names)
    for name in names:
        mask = read_mask(str(tmp_path / 'SegmentationClass' / f'{name}.png'), VOC)
        saliency = read_gray(str(tmp_path / 'out' / f'{name}.png'), '')
        assert ((saliency > 127) == (mask > 0)).mean() > 0.97 and len(np.unique(saliency)) > 2
    (tmp_path / 'SegmentationClass' / f'{names[0]}.png').unlink()
    refused('voc12.make_saliency', flags, f'{names[0]}.png: no such file')
