"""Files of per-class maps: CAMs, and the CRF maps that AffinityNet learns from."""

import numpy as np

from tool.files.npy import first_shape, open_npy, read_npy
from tool.files.pictures import check_size
from tool.method.class_set import ClassSet
from tool.run.errors import UserError

# Scores and probabilities are in 0…1, and every command reads maps through this module, so this is
# the one place that decides what maps are. Between the two limits, rounding and other ways of
# scaling are allowed. Above them a file holds something else, such as grey levels 0…255 or logits.
# Below them a map may have one value, its floor: SEAM's published scaling (`scale_scores`) gives
# the smallest scores of a map such a value, in the published code's own files down to −15. Several
# values below are raw outputs of a network, from which nobody took the ReLU.
LARGEST = 2.0
SMALLEST = -1e-3


def read_maps(
    path: str, classes: ClassSet, size: tuple[int, int] | None = None
) -> dict[int, np.ndarray]:
    """Read a `.npy` file of per-class maps: a CAM file, or a CRF file (low or high α).

    Args:
        path: the file. It holds a dict {class id: [H, W]}, or an array [C, H, W] of all classes.
        classes: the classes that may occur, C with the background.
        size: (H, W) that the maps must have; None: any.
    Returns:
        {class id: float32 [H, W]}.
    Raises:
        UserError: the file is missing or holds something else, a value is not finite or far
            outside 0…1, or the maps have another size.
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
    # {id of an array: the same in float32}, so that an array of several classes is converted once
    converted: dict[int, np.ndarray] = {}
    for key, value in loaded.items():
        is_class = not isinstance(key, str) and 0 <= key < classes.num_classes
        if not is_class or value.ndim != 2:
            raise UserError(
                f'{path}: entry {key!r} of shape {value.shape} is no map of a class '
                f'0…{classes.num_classes - 1}'
            )
        if id(value) not in converted:
            converted[id(value)] = value.astype(np.float32, copy=False)
        maps[int(key)] = converted[id(value)]
    for class_id, class_map in maps.items():
        _check_values(path, class_id, class_map)
    shapes = {value.shape for value in maps.values()}
    if len(shapes) > 1:
        raise UserError(f'{path}: its maps have different sizes {sorted(shapes)}')
    if size is not None and shapes:
        fix = 'make them again from this --voc12_root'
        check_size(path, shapes.pop(), size, what='maps are', fix=fix)
    return maps


def _check_values(path: str, class_id: int, class_map: np.ndarray) -> None:
    """UserError if a map holds values that are no scores or probabilities."""
    if class_map.size == 0:
        return
    highest = class_map.max()  # nan if any value is
    lowest = class_map.min()
    if not (np.isfinite(highest) and np.isfinite(lowest)):
        raise UserError(
            f'{path}: the map of class {class_id} holds values that are not finite (nan or '
            'infinity); make it again'
        )
    if highest > LARGEST:
        raise UserError(
            f'{path}: the map of class {class_id} goes up to {highest:g}; scores are in 0…1, so '
            'divide each map by its maximum'
        )
    if lowest < SMALLEST and class_map[class_map < SMALLEST].max() > lowest:
        raise UserError(
            f'{path}: the map of class {class_id} has several values below 0, down to {lowest:g}; '
            'scores are in 0…1, so set what is below 0 to 0 and divide each map by its maximum'
        )


def read_cam(
    path: str, classes: ClassSet, size: tuple[int, int] | None = None
) -> dict[int, np.ndarray]:
    """Read a CAM file: {foreground class 0…K−1: float32 [H, W]}.

    Raises:
        UserError: as `read_maps`, or a class is not a foreground class.
    """
    cam = read_maps(path, classes, size)
    if any(key >= classes.num_foreground for key in cam):
        raise UserError(
            f'{path}: has class {max(cam)}; a CAM file holds foreground classes '
            f'0…{classes.num_foreground - 1}'
        )
    return cam


def maps_size(path: str, classes: ClassSet) -> tuple[tuple[int, int] | None, str]:
    """The size of the maps in a file, from its first bytes where possible.

    Returns:
        (H, W), or None for a dict without maps; and the layout of the file, 'dict' or 'array'.
    Raises:
        UserError: as `read_maps`.
    """
    with open_npy(path) as (file, shape, dtype):
        head = file.read(4096) if dtype.hasobject else None
    if head is None:
        if len(shape) != 3 or shape[0] != classes.num_classes:
            raise UserError(
                f'{path}: array of shape {shape}, expected ({classes.num_classes}, H, W) or a dict '
                'of maps'
            )
        return shape[1:], 'array'
    size = first_shape(head)
    if size is not None:
        return size, 'dict'
    for class_map in read_maps(path, classes).values():
        height, width = class_map.shape
        return (height, width), 'dict'
    return None, 'dict'
