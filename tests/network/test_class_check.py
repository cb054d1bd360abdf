"""network/class_check.py and the networks of any number of classes."""

import pytest
import torch

from network import resnet38_aff, resnet38_contrast, resnet38_contrast_eps
from network.baselines import BASELINES
from network.class_check import check_classes, without_other_classes
from network.weights import find_net, net_for_training, net_from_checkpoint
from tool.files.checkpoints import load_checkpoint, save_checkpoint
from tool.method.class_set import ClassSet
from tool.run.errors import UserError
from voc12.classes import VOC

SMALL = 1 / 32
PETS, TOOLS = ClassSet.of(['cat', 'dog', 'cow']), ClassSet.of(['saw', 'axe', 'rope'])
SEAM = 'network.resnet38_contrast'


@pytest.fixture
def saved(tmp_path):
    """saved(classes): a SEAM checkpoint of these classes; None: as published, without names."""

    def save(classes, num_classes=None):
        path = str(tmp_path / 'seam.pth')
        net = resnet38_contrast.Net(SMALL, num_classes=num_classes or (classes or VOC).num_classes)
        save_checkpoint(path, net.state_dict(), classes)
        return path

    return save


@pytest.mark.parametrize('num_classes', [2, 4, 81])
def test_networks_of_any_number_of_classes(num_classes):
    x = torch.randn(1, 3, 64, 72)
    with torch.no_grad():
        seam = resnet38_contrast.Net(SMALL, num_classes=num_classes).eval()
        cam, cam_rv, _, cam_rv_down = seam(x)
        assert cam.shape == cam_rv.shape == (1, num_classes, 64, 72)
        assert cam_rv_down.shape == (1, num_classes, 8, 9) and seam.bg_index == 0
        eps = resnet38_contrast_eps.Net(SMALL, num_classes=num_classes).eval()
        pred, cam, _, cam_rv, _ = eps(x)
        assert pred.shape == (1, num_classes) and cam_rv.shape == (1, num_classes, 8, 9)
        assert eps.bg_index == num_classes - 1
        foreground = cam_rv[:, :-1].amax(1)
    assert BASELINES['eps'].for_classes(num_classes).bg_index == num_classes - 1
    assert BASELINES['seam'].for_classes(num_classes).bg_index == 0
    assert BASELINES['eps'].bg_index == 20 and foreground.shape == (1, 8, 9)


def test_voc_is_the_default():
    assert resnet38_contrast.Net(SMALL).fc8.out_channels == 21
    assert resnet38_contrast_eps.Net(SMALL).bg_index == 20
    torch.manual_seed(3)
    before = resnet38_contrast.Net(SMALL).state_dict()
    torch.manual_seed(3)
    after = net_for_training(SEAM, 'scratch', SMALL, [].append).state_dict()
    assert torch.equal(before['fc8.weight'], after['fc8.weight'])


def test_a_checkpoint_of_the_same_classes_loads(saved):
    net = net_from_checkpoint(SEAM, saved(PETS), classes=PETS)
    assert net.fc8.out_channels == 4
    assert net_from_checkpoint(SEAM, saved(None)).fc8.out_channels == 21  # as published
    assert net_from_checkpoint(SEAM, saved(VOC)).fc8.out_channels == 21


@pytest.mark.parametrize(
    'of, data, parts',
    [
        (PETS, TOOLS, ['3 classes (cat, dog, cow)', '3 classes (saw, axe, rope)', 'class 1 is']),
        (PETS, VOC, ['3 classes (cat, dog, cow)', '20 classes (aeroplane, bicycle, bird, …)']),
        (None, PETS, ['is of 20 classes (aeroplane', 'the data are of 3 classes (cat, dog, cow)']),
        (VOC, PETS, ['is of 20 classes (aeroplane', 'the data are of 3 classes (cat, dog, cow)']),
    ],
)
def test_a_checkpoint_of_other_classes_is_refused_in_one_line(saved, of, data, parts):
    path = saved(of)
    with pytest.raises(UserError) as error:
        net_from_checkpoint(SEAM, path, classes=data)
    line = str(error.value)
    assert line.startswith(path) and '\n' not in line and all(part in line for part in parts)


def test_names_and_rows_that_differ_are_refused(saved):
    with pytest.raises(UserError, match='fc8.weight is of 4 classes.*carries no class names'):
        check_classes(load_checkpoint(saved(None, 4)), 'w.pth', PETS)
    with pytest.raises(UserError, match='fc8.weight is of 7 classes.*it names 3 classes'):
        check_classes(load_checkpoint(saved(PETS, 7)), 'w.pth', PETS)


def test_affinity_net_has_no_class_layer_but_carries_names(tmp_path):
    path = str(tmp_path / 'aff.pth')
    save_checkpoint(path, resnet38_aff.Net(SMALL).state_dict(), PETS)
    net_from_checkpoint('network.resnet38_aff', path, classes=PETS)
    with pytest.raises(UserError, match='class 1 is cat in one and saw in the other'):
        net_from_checkpoint('network.resnet38_aff', path, classes=TOOLS)


def test_training_starts_from_other_classes_without_their_class_map(saved):
    path, said = saved(PETS), []
    state = load_checkpoint(path)
    assert without_other_classes(state, path, PETS) is state
    assert set(state) - set(without_other_classes(state, path, TOOLS)) == {'fc8.weight'}
    same = net_for_training(SEAM, path, say=said.append, classes=PETS)
    assert torch.equal(same.fc8.weight, state['fc8.weight'])
    other = net_for_training(SEAM, path, say=said.append, classes=TOOLS)
    assert other.fc8.out_channels == 4
    assert not torch.equal(other.fc8.weight, state['fc8.weight'])
    assert torch.equal(other.conv1a.weight, state['conv1a.weight'])
    assert 'fc8' not in said[0] and 'initialised anew: fc8' in said[1]


def test_a_network_of_21_classes_only_is_named(monkeypatch):
    make = find_net(SEAM)

    class Fixed(make):
        def __init__(self, width: float = 1.0):
            super().__init__(width)

    monkeypatch.setattr(resnet38_contrast, 'Net', Fixed)
    with pytest.raises(UserError, match='is made for 21 classes, the data have 4; give its Net'):
        net_for_training(SEAM, 'scratch', SMALL, [].append, classes=PETS)
