"""Files on disk: every format the stages hand over, read safely and written atomically (shared by all stages).

Pickles and checkpoints come from strangers, so reading one never runs code: a `.npy` may hold a plain array or a dict of
str/int keys to numeric arrays, a checkpoint holds tensors only. Anything else is an error that names the file.
"""
import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from tool import npy
from tool.run.errors import UserError
from voc12.classes import IGNORE, NUM_CLASSES, NUM_FOREGROUND, PALETTE


@contextlib.contextmanager
def atomic(path: str) -> Iterator[str]:
    """Yield a temporary name beside `path`; when the block ends well it becomes `path`, else it is removed."""
    folder, name = os.path.split(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f'.{name}.', suffix='.tmp', dir=folder)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror}); choose another output folder') from None
    os.close(handle)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error})') from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


_UMASK = os.umask(0)
os.umask(_UMASK)


def need_file(path: str, fix: str) -> str:
    """`path` if it is a file, else a UserError that ends with `fix`."""
    if not os.path.isfile(path):
        raise UserError(f'{path}: {"is a folder, not a file" if os.path.isdir(path) else "no such file"}; {fix}')
    return path


def need_folder(path: str, fix: str) -> str:
    """`path` if it is a folder, else a UserError that ends with `fix`."""
    if not os.path.isdir(path):
        raise UserError(f'{path}: no such folder; {fix}')
    return path


# ---------------------------------------------------------------- lists and labels

def read_list(path: str) -> list[str]:
    """Image names of a list: the stem of each line's first column ('2007_000032' or '/JPEGImages/2007_000032.jpg …')."""
    need_file(path, 'make the lists with python -m voc12.make_lists')
    try:
        with open(path, encoding='utf-8') as file:
            lines = [line.split() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: not a readable text file ({error})') from None
    names = [os.path.splitext(os.path.basename(columns[0]))[0] for columns in lines if columns]
    if not names:
        raise UserError(f'{path}: the list is empty; one image name a line is expected')
    return names


def write_text(path: str, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
        file.write(text)


def read_labels(path: str) -> dict[str, np.ndarray]:
    """Image-level labels {name: float32 [20]} of a `cls_labels.npy`; integer keys (2007000032) are turned into names."""
    need_file(path, 'make it with python -m voc12.make_lists')
    loaded = read_npy(path)
    if not isinstance(loaded, dict):
        raise UserError(f'{path}: holds a plain array, not a dict of image-level labels')
    labels = {}
    for key, value in loaded.items():
        name = key if isinstance(key, str) else f'{key // 1000000:04d}_{key % 1000000:06d}'
        if value.shape != (NUM_FOREGROUND,):
            raise UserError(f'{path}: label of {name} has shape {value.shape}, expected ({NUM_FOREGROUND},)')
        labels[name] = value.astype(np.float32)
    return labels


# ---------------------------------------------------------------- .npy without code

def read_npy(path: str) -> dict | np.ndarray:
    """A `.npy` that holds a plain numeric array, or a dict of str/int keys to numeric arrays.

    Raises:
        UserError: missing, truncated, or it carries anything else (its code is not run).
    """
    with _open_npy(path) as (file, _, dtype):
        if dtype.hasobject:
            return npy.dict_of_arrays(file.read())
        file.seek(0)
        return npy.numeric_array(file)


@contextlib.contextmanager
def _open_npy(path: str) -> Iterator[tuple[BinaryIO, tuple, np.dtype]]:
    """(file at the start of its data, shape, dtype); whatever goes wrong while it is open is a UserError."""
    need_file(path, 'run the stage that writes it first')
    try:
        with open(path, 'rb') as file:
            yield file, *npy.header(file)
    except UserError:
        raise
    except Exception as error:  # a damaged or hostile file can raise anything
        raise UserError(f'{path}: refused, not an array or a plain dict of arrays ({error}); write it again') from None


def write_npy(path: str, value: dict | np.ndarray) -> None:
    """np.save of an array or a dict of arrays, atomically."""
    with atomic(path) as temporary, open(temporary, 'wb') as file:
        np.save(file, value)


# ---------------------------------------------------------------- CAM and CRF maps

def read_maps(path: str, size: tuple[int, int] = None) -> dict[int, np.ndarray]:
    """Per-class maps {class id: float32 [H, W]} of a CAM or la/ha CRF file; (21, H, W) arrays are read as a dict too.

    Args:
        size: (H, W) the maps must have.
    Raises:
        UserError: not such a file, or another size.
    """
    loaded = read_npy(path)
    if isinstance(loaded, np.ndarray):
        if loaded.ndim != 3 or len(loaded) != NUM_CLASSES:
            raise UserError(f'{path}: array of shape {loaded.shape}, expected ({NUM_CLASSES}, H, W) or a dict of maps')
        loaded = dict(enumerate(loaded))
    maps = {}
    for key, value in loaded.items():
        if isinstance(key, str) or not 0 <= key < NUM_CLASSES or value.ndim != 2:
            raise UserError(f'{path}: entry {key!r} of shape {value.shape} is no map of a class 0…{NUM_CLASSES - 1}')
        maps[int(key)] = value.astype(np.float32, copy=False)
    shapes = {value.shape for value in maps.values()}
    if len(shapes) > 1:
        raise UserError(f'{path}: its maps have different sizes {sorted(shapes)}')
    if size is not None and shapes and shapes != {tuple(size)}:
        raise UserError(f'{path}: maps are {_wxh(shapes.pop())}, the picture is {_wxh(size)}; '
                        'make them again from this --voc12_root')
    return maps


def read_cam(path: str, size: tuple[int, int] = None) -> dict[int, np.ndarray]:
    """CAM dict {foreground class 0…19: float32 [H, W]} of a `.npy`; errors as `read_maps`."""
    cam = read_maps(path, size)
    if any(key >= NUM_FOREGROUND for key in cam):
        raise UserError(f'{path}: has class {max(cam)}; a CAM file holds foreground classes 0…{NUM_FOREGROUND - 1}')
    return cam


def maps_size(path: str) -> tuple[tuple[int, int] | None, str]:
    """((H, W), layout) of a maps file from its first bytes; layout is 'dict' or 'array'. Size None: a dict of no maps."""
    with _open_npy(path) as (file, shape, dtype):
        head = file.read(4096) if dtype.hasobject else None
    if head is None:
        if len(shape) != 3 or shape[0] != NUM_CLASSES:
            raise UserError(f'{path}: array of shape {shape}, expected ({NUM_CLASSES}, H, W) or a dict of maps')
        return shape[1:], 'array'
    if size := npy.first_shape(head):
        return size, 'dict'
    maps = read_maps(path)
    return (next(iter(maps.values())).shape if maps else None), 'dict'


def _wxh(size) -> str:
    return f'{size[1]}x{size[0]}'


# ---------------------------------------------------------------- pictures and masks

_DAMAGED = (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError)  # what PIL raises


def _decode(path: str, fix: str) -> Image.Image:
    need_file(path, fix)
    try:
        image = Image.open(path)
        image.load()
        return image
    except _DAMAGED as error:
        raise UserError(f'{path}: damaged or not a picture ({error}); copy the file again') from None


def read_image(path: str) -> Image.Image:
    """A picture as PIL RGB. Every stage decodes pictures through this function."""
    return _decode(path, 'check --voc12_root and the image list').convert('RGB')


def image_size(path: str, fix: str = 'check --voc12_root and the image list', gray: bool = False) -> tuple[int, int]:
    """(H, W) of a picture from its header, without decoding; with `gray` it must be an 8-bit palette or grey one."""
    need_file(path, fix)
    try:
        with Image.open(path) as image:
            size, mode = (image.height, image.width), image.mode
    except _DAMAGED as error:
        raise UserError(f'{path}: damaged or not a picture ({error}); copy the file again') from None
    if gray and mode not in _GRAY:
        raise UserError(f'{path}: must be an 8-bit grey or palette PNG, this one is {mode}')
    return size


_GRAY = ('P', 'L')  # PIL's names of the 8-bit one-channel modes


def read_gray(path: str, fix: str, indices: bool = True) -> np.ndarray:
    """An 8-bit one-channel PNG as uint8 [H, W]; a palette image gives its indices, or with indices=False its grey levels."""
    image = _decode(path, fix)
    if image.mode not in _GRAY:
        raise UserError(f'{path}: must be an 8-bit grey or palette PNG, this one is {image.mode}')
    return np.array(image if indices else image.convert('L'))


def read_mask(path: str) -> np.ndarray:
    """A ground-truth, predicted or pseudo mask: uint8 [H, W], class ids 0…20 and 255 = ignore."""
    mask = read_gray(path, 'check the mask folder and the image list')
    wrong = mask[(mask >= NUM_CLASSES) & (mask != IGNORE)]
    if wrong.size:
        raise UserError(f'{path}: holds value {wrong[0]}; a mask has class ids 0…{NUM_CLASSES - 1} and {IGNORE} for ignore')
    return mask


def write_mask(path: str, mask: np.ndarray) -> None:
    """Write uint8 [H, W] class ids as an 8-bit palette PNG with the VOC colour map, atomically."""
    image = Image.fromarray(np.asarray(mask, np.uint8))
    image.putpalette(PALETTE.tobytes())
    with atomic(path) as temporary:
        image.save(temporary, 'PNG')


# ---------------------------------------------------------------- checkpoints

def load_checkpoint(path: str) -> dict:
    """A bare state dict {key: tensor} on the CPU, weights only; a 'module.' prefix of all keys is dropped.

    Raises:
        UserError: missing, damaged, or not a state dict.
    """
    import torch
    need_file(path, 'check --weights')
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f'{path}: not a PyTorch checkpoint of plain weights ({reason[:160]})') from None
    if not isinstance(state, dict) or not state or not all(
            isinstance(key, str) and torch.is_tensor(value) for key, value in state.items()):
        raise UserError(f'{path}: not a bare state dict (a dict of tensors), as torch.save(net.state_dict(), …) writes')
    if all(key.startswith('module.') for key in state):
        state = {key[len('module.'):]: value for key, value in state.items()}
    return state


def save_checkpoint(path: str, state: dict) -> None:
    """torch.save of a bare state dict (tensors moved to the CPU, contiguous), atomically."""
    import torch
    with atomic(path) as temporary:
        torch.save({key: value.detach().cpu().contiguous() for key, value in state.items()}, temporary)
