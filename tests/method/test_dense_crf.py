"""tool/method/dense_crf.py: equal to pydensecrf, compiled once for all processes, and what it does
at its limits."""

import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
from crf_inputs import network_output, smooth_probabilities

from mini import GOLDEN, ROOT
from tool.files.pictures import read_image
from tool.method import crf, plain
from tool.method.crf import (
    AFFINITY_CRF,
    BACKENDS,
    DEEPLAB_CRF,
    SEED_CRF,
    TEST_CRFS,
    affinity_maps,
    check_backend,
    crf_from_labels,
    crf_from_probs,
    dense_crf,
    prob_unary,
)
from tool.method.dense_crf import COMPILING, mean_field, pairwise_kernel

FILE = np.load(GOLDEN / 'crf.npz')
IMAGE, CAM = FILE['image'], {4: FILE['cam_4'], 11: FILE['cam_11']}
PRESETS = {
    'seeds': SEED_CRF,
    'affinity': AFFINITY_CRF,
    'deeplab': DEEPLAB_CRF,
    'seam': TEST_CRFS['seam'],
}
VOC = ROOT.parent / 'shared/data/VOC2012_animals'

both = pytest.mark.skipif(
    subprocess.run([sys.executable, '-c', 'import pydensecrf'], capture_output=True).returncode
    != 0,
    reason='pydensecrf is not installed (it builds on old Pythons only)',
)


def by_both(function):
    """(numba's, pydensecrf's) result of function(backend)."""
    return tuple(
        np.stack(list(result.values())) if isinstance(result := function(backend), dict) else result
        for backend in BACKENDS
    )


def equal_pixels(ours, theirs):
    """Share of the pixels with the same most probable label."""
    return (ours.argmax(0) == theirs.argmax(0)).mean()


@both
@pytest.mark.parametrize('labels', [2, 3, 5, 21])
@pytest.mark.parametrize('preset', PRESETS)
def test_probabilities_equal_pydensecrf(preset, labels):
    unary = prob_unary(smooth_probabilities(labels, *IMAGE.shape[:2]))
    ours, theirs = by_both(
        lambda backend: dense_crf(IMAGE, [unary], PRESETS[preset], backend=backend)[0]
    )
    assert equal_pixels(ours, theirs) >= 0.9999
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert (unary.argmin(0) != ours.argmax(0)).mean() > 1e-3  # the CRF did something


@both
@pytest.mark.parametrize('preset', ['seeds', 'affinity'])
def test_stand_in_label_equals_pydensecrf(preset):
    label = np.array([0, 5, 12], np.uint8)[
        np.stack([np.full_like(CAM[4], 0.3), CAM[4], CAM[11]]).argmax(0)
    ]
    ours, theirs = by_both(
        lambda backend: crf_from_labels(
            IMAGE, [label], [0, 5, 12], PRESETS[preset], backend=backend, num_labels=21
        )[0]
    )
    assert equal_pixels(ours, theirs) >= 0.9999
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


@both
@pytest.mark.parametrize('kind', ['labels', 'probs'])
def test_affinity_maps_equal_pydensecrf_at_every_alpha(kind):
    alphas = [4, 8, 16, 24, 32]
    ours, theirs = (
        affinity_maps(IMAGE, CAM, alphas, kind, backend=backend, num_labels=21)
        for backend in BACKENDS
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert list(mine) == list(other)
        np.testing.assert_allclose(
            np.stack(list(mine.values())), np.stack(list(other.values())), atol=1e-3
        )


@both
@pytest.mark.slow
@pytest.mark.skipif(not VOC.is_dir(), reason='needs the real pictures of ../shared')
@pytest.mark.parametrize('preset', PRESETS)
def test_twenty_real_pictures_equal_pydensecrf(preset):
    files = sorted((VOC / 'JPEGImages').glob('*.jpg'))[::55][:20]
    equal = []
    for number, file in enumerate(files):
        picture = np.asarray(read_image(str(file)))[
            ::2, ::2
        ]  # at half size: docs/results.md has the whole pictures
        unary = prob_unary(smooth_probabilities(3, *picture.shape[:2], seed=number))
        ours, theirs = by_both(
            lambda backend, picture=picture, unary=unary: dense_crf(
                picture, [unary], PRESETS[preset], backend=backend
            )[0]
        )
        equal.append(equal_pixels(ours, theirs))
    assert len(equal) == 20 and np.mean(equal) >= 0.9999


@both
def test_rows_first_matters_and_both_orders_are_pydensecrfs():
    unary = prob_unary(smooth_probabilities(3, *IMAGE.shape[:2]))
    columns_first, rows_first = (
        dense_crf(IMAGE, [unary], preset)[0] for preset in (TEST_CRFS['seam'], AFFINITY_CRF)
    )
    assert np.abs(columns_first - rows_first).max() > 1e-2


def test_labels_that_cannot_win_change_nothing():
    weak = [label for label in range(21) if label not in (0, 7, 20)]
    probs = network_output(weak, 0.02, IMAGE.shape[:2])
    (every,) = dense_crf(IMAGE, [prob_unary(probs)], DEEPLAB_CRF)
    mask = crf_from_probs(IMAGE, probs, DEEPLAB_CRF)
    assert (mask == every.argmax(0)).mean() >= 0.999
    assert set(np.unique(mask)) == {0, 7, 20} and mask.dtype == np.uint8
    assert (mask != probs.argmax(0)).mean() > 1e-3  # the CRF did something


def test_a_label_that_is_probable_in_one_pixel_takes_part(monkeypatch):
    probs = network_output([5], 0.02, IMAGE.shape[:2])
    probs[:, 3, 4] = 0
    probs[5, 3, 4] = 1
    taken = []
    monkeypatch.setattr(
        crf,
        'dense_crf',
        lambda image, unaries, *args, **kwargs: [
            -unary for unary in map(lambda unary: taken.append(len(unary)) or unary, unaries)
        ],
    )
    assert crf_from_probs(IMAGE, probs, DEEPLAB_CRF)[3, 4] == 5 and taken == [21]
    crf_from_probs(IMAGE, network_output([5], 0.02, IMAGE.shape[:2]), DEEPLAB_CRF)
    assert taken == [21, 21]  # 20 labels and the stand-in


def test_numba_fast_keeps_the_labels_that_are_the_most_probable_somewhere(monkeypatch):
    probs = np.full((5, 4, 6), 0.05, np.float32)
    probs[0] = 0.5
    probs[3, 1, 1:3] = 0.6  # wins two pixels
    probs[4, 2, 2] = 0.4  # comes near, but wins none
    taken = []

    def unaries_back(image, unaries, *args, **kwargs):
        taken.extend(len(unary) for unary in unaries)
        return [-unary for unary in unaries]

    monkeypatch.setattr(crf, 'dense_crf', unaries_back)
    for backend, labels in (('numba', 4), ('numba_fast', 3), ('pydensecrf', 5)):
        mask = crf_from_probs(IMAGE[:4, :6], probs, DEEPLAB_CRF, backend)
        assert mask[1, 1] == 3 and mask[0, 0] == 0
        assert taken.pop() == labels  # the stand-in is one of them


def test_numba_fast_gives_nearly_the_same_mask():
    weak = [label for label in range(21) if label not in (0, 7, 20)]
    probs = network_output(weak, 0.3, IMAGE.shape[:2])
    can_win = (probs >= crf.CAN_WIN * probs.max(0)).any((1, 2))
    wins = (probs == probs.max(0)).any((1, 2))
    assert wins.sum() < can_win.sum()
    exact = crf_from_probs(IMAGE, probs, DEEPLAB_CRF)
    fast = crf_from_probs(IMAGE, probs, DEEPLAB_CRF, 'numba_fast')
    assert (fast == exact).mean() >= 0.995


def test_a_single_label_needs_no_other():
    probs = np.zeros((4, 6, 8), np.float32)
    probs[2] = 1
    assert (crf_from_probs(IMAGE[:6, :8], probs, DEEPLAB_CRF) == 2).all()


def test_the_kernel_of_positions_is_built_once_for_a_size(monkeypatch):
    crf._kernel_of_size.cache_clear()
    unary = prob_unary(smooth_probabilities(2, 20, 30))
    (first,) = dense_crf(IMAGE[:20, :30], [unary], DEEPLAB_CRF)
    (again,) = dense_crf(IMAGE[:20, :30], [unary], DEEPLAB_CRF)
    np.testing.assert_array_equal(first, again)
    assert crf._kernel_of_size.cache_info()[:2] == (1, 1)  # hits, misses
    for preset in (SEED_CRF, AFFINITY_CRF):  # another sigma, another order
        dense_crf(IMAGE[:20, :30], [unary], preset)
    dense_crf(IMAGE[:30, :20], [unary.transpose(0, 2, 1)], DEEPLAB_CRF)
    assert crf._kernel_of_size.cache_info()[:2] == (1, 4)
    monkeypatch.setattr(crf, 'LARGEST_KEPT', 599)
    (large,) = dense_crf(IMAGE[:20, :30], [unary], DEEPLAB_CRF)
    np.testing.assert_array_equal(first, large)
    assert crf._kernel_of_size.cache_info()[:2] == (1, 4)


def test_mean_field_equals_its_formula():
    """Algorithm 1 with the plain lattice: label after label, pixel after pixel."""
    rng = np.random.default_rng(0)
    features = rng.random((2, 30), np.float32) * 3
    unary = rng.random((3, 30), np.float32) * 2
    weights = np.array([2, 1, 0.5], np.float32)
    sums = plain.lattice_filter(features, np.ones(30))
    energies = -unary
    for _ in range(4):
        probabilities = np.exp(energies) / np.exp(energies).sum(0)
        messages = [
            plain.lattice_filter(features, row / np.sqrt(sums)) / np.sqrt(sums)
            for row in probabilities
        ]
        energies = -unary + weights[:, None] * np.stack(messages)
    expected = np.exp(energies) / np.exp(energies).sum(0)
    ours = mean_field(unary, [pairwise_kernel(features)], [weights], iterations=4)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_unary_may_lie_in_memory_in_any_order():
    unary = np.random.default_rng(0).random((30, 4), np.float32)
    expected = np.exp(-unary) / np.exp(-unary).sum(1, keepdims=True)
    np.testing.assert_allclose(mean_field(unary.T, [], [], 0), expected.T, rtol=1e-5)


@pytest.mark.parametrize('labels', [1, 4, 5])
def test_threads_give_the_same_probabilities(labels):
    unary = prob_unary(smooth_probabilities(labels, *IMAGE.shape[:2]))
    (one,) = dense_crf(IMAGE, [unary], SEED_CRF)
    (two,) = dense_crf(IMAGE, [unary], SEED_CRF, threads=2)
    np.testing.assert_allclose(two, one, atol=1e-5)


@pytest.mark.parametrize('shape', [(1, 1), (1, 50), (50, 1)])
def test_thin_pictures(shape):
    picture = np.full((*shape, 3), 90, np.uint8)
    (probs,) = dense_crf(picture, [prob_unary(smooth_probabilities(2, *shape))], SEED_CRF)
    assert probs.shape == (2, *shape)
    np.testing.assert_allclose(probs.sum(0), 1, atol=1e-5)


def test_a_backend_whose_package_is_missing_raises_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pydensecrf', None)
    with pytest.raises(ImportError):
        check_backend('pydensecrf')
    picture = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ImportError):
        dense_crf(picture, [np.zeros((2, 4, 4), np.float32)], SEED_CRF, backend='pydensecrf')


# ---------------------------------------------------------------- compiled once

ONE_CRF = (
    'import numpy as np\nfrom tool.method.crf import SEED_CRF, check_backend, '
    'dense_crf\ncheck_backend("numba")\nimage = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, '
    '3)\nprint(dense_crf(image, [np.eye(5, 7, dtype=np.float32)[None].repeat(2, 0)], '
    'SEED_CRF)[0].sum())\n'
)


def one_crf(env):
    """(output, messages) of a process of its own that computes one CRF."""
    done = subprocess.run(
        [sys.executable, '-c', ONE_CRF],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout), done.stderr


@pytest.mark.slow
def test_first_call_says_that_it_compiles_and_the_next_process_does_not_compile(tmp_path):
    cache = {'NUMBA_CACHE_DIR': str(tmp_path)}
    result, messages = one_crf(env=cache)
    assert result == pytest.approx(35) and messages.count(COMPILING) == 1
    assert COMPILING not in one_crf(env=cache)[1]


READ_ONLY = f'mount --bind "{ROOT}" "{ROOT}" && mount -o remount,ro,bind "{ROOT}" && exec "$@"'
UNSHARE = [
    'unshare',
    '--mount',
    'sh',
    '-c',
    READ_ONLY,
    'sh',
]  # a command that sees the repository read-only


def can_mount():
    """True where a read-only view of the repository can be made."""
    try:
        return subprocess.run([*UNSHARE, 'true'], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(
    not can_mount(), reason='needs root on Linux, to mount the repository read-only'
)
def test_read_only_package_and_no_home_still_work(tmp_path):
    """Neither the package's folder nor a home can be written: the code is kept in a temporary
    folder, which is removed."""
    environment = {
        **os.environ,
        'HOME': '/proc/nowhere',
        'XDG_CACHE_HOME': '/proc/nowhere',
        'TMPDIR': str(tmp_path),
    }
    environment.pop('NUMBA_CACHE_DIR', None)
    done = subprocess.run(
        [*UNSHARE, sys.executable, '-c', ONE_CRF],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert float(done.stdout) == pytest.approx(35) and done.stderr.count(COMPILING) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('method', multiprocessing.get_all_start_methods())
def test_workers_of_every_start_method_compute_the_same(method, capfd):
    unary = prob_unary(smooth_probabilities(3, 20, 30))
    (expected,) = dense_crf(IMAGE[:20, :30], [unary], SEED_CRF)
    pool = multiprocessing.get_context(method).Pool(2)
    results = pool.starmap(dense_crf, [(IMAGE[:20, :30], [unary], SEED_CRF)] * 2)
    # Not `with`, which ends workers by SIGTERM and waits for them: a fork server that an earlier
    # test has started holds that signal back (tool.run.interrupts.held_back).
    pool.close()
    pool.join()
    for (result,) in results:
        np.testing.assert_array_equal(result, expected)
    assert COMPILING not in capfd.readouterr().err
