"""Whether a checkpoint is of the classes that it is to be used with."""

from tool.files.checkpoints import class_set_of
from tool.method.class_set import ClassSet
from tool.run.errors import UserError
from voc12.classes import VOC

CLASS_LAYERS = ('fc8.weight', 'cls_conv.weight')  # with a row for each class


def known_classes(state: dict, path: str) -> ClassSet:
    """The classes of a checkpoint; one that carries no names, as the published ones, is VOC's.

    Raises:
        UserError: it has another number of classes than names.
    """
    named = class_set_of(state, path)
    classes = VOC if named is None else named
    for key in CLASS_LAYERS:
        rows = len(state[key]) if key in state else classes.num_classes
        if rows != classes.num_classes:
            why = 'it names' if named else 'it carries no class names, so it is taken for one of'
            raise UserError(
                f'{path}: {key} is of {rows} classes, the background included, but {why} {classes}'
            )
    return classes


def check_classes(state: dict, path: str, classes: ClassSet) -> None:
    """UserError unless a checkpoint is of these classes, those of the data."""
    own = known_classes(state, path)
    if own != classes:
        raise UserError(
            f'{path}: is of {own}, the data are of {classes}: {own.difference(classes)}; take '
            'weights of these classes, or the data folder whose classes.txt names its own'
        )


def without_other_classes(state: dict, path: str, classes: ClassSet) -> dict:
    """What of some weights a training on these classes can start from: a layer with a row for each
    class is left out where they are of other classes."""
    named = class_set_of(state, path)
    if (VOC if named is None else named) == classes:
        return state
    return {key: value for key, value in state.items() if key not in CLASS_LAYERS}
