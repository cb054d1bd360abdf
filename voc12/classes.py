"""The classes, the colour map and the ignore value of PASCAL VOC 2012."""
import numpy as np

CLASSES = ('background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow',
           'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor')
NUM_CLASSES = len(CLASSES)       # 21, with the background
NUM_FOREGROUND = NUM_CLASSES - 1
IGNORE = 255


def voc_palette() -> np.ndarray:
    """The VOC colour map, uint8 [256, 3]: the bits of the class id, three at a time, fill R, G, B from the top."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette


PALETTE = voc_palette()
