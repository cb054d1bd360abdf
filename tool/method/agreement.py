"""The agreement of masks with their own refinement by dense CRF: a score without ground truth.

This is an addition of this project, not of the paper (docs/method.md §10.11).
"""

import numpy as np

from tool.method.crf import BACKENDS, refine_mask
from tool.method.metrics import confusion, iou


def refinement_confusion(
    image: np.ndarray, mask: np.ndarray, num_classes: int, backend: str = BACKENDS[0]
) -> np.ndarray:
    """Confusion matrix of a mask and its refinement by dense CRF.

    The CRF is that of the seeds (docs/method.md §6), over the classes of the mask.

    Args:
        image: uint8 [H, W, 3], RGB.
        mask: uint8 [H, W], class ids.
        num_classes: C.
        backend: one of tool.method.crf.BACKENDS.
    Returns:
        int64 [C, C + 1], see `confusion`. Row: the class in the refinement. Column: in the mask.
    """
    refined = refine_mask(image, mask, np.unique(mask), backend=backend, num_labels=num_classes)
    return confusion(mask, refined, num_classes)


def agreement(matrix: np.ndarray) -> float:
    """Agreement of the masks of a data set with their refinements, in percent.

        agreement = mean over c of |M_c ∩ R_c| / |M_c ∪ R_c|

    M_c and R_c are the pixels of class c in the masks and in the refinements of all pictures, and c
    runs over the classes that occur in any of them.

    Args:
        matrix: int64 [C, C + 1], the sum of the pictures' `refinement_confusion`.
    """
    num_classes = len(matrix)
    in_refinements = matrix.sum(1)
    in_masks = matrix.sum(0)[:num_classes]
    occurs = (in_refinements + in_masks) > 0
    return float(iou(matrix)[occurs].mean())
