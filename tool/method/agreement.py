"""How well masks agree with their own refinement by dense CRF: a score without ground truth.

This is an addition of this project, not of the paper (docs/method.md §10).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from tool.method.crf import BACKENDS, SEED_CRF, crf_from_labels
from tool.method.metrics import confusion, iou

# The background scores that are tried. The dense CRF of one takes as long as the seeds' own.
AGREEMENT_THRESHOLDS = np.arange(2, 60, 4) / 100


def refinement_confusions(
    image: np.ndarray,
    masks: Sequence[np.ndarray],
    present: Iterable[int],
    num_classes: int,
    backend: str = BACKENDS[0],
) -> np.ndarray:
    """Confusion matrices of masks of one picture and their refinements by dense CRF.

    The CRF is that of the seeds (docs/method.md §6). Its kernels are built once for all masks.

    Args:
        image: uint8 [H, W, 3], RGB.
        masks: uint8 [H, W] each, class ids.
        present: the class ids that may occur, the background included.
        num_classes: C.
        backend: one of tool.method.crf.BACKENDS.
    Returns:
        int64 [len(masks), C, C + 1], see `confusion`. Row: the class of the refinement. Column:
        that of the mask.
    """
    ids = np.unique([0, *present]).astype(np.uint8)
    refined = crf_from_labels(
        image, masks, ids.tolist(), SEED_CRF, backend=backend, num_labels=num_classes
    )
    matrices = []
    for mask, probs in zip(masks, refined):
        matrices.append(confusion(mask, ids[probs.argmax(0)], num_classes))
    return np.stack(matrices)


def agreement(matrices: np.ndarray) -> np.ndarray:
    """Agreement of masks with their refinement in percent, of a data set.

        agreement = mean over c of |M_c ∩ R_c| / |M_c ∪ R_c|

    M_c and R_c are the pixels of class c in the masks and in the refinements of all pictures, and c
    runs over the classes that occur in any mask or refinement of any of the matrices. A mask that
    is too small or too large is changed more by the CRF, in relation to the smaller of foreground
    and background, than one that follows the edges of the picture.

    Args:
        matrices: int64 [..., C, C + 1], sums of the pictures' `refinement_confusions`.
    Returns:
        float64 [...].
    """
    num_classes = matrices.shape[-2]
    flat = matrices.reshape(-1, num_classes, num_classes + 1)
    of_refinement = flat.sum((0, 2))
    of_mask = flat.sum((0, 1))[:num_classes]
    occurs = (of_refinement + of_mask) > 0
    return iou(matrices)[..., occurs].mean(-1)
