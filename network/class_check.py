"""Check that a checkpoint has the classes that it is to be used with."""

from tool.files.checkpoints import class_set_of
from tool.method.class_set import ClassSet
from tool.run.errors import UserError
from voc12.classes import VOC

# the layers with a row for each class: fc8 of CAM networks, cls_conv of DeepLab
CLASS_LAYERS = ('fc8.weight', 'cls_conv.weight')


def known_classes(state: dict, path: str) -> ClassSet:
    """The classes of a checkpoint.

    A checkpoint that carries no class names, like the published ones, is taken for one of VOC's.

    Args:
        state: the checkpoint's state dict.
        path: the checkpoint's file, for messages.
    Raises:
        UserError: a layer has another number of classes than there are names.
    """
    named = class_set_of(state, path)
    if named is None:
        classes = VOC
        why = 'it carries no class names and is taken for one of the'
    else:
        classes = named
        why = 'it names'
    for key in CLASS_LAYERS:
        if key not in state:
            continue
        rows = len(state[key]) if state[key].ndim else 0
        if rows != classes.num_classes:
            raise UserError(
                f'{path}: {key} is of {rows} classes, the background included, but {why} {classes}'
            )
    return classes


def check_classes(state: dict, path: str, classes: ClassSet) -> None:
    """Check that a checkpoint has the classes of the data.

    Args:
        state: the checkpoint's state dict.
        path: the checkpoint's file, for messages.
        classes: those of the data.
    Raises:
        UserError: it has others.
    """
    own = known_classes(state, path)
    if own != classes:
        raise UserError(
            f'{path}: is of {own}, the data are of {classes}: {own.difference(classes)}; take '
            'weights of these classes, or the data folder whose classes.txt names its own'
        )


def without_other_classes(state: dict, path: str, classes: ClassSet) -> dict:
    """The weights that training on these classes can start from.

    Weights of the same classes are returned as they are. Of weights of other classes, the layers
    with a row for each class are left out.

    Args:
        state: a state dict.
        path: its file, for messages.
        classes: those of the data.
    """
    own = class_set_of(state, path)
    if own is None:
        own = VOC
    if own == classes:
        return state
    return {key: value for key, value in state.items() if key not in CLASS_LAYERS}
