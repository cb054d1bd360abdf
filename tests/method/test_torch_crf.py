"""tool/method/torch_crf.py against the mean field in numba."""

import sys

import numpy as np
import pytest
import torch
from crf_inputs import network_output, smooth_probabilities

from mini import GOLDEN, ROOT
from tool.files.pictures import read_image
from tool.method.crf import (
    DEEPLAB_CRF,
    TEST_CRFS,
    check_backend,
    crf_from_probs,
    dense_crf,
    kernels_of,
    prob_unary,
)
from tool.method.permutohedral import LANES, build_lattice, filter_values
from tool.method.torch_crf import crf_labels, device_lattice, filtered, lattices_of, mean_field

IMAGE = np.load(GOLDEN / 'crf.npz')['image']
VOC = ROOT.parent / 'shared/data/VOC2012_animals'


def tensors(lattice):
    """The lattice prepared for torch."""
    return device_lattice([torch.from_numpy(field) for field in lattice])


@pytest.mark.parametrize('dimensions', [2, 5])
def test_filter_equals_numbas(dimensions):
    rng = np.random.default_rng(0)
    lattice = build_lattice(rng.random((dimensions, 800), np.float32) * np.float32(9))
    assert len(lattice.order) == (0 if dimensions == 2 else lattice.neighbours.shape[1])
    values = rng.random((1, 800, LANES), np.float32)
    expected = np.empty_like(values)
    filter_values(lattice, values, np.zeros_like(values), expected, np.ones((1, LANES), np.float32))
    ours = filtered(tensors(lattice), torch.from_numpy(values[0]))
    np.testing.assert_allclose(ours.numpy(), expected[0], rtol=1e-4, atol=1e-6)


def test_entries_of_a_vertex_ascend_by_pixel():
    lattice = build_lattice(np.random.default_rng(0).random((5, 300), np.float32) * 4)
    prepared = tensors(lattice)
    for vertex in (1, 2, 17):
        entries = slice(prepared.first[vertex], prepared.first[vertex + 1])
        pixels, corners = np.nonzero(lattice.vertices == vertex)
        np.testing.assert_array_equal(prepared.pixels[entries], pixels)
        np.testing.assert_array_equal(
            prepared.pixel_weights[entries], lattice.weights[pixels, corners]
        )
    assert prepared.first[0] == prepared.first[1] == 0
    assert prepared.first[-1] == lattice.vertices.size


@pytest.mark.parametrize('name', ['deeplab', 'seam'])
def test_probabilities_equal_numbas(name):
    preset = TEST_CRFS[name]
    unary = prob_unary(smooth_probabilities(21, *IMAGE.shape[:2]))
    (expected,) = dense_crf(IMAGE, [unary], preset)
    kernels = [tensors(kernel.lattice) for kernel in kernels_of(IMAGE, preset)]
    weights = [preset.gaussian_compat, preset.bilateral_compat]
    energies = torch.from_numpy(unary).flatten(1).T
    ours = mean_field(energies, kernels, weights, preset.iterations)
    ours = ours.T.reshape(unary.shape).numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-3)
    assert (ours.argmax(0) == expected.argmax(0)).mean() >= 0.9999
    assert (ours.argmax(0) != unary.argmin(0)).mean() > 1e-3  # the CRF did something


def test_mask_equals_numbas_and_is_the_same_every_time():
    weak = [label for label in range(21) if label not in (0, 7, 20)]
    probs = network_output(weak, 0.02, IMAGE.shape[:2])
    lattices = lattices_of(IMAGE, DEEPLAB_CRF)
    mask = crf_labels(torch.from_numpy(probs), lattices, DEEPLAB_CRF)
    again = crf_labels(torch.from_numpy(probs), lattices, DEEPLAB_CRF)
    assert mask.dtype == torch.uint8 and mask.shape == IMAGE.shape[:2]
    assert torch.equal(mask, again)
    assert (mask.numpy() == crf_from_probs(IMAGE, probs, DEEPLAB_CRF)).mean() >= 0.999
    assert (mask.numpy() != probs.argmax(0)).mean() > 1e-3  # the CRF did something


def test_probabilities_of_0_have_an_energy():
    probs = np.zeros((3, 6, 8), np.float32)
    probs[2] = 1
    lattices = lattices_of(IMAGE[:6, :8], DEEPLAB_CRF)
    assert (crf_labels(torch.from_numpy(probs), lattices, DEEPLAB_CRF) == 2).all()


def test_the_backend_needs_no_package_of_its_own(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pydensecrf', None)
    check_backend('torch')


@pytest.mark.slow
@pytest.mark.skipif(not VOC.is_dir(), reason='needs the real pictures of ../shared')
def test_real_pictures_equal_numba():
    files = sorted((VOC / 'JPEGImages').glob('*.jpg'))[::100][:10]
    equal = []
    for number, file in enumerate(files):
        # at half size: docs/results.md has the whole pictures
        picture = np.ascontiguousarray(np.asarray(read_image(str(file)))[::2, ::2])
        probs = smooth_probabilities(21, *picture.shape[:2], seed=number)
        lattices = lattices_of(picture, DEEPLAB_CRF)
        ours = crf_labels(torch.from_numpy(probs), lattices, DEEPLAB_CRF).numpy()
        (numbas,) = dense_crf(picture, [prob_unary(probs)], DEEPLAB_CRF)
        equal.append((ours == numbas.argmax(0)).mean())
    assert len(equal) == 10 and np.mean(equal) >= 0.9999
