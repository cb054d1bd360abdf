"""Dense CRF on a picture: every preset and both kinds of unary, each once (method §6).

Two backends compute the mean field. 'numba' is this project's own (`tool.method.dense_crf`) and
runs wherever numba does. 'pydensecrf' is the package that the published figures were made with; it
has no wheels and compiles on old Pythons only. Their probabilities differ by rounding.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

BACKENDS = ('numba', 'pydensecrf')


@dataclass(frozen=True)
class CrfPreset:
    """The pairwise kernels of a CRF and its number of mean-field steps.

    Attributes:
        gaussian_sxy: sigma of the Gaussian kernel in pixels.
        gaussian_compat: weight of the Gaussian kernel.
        bilateral_sxy: sigma of the bilateral kernel in pixels.
        bilateral_srgb: sigma of the bilateral kernel in grey levels.
        bilateral_compat: weight of the bilateral kernel.
        iterations: mean-field steps.
        rows_first: order a pixel's features (y, x, colour), as pydensecrf.utils does, instead of
            (x, y, colour). In exact arithmetic the order is irrelevant, but the lattice filter is
            an approximation, and probabilities move by up to 0.5 at edges.
    """

    gaussian_sxy: float = 3
    gaussian_compat: float = 3
    bilateral_sxy: float = 80
    bilateral_srgb: float = 13
    bilateral_compat: float = 10
    iterations: int = 10
    rows_first: bool = False


# contrast_infer.py --out_crf, tool.seed_masks, and aff_infer.py --crf
SEED_CRF = CrfPreset(bilateral_sxy=50, bilateral_srgb=5)
# aff_prepare.py
AFFINITY_CRF = CrfPreset(rows_first=True)
# DeepLab-v2's own constants; the published test script lacks its CRF (Q7)
DEEPLAB_CRF = CrfPreset(gaussian_sxy=1, bilateral_sxy=67, bilateral_srgb=3, bilateral_compat=4)
# what TEST_CRF of the segmentation test names; 'seam' has the constants of SEAM's inference code
TEST_CRFS = {'deeplab': DEEPLAB_CRF, 'seam': CrfPreset(bilateral_sxy=32), 'none': None}


def check_backend(backend: str) -> None:
    """Make sure that a backend works here, before any picture is read.

    Compiles the numba functions or loads them from their cache. A stage calls this before it starts
    its workers, which then find the compiled code.

    Raises:
        ImportError: the package of the backend is not installed.
    """
    if backend == 'numba':
        # imported here, because loading numba takes half a second
        from tool.method.dense_crf import compile_all

        compile_all()
    else:
        import pydensecrf.densecrf  # noqa: F401


def dense_crf(
    image: np.ndarray,
    unaries: Iterable[np.ndarray],
    preset: CrfPreset,
    absent: int = 0,
    backend: str = BACKENDS[0],
    threads: int = 1,
) -> list[np.ndarray]:
    """Mean-field inference for one picture and any number of unaries; the kernels are built once.

    Args:
        image: uint8 [H, W, 3] RGB.
        unaries: energies float32 [K, H, W] each (all of one K).
        absent: when m > 0 the last of the K labels stands in for m labels that are identical by
            symmetry (none occurs in the unary): its energy must be U − log m. Its compatibility is
            divided by m, which makes the result equal to inference over all K − 1 + m labels; its
            probability is the sum of theirs.
        backend: one of BACKENDS.
        threads: for one large picture (numba only); pools of workers take 1.
    Returns:
        Probabilities float32 [K, H, W], one for each unary.
    Raises:
        ImportError: the package of the backend is not installed.
    """
    infer = _numba_crf if backend == 'numba' else _pydensecrf
    return infer(image, unaries, preset, absent, threads)


def _numba_crf(
    image: np.ndarray, unaries: Iterable[np.ndarray], preset: CrfPreset, absent: int, threads: int
) -> list[np.ndarray]:
    """`dense_crf` by this project's own mean field."""
    # imported here, because loading numba takes half a second
    from tool.method.dense_crf import mean_field, pairwise_kernel

    kernels = [pairwise_kernel(features, threads) for features in _features(image, preset)]
    results = []
    for unary in unaries:
        labels = len(unary)
        weights = [
            _label_weights(preset.gaussian_compat, labels, absent),
            _label_weights(preset.bilateral_compat, labels, absent),
        ]
        energies = unary.reshape(labels, -1).astype(np.float32, copy=False)
        probs = mean_field(energies, kernels, weights, preset.iterations, threads)
        results.append(probs.reshape(unary.shape))
    return results


def _pydensecrf(
    image: np.ndarray, unaries: Iterable[np.ndarray], preset: CrfPreset, absent: int, threads: int
) -> list[np.ndarray]:
    """`dense_crf` by the package pydensecrf2, which works with one thread."""
    from pydensecrf import densecrf

    height, width = image.shape[:2]
    crf = None
    results = []
    for unary in unaries:
        labels = len(unary)
        if crf is None:
            crf = densecrf.DenseCRF2D(width, height, labels)
            compats = (preset.gaussian_compat, preset.bilateral_compat)
            for features, compat in zip(_features(image, preset), compats):
                # labels of different weights need a diagonal, which the package does not negate
                weight = -_label_weights(compat, labels, absent) if absent else compat
                crf.addPairwiseEnergy(features, compat=weight)
        energies = np.ascontiguousarray(unary.reshape(labels, -1), dtype=np.float32)
        crf.setUnaryEnergy(energies)
        probs = np.array(crf.inference(preset.iterations), dtype=np.float32)
        results.append(probs.reshape(-1, height, width))
    return results


def _features(image: np.ndarray, preset: CrfPreset) -> tuple[np.ndarray, np.ndarray]:
    """Features of the Gaussian [2, H·W] and of the bilateral kernel [5, H·W]: positions and colours
    by their sigma."""
    position = np.indices(image.shape[:2], dtype=np.float32).reshape(2, -1)
    if not preset.rows_first:
        position = position[::-1]
    colour = image.reshape(-1, 3).T.astype(np.float32) / np.float32(preset.bilateral_srgb)
    gaussian = np.ascontiguousarray(position / np.float32(preset.gaussian_sxy))
    bilateral = np.concatenate([position / np.float32(preset.bilateral_sxy), colour])
    return gaussian, bilateral


def _label_weights(weight: float, labels: int, absent: int) -> np.ndarray:
    """Potts weight of every label, float32 [labels]; that of a stand-in for `absent` labels is
    divided by their number."""
    weights = np.full(labels, weight, np.float32)
    if absent:
        weights[-1] /= absent
    return weights


def prob_unary(probs: np.ndarray) -> np.ndarray:
    """Softmax unary −log p (p clipped at 1e-5) of probabilities [K, H, W]."""
    return -np.log(np.clip(probs, 1e-5, 1.0)).astype(np.float32)


# a label needs a pixel where it is this share as probable as the most probable one, or it wins none
CAN_WIN = 0.2


def crf_from_probs(
    image: np.ndarray, probs: np.ndarray, preset: CrfPreset, backend: str = BACKENDS[0]
) -> np.ndarray:
    """The labels uint8 [H, W] that are most probable after dense CRF of a network's probabilities.

    Most labels are improbable everywhere in a picture. A label can win if p_l >= 0.2 · max_k p_k in
    some pixel. The m labels that cannot become one stand-in with the sum of their probabilities, as
    if they were alike (see `dense_crf`). That is exact where they are alike and an approximation
    elsewhere: of 12 real pictures, at least 99.999 % of the pixels of each kept their label
    (docs/results.md). pydensecrf, which is there to compute what was published, takes all labels.

    Args:
        image: uint8 [H, W, 3]. probs: float32 [C, H, W].
        backend: one of BACKENDS.
    """
    can_win = (probs >= CAN_WIN * probs.max(0)).any((1, 2)) | (backend == 'pydensecrf')
    kept = np.flatnonzero(can_win)
    left_out = np.flatnonzero(~can_win)
    considered = probs[kept]
    if len(left_out):
        considered = np.concatenate([considered, probs[left_out].sum(0, keepdims=True)])
    (after,) = dense_crf(
        image, [prob_unary(considered)], preset, absent=len(left_out), backend=backend
    )
    return kept[after[: len(kept)].argmax(0)].astype(np.uint8)


def crf_from_labels(
    image: np.ndarray,
    labels: Iterable[np.ndarray],
    present: list[int],
    preset: CrfPreset,
    iterations: int | None = None,
    gt_prob: float = 0.7,
    backend: str = BACKENDS[0],
    *,
    num_labels: int,
) -> list[np.ndarray]:
    """Dense CRF over all classes from hard labels, computed on the present classes and one stand-in
    for the others.

    Args:
        image: uint8 [H, W, 3].
        labels: label maps uint8 [H, W], each with ids out of `present` only.
        present: the class ids that may occur, background included, ascending.
        iterations: mean-field steps; None takes the preset's.
        gt_prob: probability that a pixel's label is right (unsure pixels do not exist here).
        backend: one of BACKENDS.
        num_labels: how many classes there are, background included (VOC: 21).
    Returns:
        One float32 [len(present), H, W] per label map: probabilities in the order of `present`.
    """
    absent = num_labels - len(present)
    wrong = -np.log((1 - gt_prob) / (num_labels - 1))
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
    return [probs[: len(present)] for probs in dense_crf(image, unaries, preset, absent, backend)]


def refine_mask(
    image: np.ndarray,
    mask: np.ndarray,
    present: Iterable[int],
    iterations: int | None = None,
    backend: str = BACKENDS[0],
    *,
    num_labels: int,
) -> np.ndarray:
    """The labels uint8 [H, W] after dense CRF with the seeds' kernels; the other arguments are
    those of `crf_from_labels`."""
    ids = np.unique([0, *present]).astype(np.uint8)
    (probs,) = crf_from_labels(
        image, [mask], ids.tolist(), SEED_CRF, iterations, backend=backend, num_labels=num_labels
    )
    return ids[probs.argmax(0)]


def affinity_maps(
    image: np.ndarray,
    cam: dict[int, np.ndarray],
    alphas: Iterable[float],
    kind: str = 'labels',
    iterations: int | None = None,
    backend: str = BACKENDS[0],
    *,
    num_labels: int,
) -> list[dict[int, np.ndarray]]:
    """The CRF maps AffinityNet learns from: CAMs against a background score (1 − max)^α, for all α
    on the same kernels.

    Args:
        image: uint8 [H, W, 3].
        cam: seeds in [0, 1], {foreground class 0…19: [H, W]}.
        alphas: background exponents; a larger one means less background.
        kind: 'labels' (unary from the argmax over all labels, published) or 'probs' (softmax unary
            of background and present classes; SEAM, PSA, EPS).
        iterations: mean-field steps; None takes the preset's.
        backend: one of BACKENDS.
        num_labels: as in `crf_from_labels`.
    Returns:
        One dict per α: probabilities float32 [H, W] of background (0) and the present classes
            (class + 1).
    """
    classes = sorted(cam)
    present = [0] + [class_id + 1 for class_id in classes]
    seeds = np.zeros((len(present), *image.shape[:2]), np.float32)
    for row, class_id in enumerate(classes, 1):
        seeds[row] = cam[class_id]
    # CAMs can lie outside [0, 1]: where all are below 0 the background wins at any α, above 1 it
    # never does
    rest = np.clip(1 - seeds[1:].max(0), 0, 1) if classes else 1 - seeds[0]
    scores = (_with_background(rest ** np.float32(alpha), seeds) for alpha in alphas)
    preset = AFFINITY_CRF if iterations is None else replace(AFFINITY_CRF, iterations=iterations)
    if kind == 'probs':
        probs = dense_crf(image, map(prob_unary, scores), preset, backend=backend)
    else:
        ids = np.asarray(present, np.uint8)
        labels = (ids[score.argmax(0)] for score in scores)
        probs = crf_from_labels(
            image, labels, present, preset, backend=backend, num_labels=num_labels
        )
    return [dict(zip(present, prob)) for prob in probs]


def _with_background(background: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The seeds [K + 1, H, W] with this background score [H, W] as their first map."""
    return np.concatenate([background[None], seeds[1:]])
