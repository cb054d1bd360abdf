"""Maps of classes: CAMs and the CRF maps of AffinityNet."""

import numpy as np

from tool.files.npy import first_shape, open_npy, read_npy
from tool.files.pictures import check_size
from tool.method.class_set import ClassSet
from tool.run.errors import UserError


def read_maps(
    path: str, classes: ClassSet, size: tuple[int, int] | None = None
) -> dict[int, np.ndarray]:
    """Per-class maps {class id: float32 [H, W]} of a CAM or la/ha CRF file; (C, H, W) arrays of
    all C classes are read as a dict too.

    Args:
        classes: those that may occur.
        size: (H, W) the maps must have.
    Raises:
        UserError: not such a file, or another size.
    """
    loaded = read_npy(path)
    if isinstance(loaded, np.ndarray):
        if loaded.ndim != 3 or len(loaded) != classes.num_classes:
            raise UserError(
                f'{path}: array of shape {loaded.shape}, expected ({classes.num_classes}, H, W) or '
                'a dict of maps'
            )
        loaded = dict(enumerate(loaded))
    maps = {}
    for key, value in loaded.items():
        if isinstance(key, str) or not 0 <= key < classes.num_classes or value.ndim != 2:
            raise UserError(
                f'{path}: entry {key!r} of shape {value.shape} is no map of a class '
                f'0…{classes.num_classes - 1}'
            )
        maps[int(key)] = value.astype(np.float32, copy=False)
    shapes = {value.shape for value in maps.values()}
    if len(shapes) > 1:
        raise UserError(f'{path}: its maps have different sizes {sorted(shapes)}')
    if size is not None and shapes:
        fix = 'make them again from this --voc12_root'
        check_size(path, shapes.pop(), size, what='maps are', fix=fix)
    return maps


def read_cam(
    path: str, classes: ClassSet, size: tuple[int, int] | None = None
) -> dict[int, np.ndarray]:
    """CAM dict {foreground class 0…K−1: float32 [H, W]} of a `.npy`; errors as `read_maps`."""
    cam = read_maps(path, classes, size)
    if any(key >= classes.num_foreground for key in cam):
        raise UserError(
            f'{path}: has class {max(cam)}; a CAM file holds foreground classes '
            f'0…{classes.num_foreground - 1}'
        )
    return cam


def maps_size(path: str, classes: ClassSet) -> tuple[tuple[int, int] | None, str]:
    """((H, W), layout) of a maps file from its first bytes; layout is 'dict' or 'array'. Size None:
    a dict of no maps."""
    with open_npy(path) as (file, shape, dtype):
        head = file.read(4096) if dtype.hasobject else None
    if head is None:
        if len(shape) != 3 or shape[0] != classes.num_classes:
            raise UserError(
                f'{path}: array of shape {shape}, expected ({classes.num_classes}, H, W) or a dict '
                'of maps'
            )
        return shape[1:], 'array'
    if size := first_shape(head):
        return size, 'dict'
    maps = read_maps(path, classes)
    return (next(iter(maps.values())).shape if maps else None), 'dict'
