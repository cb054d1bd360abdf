"""Dense CRF of a picture: its constants in each stage, and its unary energies (docs/method.md §6).

Two backends compute the mean field in every stage. 'numba' is this project's own
(`tool.method.dense_crf`) and runs wherever numba does. 'pydensecrf' is the package that the
published figures were made with. It has no wheels and compiles only with Python 3.12 or older.
Their probabilities differ by rounding.

DeepLab's test has two more. 'numba_fast' leaves out more labels, and 'torch'
(`tool.method.torch_crf`) computes the mean field on the device of the network.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

BACKENDS = ('numba', 'pydensecrf')
# of DeepLab's test
TEST_BACKENDS = (*BACKENDS, 'numba_fast', 'torch')

# The kernel of positions depends on nothing but the picture's size. A process keeps those of the
# last few sizes; VOC has mostly 500×375, 375×500 and 500×333. One takes about 50 bytes a pixel.
SIZES_KEPT = 4
LARGEST_KEPT = 1_000_000  # pixels


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
        rows_first: the features of a pixel are in the order (y, x, colour), as pydensecrf.utils
            makes them, instead of (x, y, colour). In exact arithmetic the order would not matter.
            But the lattice filter is an approximation, and the order changes probabilities by up to
            0.5 at edges.
    """

    gaussian_sxy: float = 3
    gaussian_compat: float = 3
    bilateral_sxy: float = 80
    bilateral_srgb: float = 13
    bilateral_compat: float = 10
    iterations: int = 10
    rows_first: bool = False


# of contrast_infer.py --out_crf, tool.seed_masks and aff_infer.py --crf
SEED_CRF = CrfPreset(bilateral_sxy=50, bilateral_srgb=5)
# of aff_prepare.py
AFFINITY_CRF = CrfPreset(rows_first=True)
# DeepLab-v2's own constants, because the published test script lacks its CRF (method Q7)
DEEPLAB_CRF = CrfPreset(gaussian_sxy=1, bilateral_sxy=67, bilateral_srgb=3, bilateral_compat=4)
# the choices of TEST_CRF in the segmentation test; 'seam': the constants of SEAM's inference code
TEST_CRFS = {'deeplab': DEEPLAB_CRF, 'seam': CrfPreset(bilateral_sxy=32), 'none': None}


def check_backend(backend: str) -> None:
    """Make sure that a backend works on this machine, before any picture is read.

    It compiles the numba functions or loads them from their cache. A stage calls this before it
    starts its workers, which then find the compiled code.

    Args:
        backend: one of TEST_BACKENDS.

    Raises:
        ImportError: the package of the backend is not installed.
    """
    if backend == 'pydensecrf':
        import pydensecrf.densecrf  # noqa: F401
    else:
        # imported here, because loading numba takes half a second
        from tool.method.dense_crf import compile_all

        compile_all()


def dense_crf(
    image: np.ndarray,
    unaries: Iterable[np.ndarray],
    preset: CrfPreset,
    absent: int = 0,
    backend: str = BACKENDS[0],
    threads: int = 1,
) -> list[np.ndarray]:
    """Mean-field inference on one picture for any number of unaries; the kernels are built once.

    Args:
        image: uint8 [H, W, 3], RGB.
        unaries: unary energies, float32 [L, H, W] each, all with the same number of labels L.
        preset: the kernels and the number of steps.
        absent: m, the number of labels that the last of the L labels stands for; 0: only itself.
            The m labels must be equal by symmetry (none occurs in the unary), and the energy of the
            stand-in must be U − log m if U is the energy of each of them. Its compatibility is
            divided by m. Then the result equals inference over all L − 1 + m labels, and the
            probability of the stand-in is the sum of theirs.
        backend: one of BACKENDS.
        threads: number of threads for one large picture (numba only). A pool of workers takes 1.
    Returns:
        Probabilities float32 [L, H, W], one array for each unary.
    Raises:
        ImportError: the package of the backend is not installed.
    """
    infer = _pydensecrf if backend == 'pydensecrf' else _numba_crf
    return infer(image, unaries, preset, absent, threads)


def _numba_crf(
    image: np.ndarray, unaries: Iterable[np.ndarray], preset: CrfPreset, absent: int, threads: int
) -> list[np.ndarray]:
    """`dense_crf` by this project's own mean field."""
    # imported here, because loading numba takes half a second
    from tool.method.dense_crf import mean_field

    kernels = kernels_of(image, preset, threads)
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
            gaussian = _gaussian_features(height, width, preset.gaussian_sxy, preset.rows_first)
            both_features = (gaussian, _bilateral_features(image, preset))
            for features, compat in zip(both_features, compats):
                weight: float | np.ndarray = compat
                if absent:
                    # The package takes an array of weights as the diagonal of the compatibility
                    # matrix. It negates a single weight, but not an array.
                    weight = -_label_weights(compat, labels, absent)
                crf.addPairwiseEnergy(features, compat=weight)
        energies = np.ascontiguousarray(unary.reshape(labels, -1), dtype=np.float32)
        crf.setUnaryEnergy(energies)
        probs = np.array(crf.inference(preset.iterations), dtype=np.float32)
        results.append(probs.reshape(-1, height, width))
    return results


def kernels_of(image: np.ndarray, preset: CrfPreset, threads: int = 1) -> list:
    """The two kernels of a picture, `tool.method.dense_crf.PairwiseKernel`: the Gaussian and the
    bilateral one."""
    # imported here, because loading numba takes half a second
    from tool.method.dense_crf import pairwise_kernel

    bilateral = _bilateral_features(image, preset)
    return [_gaussian_kernel(image, preset, threads), pairwise_kernel(bilateral, threads)]


def _gaussian_kernel(image: np.ndarray, preset: CrfPreset, threads: int) -> Any:
    """The kernel of positions, which is the same for all pictures of one size.

    Those of the last sizes are kept for the next pictures of a worker.
    """
    height, width = image.shape[:2]
    arguments = (height, width, preset.gaussian_sxy, preset.rows_first, threads)
    if height * width > LARGEST_KEPT:
        return _kernel_of_size.__wrapped__(*arguments)
    return _kernel_of_size(*arguments)


@functools.lru_cache(maxsize=SIZES_KEPT)
def _kernel_of_size(height: int, width: int, sxy: float, rows_first: bool, threads: int) -> Any:
    """The kernel of the positions in a picture, with sigma `sxy` in pixels."""
    # imported here, because loading numba takes half a second
    from tool.method.dense_crf import pairwise_kernel

    return pairwise_kernel(_gaussian_features(height, width, sxy, rows_first), threads)


def _position(height: int, width: int, rows_first: bool) -> np.ndarray:
    """The position of each pixel, float32 [2, H·W]."""
    position = np.indices((height, width), dtype=np.float32).reshape(2, -1)
    return position if rows_first else position[::-1]


def _gaussian_features(height: int, width: int, sxy: float, rows_first: bool) -> np.ndarray:
    """The Gaussian kernel's view of each pixel, float32 [2, H·W]: its position divided by sigma."""
    return np.ascontiguousarray(_position(height, width, rows_first) / np.float32(sxy))


def _bilateral_features(image: np.ndarray, preset: CrfPreset) -> np.ndarray:
    """The bilateral kernel's view of each pixel, float32 [5, H·W]: its position and its colour,
    divided by their sigma."""
    height, width = image.shape[:2]
    position = _position(height, width, preset.rows_first)
    colour = image.reshape(-1, 3).T.astype(np.float32) / np.float32(preset.bilateral_srgb)
    return np.concatenate([position / np.float32(preset.bilateral_sxy), colour])


def _label_weights(weight: float, labels: int, absent: int) -> np.ndarray:
    """Potts weight of every label, float32 [L]; that of a stand-in is divided by `absent`."""
    weights = np.full(labels, weight, np.float32)
    if absent:
        weights[-1] /= absent
    return weights


# What probabilities are clipped at before their logarithm is taken.
SMALLEST_PROB = 1e-5


def prob_unary(probs: np.ndarray) -> np.ndarray:
    """Unary energies −log p, float32, of probabilities p (clipped at 1e-5) of any shape."""
    return -np.log(np.clip(probs, SMALLEST_PROB, 1.0)).astype(np.float32)


def stand_in_unary(probs: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Unary energies of the labels that are kept, and of a stand-in for all others.

    The energy of the stand-in is −log Σ p over the labels that it stands for. As in `prob_unary`
    each p is clipped at 1e-5, so that the stand-in is exact for labels below that, too.

    Args:
        probs: float32 [C, H, W], probabilities.
        kept: bool [C], the labels that are kept.
    Returns:
        float32 [L, H, W], the stand-in last; without it if all labels are kept.
    """
    unary = prob_unary(probs[kept])
    if kept.all():
        return unary
    left_out = np.clip(probs[~kept], SMALLEST_PROB, 1.0)
    stand_in = -np.log(left_out.sum(0, keepdims=True))
    return np.concatenate([unary, stand_in.astype(np.float32)])


# A label can win if in some pixel p_label >= CAN_WIN · max p, see `crf_from_probs`.
CAN_WIN = 0.2
CAN_WIN_FAST = 1.0  # of the backend numba_fast: it is the most probable one in some pixel


def crf_from_probs(
    image: np.ndarray, probs: np.ndarray, preset: CrfPreset, backend: str = BACKENDS[0]
) -> np.ndarray:
    """The mask after dense CRF of a network's probabilities.

    Most labels are improbable everywhere in a picture. A label l can win if p_l >= 0.2 · max_k p_k
    in some pixel. The labels that cannot win are replaced by one stand-in with the sum of their
    probabilities, as if they were alike (see `dense_crf`). That is exact where they are alike and
    an approximation elsewhere: in each of 12 real pictures at least 99.999 % of the pixels kept
    their label (docs/results.md). pydensecrf takes all labels, because it is there to compute what
    was published. numba_fast keeps only the labels that are the most probable one in some pixel;
    a label that is not may be the CRF's choice all the same, but that is rare.

    Args:
        image: uint8 [H, W, 3], RGB.
        probs: float32 [C, H, W], the network's probabilities.
        preset: the kernels and the number of steps.
        backend: one of TEST_BACKENDS but torch, see `tool.method.torch_crf.crf_labels`.
    Returns:
        uint8 [H, W], the most probable label of each pixel.
    """
    if backend == 'pydensecrf':
        can_win = np.ones(len(probs), bool)
    else:
        share = CAN_WIN_FAST if backend == 'numba_fast' else CAN_WIN
        can_win = (probs >= share * probs.max(0)).any((1, 2))
    kept = np.flatnonzero(can_win)
    unary = stand_in_unary(probs, can_win)
    absent = len(probs) - len(kept)
    (after,) = dense_crf(image, [unary], preset, absent=absent, backend=backend)
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
    """Dense CRF of masks over all classes.

    It is computed on the classes that may occur and one stand-in for all others.

    Args:
        image: uint8 [H, W, 3], RGB.
        labels: masks uint8 [H, W] that hold only ids of `present`; each gives one result.
        present: the class ids that may occur, the background included, ascending.
        preset: the kernels and the number of steps.
        iterations: mean-field steps; None takes the preset's number.
        gt_prob: probability that the label of a pixel is right.
        backend: one of BACKENDS.
        num_labels: C, the number of classes with the background (VOC: 21).
    Returns:
        Probabilities float32 [len(present), H, W] in the order of `present`, one array for each
        mask.
    """
    absent = num_labels - len(present)
    stand_ins = 1 if absent else 0
    right = -np.log(gt_prob)
    wrong = -np.log((1 - gt_prob) / (num_labels - 1))
    unaries = []
    for label in labels:
        unary = np.full((len(present) + stand_ins, *label.shape), wrong, np.float32)
        for row, class_id in enumerate(present):
            unary[row][label == class_id] = right
        if absent:
            unary[-1] = wrong - np.log(absent)
        unaries.append(unary)
    if iterations is not None:
        preset = replace(preset, iterations=iterations)
    results = dense_crf(image, unaries, preset, absent, backend)
    return [probs[: len(present)] for probs in results]


def refine_mask(
    image: np.ndarray,
    mask: np.ndarray,
    present: Iterable[int],
    iterations: int | None = None,
    backend: str = BACKENDS[0],
    *,
    num_labels: int,
) -> np.ndarray:
    """A mask refined by dense CRF with the constants SEED_CRF.

    Args:
        image: uint8 [H, W, 3], RGB.
        mask: uint8 [H, W], class ids.
        present: the class ids that may occur; the background may be left out.
        iterations, backend, num_labels: as in `crf_from_labels`.
    Returns:
        uint8 [H, W], the most probable class id of each pixel.
    """
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
    """The CRF maps that AffinityNet learns from: CAMs against a background score (1 − max)^α.

    Args:
        image: uint8 [H, W, 3], RGB.
        cam: seeds in [0, 1], {foreground class 0…K−1: float32 [H, W]}.
        alphas: the exponents α; a larger one means less background.
        kind: the unary. 'labels', as published: from the strongest label of each pixel, over all C
            labels. 'probs', as in SEAM, PSA and EPS: from the scores as they are, over the
            background and the picture's classes.
        iterations: mean-field steps; None takes the preset's number.
        backend: one of BACKENDS.
        num_labels: C, the number of classes with the background (VOC: 21).
    Returns:
        One dict for each α: {0 or foreground class + 1: probabilities float32 [H, W]}.
    """
    classes = sorted(cam)
    present = [0] + [class_id + 1 for class_id in classes]
    seeds = np.zeros((len(present), *image.shape[:2]), np.float32)
    for row, class_id in enumerate(classes, 1):
        seeds[row] = cam[class_id]
    if classes:
        # The clipping is for CAMs outside [0, 1]. Where all are below 0, the background wins at any
        # α; where one is above 1, it never does.
        rest = np.clip(1 - seeds[1:].max(0), 0, 1)
    else:
        rest = np.ones_like(seeds[0])
    preset = AFFINITY_CRF
    if iterations is not None:
        preset = replace(preset, iterations=iterations)
    # a generator: the maps of one α are in memory at a time
    scores = (_with_background(rest ** np.float32(alpha), seeds) for alpha in alphas)
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
    """`seeds`, [L, H, W], with the background score [H, W] in place of their first map."""
    return np.concatenate([background[None], seeds[1:]])
