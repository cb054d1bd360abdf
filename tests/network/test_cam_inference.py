"""network/cam_inference.py: seeds and classes of one picture, and of a group of equal sizes."""

import numpy as np
import pytest
import torch
from PIL import Image

from network import views
from network.baselines import BASELINES, baseline
from network.cam_inference import predicted_classes, seeds
from network.weights import find_net
from recipe import fill
from tool.method import plain
from voc12.data import scaled_pictures

CPU = torch.device('cpu')
SCALES = (0.5, 1.0, 1.5)
SIZE = (72, 96)
CLASSES = ([3, 7], [], [7], [1, 7, 19])


@pytest.fixture(scope='module', params=['seam', 'eps'])
def trained(request):
    """(baseline, network)."""
    of_name = BASELINES[request.param]
    return of_name, fill(find_net(of_name.network)(1 / 16)).eval()


def some_picture(seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC)


def some_items():
    items = []
    for seed, classes in enumerate(CLASSES):
        pictures = scaled_pictures(some_picture(seed), SCALES)
        items.append({'classes': classes, 'size': SIZE, 'pictures': pictures})
    return items


def passes_of_a_gpu(monkeypatch):
    """Let the network take images together, as on a GPU."""
    monkeypatch.setattr(baseline, 'cam_passes', lambda view: views.passes(view, least=2))


@torch.inference_mode()
def test_seeds_have_the_bits_of_views_that_were_loaded_as_floats(trained):
    """The normalised views with mirror images that loaders used to hand over."""
    of_name, net = trained
    picture = some_picture(0)
    total = 0
    for view in plain.views(picture, SCALES, *net.normalisation):
        total = total + of_name.maps(net, view, [3, 7], SIZE)[0]
    expected = of_name.finish(total).numpy()
    [made] = seeds(net, of_name, some_items()[:1], CPU)
    assert list(made) == [3, 7]
    np.testing.assert_array_equal(np.stack(list(made.values())), expected)


def test_a_network_is_given_its_own_normalisation(trained, monkeypatch):
    of_name, net = trained
    [before] = seeds(net, of_name, some_items()[:1], CPU)
    other = ((0.5, 0.4, 0.3), (0.5, 1.0, 0.1))
    monkeypatch.setattr(type(net), 'normalisation', other)
    [made] = seeds(net, of_name, some_items()[:1], CPU)
    assert np.abs(made[3] - before[3]).max() > 1e-3


@pytest.mark.parametrize('flags', [{}, {'gate_pcm': True}, {'fill_empty': True}])
@pytest.mark.parametrize('together', [False, True], ids=['passes of one', 'passes of many'])
def test_a_group_has_the_seeds_of_its_pictures(trained, monkeypatch, together, flags):
    of_name, net = trained
    if flags and not of_name.pcm_seeds:
        pytest.skip('the PCM does not make the seeds of this baseline')
    items = some_items()
    one_by_one = [seeds(net, of_name, [item], CPU, **flags)[0] for item in items]
    if together:
        passes_of_a_gpu(monkeypatch)
    made = seeds(net, of_name, items, CPU, **flags)
    assert [list(maps) for maps in made] == list(CLASSES)
    for own, alone in zip(made, one_by_one):
        for class_id, seed_map in own.items():
            assert seed_map.shape == SIZE and seed_map.std() > 0.01
            np.testing.assert_allclose(seed_map, alone[class_id], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('together', [False, True], ids=['passes of one', 'passes of many'])
def test_a_group_has_the_classes_of_its_pictures(trained, monkeypatch, together):
    of_name, net = trained
    pictures = [item['pictures'][1] for item in some_items()]
    one_by_one = [predicted_classes(net, of_name, [each], CPU, 0.7)[0] for each in pictures]
    if together:
        passes_of_a_gpu(monkeypatch)
    assert predicted_classes(net, of_name, pictures, CPU, 0.7) == one_by_one
    assert any(one_by_one) and len(set(map(tuple, one_by_one))) > 1


def test_pictures_without_classes_need_no_network(trained):
    of_name, _ = trained
    items = [{**item, 'classes': []} for item in some_items()]
    assert seeds(None, of_name, items, CPU) == [{}] * len(items)
