"""The classes of PASCAL VOC 2012."""

from tool.method.class_set import IGNORE, ClassSet, colour_map

__all__ = ['CLASSES', 'IGNORE', 'NUM_CLASSES', 'NUM_FOREGROUND', 'PALETTE', 'VOC']

VOC = ClassSet(
    (
        'background',
        'aeroplane',
        'bicycle',
        'bird',
        'boat',
        'bottle',
        'bus',
        'car',
        'cat',
        'chair',
        'cow',
        'diningtable',
        'dog',
        'horse',
        'motorbike',
        'person',
        'pottedplant',
        'sheep',
        'sofa',
        'train',
        'tvmonitor',
    )
)

CLASSES = VOC.names
NUM_CLASSES = VOC.num_classes  # C = K + 1: the foreground classes and the background
NUM_FOREGROUND = VOC.num_foreground  # K
PALETTE = colour_map()
