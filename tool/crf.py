"""Dense CRF (pydensecrf): every preset and both kinds of unary, each once (method §6)."""
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from pydensecrf import densecrf

from voc12.classes import NUM_CLASSES


@dataclass(frozen=True)
class CrfPreset:
    """Pairwise kernels: a Gaussian (sxy pixels, weight compat) and a bilateral one (sxy pixels, srgb grey levels, compat).

    `rows_first` orders a pixel's features (y, x, …) as pydensecrf.utils does instead of (x, y, …). In exact arithmetic the
    order is irrelevant, but the lattice filter is an approximation and probabilities move by up to 0.5 at edges.
    """
    gaussian_sxy: float = 3
    gaussian_compat: float = 3
    bilateral_sxy: float = 80
    bilateral_srgb: float = 13
    bilateral_compat: float = 10
    iterations: int = 10
    rows_first: bool = False


SEED_CRF = CrfPreset(bilateral_sxy=50, bilateral_srgb=5)  # contrast_infer --out_crf, aff_infer --crf
AFFINITY_CRF = CrfPreset(rows_first=True)                 # aff_prepare
# DeepLab-v2's own constants: the published test script lacks its CRF (Q7)
DEEPLAB_CRF = CrfPreset(gaussian_sxy=1, bilateral_sxy=67, bilateral_srgb=3, bilateral_compat=4)
# what TEST_CRF of the segmentation test names; 'seam' has the constants of SEAM's own inference code
TEST_CRFS = {'deeplab': DEEPLAB_CRF, 'seam': CrfPreset(bilateral_sxy=32), 'none': None}


def dense_crf(image: np.ndarray, unaries: Iterable[np.ndarray], preset: CrfPreset, absent: int = 0) -> list[np.ndarray]:
    """Mean-field inference for one picture and any number of unaries; the kernels are built once.

    Args:
        image: uint8 [H, W, 3] RGB.
        unaries: energies float32 [K, H, W] each (all of one K).
        absent: when m > 0 the last of the K labels stands in for m labels that are identical by symmetry (none occurs in
            the unary): its energy must be U − log m. Its compatibility is divided by m, which makes the result equal to
            inference over all K − 1 + m labels; its probability is the sum of theirs.
    Returns:
        Probabilities float32 [K, H, W], one for each unary.
    """
    height, width = image.shape[:2]
    crf, results = None, []
    for unary in unaries:
        if crf is None:
            crf = densecrf.DenseCRF2D(width, height, len(unary))
            near, alike = _features(image, preset)
            crf.addPairwiseEnergy(near, compat=_compat(preset.gaussian_compat, len(unary), absent))
            crf.addPairwiseEnergy(alike, compat=_compat(preset.bilateral_compat, len(unary), absent))
        crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(len(unary), -1), dtype=np.float32))
        results.append(np.array(crf.inference(preset.iterations), dtype=np.float32).reshape(-1, height, width))
    return results


def _features(image: np.ndarray, preset: CrfPreset) -> tuple[np.ndarray, np.ndarray]:
    """Features of the Gaussian [2, H·W] and of the bilateral kernel [5, H·W]: positions and colours by their sigma."""
    position = np.indices(image.shape[:2], dtype=np.float32).reshape(2, -1)
    if not preset.rows_first:
        position = position[::-1]
    colour = image.reshape(-1, 3).T.astype(np.float32) / np.float32(preset.bilateral_srgb)
    return (np.ascontiguousarray(position / np.float32(preset.gaussian_sxy)),
            np.concatenate([position / np.float32(preset.bilateral_sxy), colour]))


def _compat(weight: float, labels: int, absent: int):
    """Potts weight, or with a stand-in label the diagonal −(w, …, w, w/m) (arrays are not negated by pydensecrf)."""
    if not absent:
        return weight
    diagonal = np.full(labels, -weight, np.float32)
    diagonal[-1] /= absent
    return diagonal


def prob_unary(probs: np.ndarray) -> np.ndarray:
    """Softmax unary −log p (p clipped at 1e-5) of probabilities [K, H, W]."""
    return -np.log(np.clip(probs, 1e-5, 1.0)).astype(np.float32)


def crf_from_labels(image: np.ndarray, labels: Iterable[np.ndarray], present: list[int], preset: CrfPreset,
                    iterations: int = None, gt_prob: float = 0.7) -> list[np.ndarray]:
    """Dense CRF over the 21 classes from hard labels, computed on the present classes and one stand-in for the others.

    Args:
        image: uint8 [H, W, 3].
        labels: label maps uint8 [H, W], each with ids out of `present` only.
        present: the class ids that may occur, background included, ascending.
        iterations: mean-field steps; None takes the preset's.
        gt_prob: probability that a pixel's label is right (unsure pixels do not exist here).
    Returns:
        One float32 [len(present), H, W] per label map: probabilities in the order of `present`.
    """
    absent = NUM_CLASSES - len(present)
    wrong = -np.log((1 - gt_prob) / (NUM_CLASSES - 1))
    unaries = []
    for label in labels:
        unary = np.full((len(present) + (absent > 0), *label.shape), wrong, np.float32)
        for row, class_id in enumerate(present):
            unary[row][label == class_id] = -np.log(gt_prob)
        if absent:
            unary[-1] = wrong - np.log(absent)
        unaries.append(unary)
    if iterations is not None:
        preset = replace(preset, iterations=iterations)
    return [probs[:len(present)] for probs in dense_crf(image, unaries, preset, absent)]


def refine_mask(image: np.ndarray, mask: np.ndarray, present: Iterable[int], iterations: int = None) -> np.ndarray:
    """The labels uint8 [H, W] after dense CRF with the seeds' kernels; the other arguments are those of `crf_from_labels`."""
    ids = np.unique([0, *present]).astype(np.uint8)
    probs, = crf_from_labels(image, [mask], ids.tolist(), SEED_CRF, iterations)
    return ids[probs.argmax(0)]


def affinity_maps(image: np.ndarray, cam: dict[int, np.ndarray], alphas: Iterable[float], kind: str = 'labels',
                  iterations: int = None) -> list[dict[int, np.ndarray]]:
    """The CRF maps AffinityNet learns from: CAMs against a background score (1 − max)^α, for all α on the same kernels.

    Args:
        image: uint8 [H, W, 3].
        cam: seeds in [0, 1], {foreground class 0…19: [H, W]}.
        alphas: background exponents; a larger one means less background.
        kind: 'labels' (unary from the argmax over 21 labels, published) or 'probs' (softmax unary of background and present
            classes; SEAM, PSA, EPS).
        iterations: mean-field steps; None takes the preset's.
    Returns:
        One dict per α: probabilities float32 [H, W] of background (0) and the present classes (class + 1).
    """
    classes = sorted(cam)
    present = [0] + [class_id + 1 for class_id in classes]
    seeds = np.zeros((len(present), *image.shape[:2]), np.float32)
    for row, class_id in enumerate(classes, 1):
        seeds[row] = cam[class_id]
    # CAMs can lie outside [0, 1]: where all are below 0 the background wins at any α, above 1 it never does
    rest = np.clip(1 - seeds[1:].max(0), 0, 1) if classes else 1 - seeds[0]
    scores = (np.concatenate([rest[None] ** np.float32(alpha), seeds[1:]]) for alpha in alphas)
    if kind == 'probs':
        preset = AFFINITY_CRF if iterations is None else replace(AFFINITY_CRF, iterations=iterations)
        probs = dense_crf(image, map(prob_unary, scores), preset)
    else:
        ids = np.asarray(present, np.uint8)
        probs = crf_from_labels(image, (ids[score.argmax(0)] for score in scores), present, AFFINITY_CRF, iterations)
    return [dict(zip(present, prob)) for prob in probs]
