"""The contact sheet: which pictures, what its cells show, and what it refuses."""

import numpy as np
import pytest
from PIL import Image

from mini import make_voc
from tool.contact_sheet import GAP, TITLE, WIDTH
from tool.files.lists import read_list
from tool.files.npy import write_npy
from tool.files.pictures import read_image, read_mask, write_mask
from voc12.classes import PALETTE, VOC


@pytest.fixture
def data(tmp_path):
    """(folder, names): four pictures with CAMs of their first class that are 1 in the left half, 0
    in the right."""
    names = make_voc(tmp_path)
    for name in names:
        width, height = read_image(str(tmp_path / 'JPEGImages' / f'{name}.jpg')).size
        cam = np.zeros((height, width), np.float32)
        cam[:, : width // 2] = 1
        write_npy(str(tmp_path / 'cam' / f'{name}.npy'), {0: cam})
    return tmp_path, names


def flags(folder, *more):
    return (
        '--voc12_root',
        folder,
        '--list',
        folder / 'list.txt',
        '--out',
        folder / 'sheet.png',
        *more,
    )


def test_cells(data, run):
    folder, names = data
    code, out, _ = run(
        'tool.contact_sheet',
        *flags(
            folder,
            '--rows',
            2,
            '--cam_dir',
            folder / 'cam',
            '--column',
            f'ground truth={folder / "SegmentationClass"}',
            '--note',
            'a note',
        ),
    )
    assert code == 0 and '2 pictures' in out
    sheet = np.asarray(Image.open(folder / 'sheet.png'))
    shown = [names[1], names[3]]
    assert sheet.shape[1] == GAP + 3 * (WIDTH + GAP)
    top = TITLE
    for name in shown:
        mask = read_mask(str(folder / 'SegmentationClass' / f'{name}.png'), VOC)
        height = round(mask.shape[0] * WIDTH / mask.shape[1])
        cell = sheet[top : top + height, GAP + 2 * (WIDTH + GAP) :][:, :WIDTH]
        rows, columns = (
            (np.arange(height) + 0.5) * mask.shape[0] / height,
            (np.arange(WIDTH) + 0.5) * mask.shape[1] / WIDTH,
        )
        expected = PALETTE[mask[rows.astype(int)][:, columns.astype(int)]]
        assert (cell == expected).all(2).mean() > 0.999 and (mask > 0).any()
        heat = sheet[top : top + height, GAP + WIDTH + GAP :][:, :WIDTH].astype(int)
        assert (heat[:, :90, 0] > heat[:, :90, 2]).all() and (
            heat[:, 110:, 2] > heat[:, 110:, 0]
        ).all()
        picture = sheet[top : top + height, GAP : GAP + WIDTH].astype(int)
        true = read_image(str(folder / 'JPEGImages' / f'{name}.jpg')).resize(
            (WIDTH, height), Image.Resampling.BILINEAR
        )
        assert (picture == np.asarray(true)).all()
        top += height + GAP
    assert (sheet[top:] != 255).any()  # legend and note
    assert (sheet[top:] == PALETTE[2]).all(
        2
    ).sum() >= 15 * 15  # the colour of the only class that is shown


def test_list_of_the_pictures(data, run):
    folder, names = data
    assert (
        run(
            'tool.contact_sheet',
            '--list',
            folder / 'list.txt',
            '--rows',
            2,
            '--out_list',
            folder / 'two.txt',
        )[0]
        == 0
    )
    assert read_list(str(folder / 'two.txt')) == [names[1], names[3]]
    assert (
        run(
            'tool.contact_sheet',
            '--voc12_root',
            folder,
            '--list',
            folder / 'two.txt',
            '--out',
            folder / 'a.jpg',
        )[0]
        == 0
    )
    assert (
        Image.open(folder / 'a.jpg').format == 'JPEG'
        and Image.open(folder / 'a.jpg').width == WIDTH + 2 * GAP
    )


def test_bad_input(data, refused):
    folder, names = data
    refused('tool.contact_sheet', ('--list', folder / 'list.txt'), 'nothing to write')
    refused(
        'tool.contact_sheet',
        flags(folder, '--column', 'seed'),
        '--column seed: TITLE=DIR is expected',
    )
    refused(
        'tool.contact_sheet',
        flags(folder, '--column', f'seed={folder / "none"}'),
        'none: no such folder',
    )
    refused(
        'tool.contact_sheet',
        flags(folder, '--column', f'seed={folder / "cam"}'),
        f'{names[0]}.png: no such file',
    )
    write_mask(str(folder / 'SegmentationClass' / f'{names[2]}.png'), np.zeros((4, 5), np.uint8))
    refused(
        'tool.contact_sheet',
        flags(folder, '--column', f'gt={folder / "SegmentationClass"}'),
        f'{names[2]}.png',
        'is 5x4',
    )
    (folder / 'cam' / f'{names[1]}.npy').unlink()
    refused(
        'tool.contact_sheet',
        flags(folder, '--cam_dir', folder / 'cam'),
        f'{names[1]}.npy: no such file',
    )
    assert not (folder / 'sheet.png').exists()
