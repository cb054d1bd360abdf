"""Masks from CRF maps."""

import numpy as np
from PIL import Image

from tool.files.npy import write_npy
from tool.files.pictures import read_mask
from voc12.classes import PALETTE, VOC


def maps(path, values):
    write_npy(str(path), {label: np.array(value, np.float32) for label, value in values.items()})


def test_masks_are_the_most_probable_class(tmp_path, run):
    maps(
        tmp_path / 'crf' / 'a.npy',
        {15: [[0.1, 0.9, 0.3]], 0: [[0.8, 0.05, 0.3]], 8: [[0.1, 0.05, 0.4]]},
    )
    old = np.zeros((21, 1, 3), np.float32)  # the older layout
    old[3, 0, 1] = old[20, 0, 2] = 1
    write_npy(str(tmp_path / 'crf' / 'b.npy'), old)
    flags = ('--crf_dir', tmp_path / 'crf', '--out_dir', tmp_path / 'out', '--jobs', 0)
    assert run('tool.make_pseudo_masks', *flags)[0] == 0
    assert read_mask(str(tmp_path / 'out' / 'a.png'), VOC).tolist() == [[0, 15, 8]]
    assert read_mask(str(tmp_path / 'out' / 'b.png'), VOC).tolist() == [[0, 3, 20]]
    assert Image.open(tmp_path / 'out' / 'a.png').getpalette()[45:48] == PALETTE[15].tolist()
    code, out, _ = run('tool.make_pseudo_masks', *flags)
    assert code == 0 and '2 pictures: 0 made, 2 were there' in out


def test_without_a_list_a_line_says_that_left_over_maps_are_taken(tmp_path, run):
    for name in ('a', 'b'):  # b was taken out of the list after its map had been made
        maps(tmp_path / 'crf' / f'{name}.npy', {0: [[0.2]], 8: [[0.8]]})
    (tmp_path / 'list.txt').write_text('a\n')
    flags = ('--crf_dir', tmp_path / 'crf', '--jobs', 0)
    listed = ('--list', tmp_path / 'list.txt', '--out_dir', tmp_path / 'listed')
    code, out, _ = run('tool.make_pseudo_masks', *flags, *listed)
    assert code == 0 and 'no --list' not in out
    assert [path.name for path in (tmp_path / 'listed').glob('*.png')] == ['a.png']
    code, out, _ = run('tool.make_pseudo_masks', *flags, '--out_dir', tmp_path / 'all')
    assert code == 0 and f'no --list: masks of all 2 maps in {tmp_path}/crf, also those of' in out
    assert len(list((tmp_path / 'all').glob('*.png'))) == 2


def test_bad_input(tmp_path, refused):
    out = tmp_path / 'out'
    refused(
        'tool.make_pseudo_masks',
        ('--crf_dir', tmp_path / 'none', '--out_dir', out),
        'none: no such folder',
    )
    (tmp_path / 'crf').mkdir()
    refused(
        'tool.make_pseudo_masks',
        ('--crf_dir', tmp_path / 'crf', '--out_dir', out),
        'holds no .npy file',
    )
    maps(tmp_path / 'crf' / 'a.npy', {0: [[1.0]]})
    (tmp_path / 'list.txt').write_text('a\nc\n')
    refused(
        'tool.make_pseudo_masks',
        ('--crf_dir', tmp_path / 'crf', '--out_dir', out, '--list', tmp_path / 'list.txt'),
        'c.npy: no such file',
    )
    assert not out.exists()
    (tmp_path / 'crf' / 'a.npy').write_bytes(b'\x93NUMPY')
    refused(
        'tool.make_pseudo_masks',
        ('--crf_dir', tmp_path / 'crf', '--out_dir', out, '--jobs', 0),
        'a.npy',
    )
    assert not list(out.glob('*.png'))
