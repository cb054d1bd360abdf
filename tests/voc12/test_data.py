"""voc12/data.py: the data sets of the CAM stage."""

import numpy as np
import pytest
import torch
from PIL import Image

from mini import make_voc
from tool.files.lists import read_labels
from tool.files.pictures import image_size, read_mask
from tool.run.errors import UserError
from voc12.classes import VOC
from voc12.data import (
    Crops,
    MultiScaleSet,
    TrainSet,
    check_saliency,
    pick_labels,
    read_saliency,
)


@pytest.fixture
def voc(tmp_path):
    names = make_voc(tmp_path)
    return (
        str(tmp_path),
        names,
        pick_labels(read_labels(str(tmp_path / 'cls_labels.npy'), VOC), names, 'cls_labels.npy'),
    )


def test_sample_depends_on_seed_epoch_and_index_alone(voc):
    root, names, labels = voc
    sets = [TrainSet(root, names, labels, Crops(64, seed)) for seed in (0, 0, 1)]
    assert torch.equal(sets[0][3, 1]['image'], sets[1][3, 1]['image'])
    assert not torch.equal(sets[0][3, 1]['image'], sets[0][4, 1]['image'])
    assert not torch.equal(sets[0][3, 1]['image'], sets[2][3, 1]['image'])
    assert (
        sets[0][0, 0]['image'].shape == (3, 64, 64)
        and sets[0][0, 0]['label'].tolist() == labels[0].tolist()
    )


def test_saliency_follows_its_picture(voc):
    """Where the picture is made of its own saliency map, the two crops show the same."""
    root, names, labels = voc
    for name in names:
        mask = read_mask(f'{root}/SegmentationClass/{name}.png', VOC)
        Image.fromarray(np.repeat((mask > 0)[..., None] * 255, 3, 2).astype(np.uint8)).save(
            f'{root}/JPEGImages/{name}.jpg', quality=95
        )
    dataset, seen = TrainSet(root, names, labels, Crops(64, 0), f'{root}/SALImages'), 0
    for epoch in range(6):
        for index in range(len(names)):
            sample = dataset[epoch, index]
            assert sample['saliency'].shape == (1, 64, 64) and sample['saliency'].max() <= 1
            picture, saliency = sample['image'].mean(0), sample['saliency'][0] > 0.5
            if saliency.sum() > 50:
                bright = (
                    picture > (picture[saliency].mean() + max(0, picture[~saliency].mean())) / 2
                )
                assert (bright == saliency).float().mean() > 0.97
                seen += 1
    assert seen > 12


def test_long_side_follows_the_crop_size_unless_given():
    assert Crops(448, seed=0).long_side_limits() == (448, 768)
    assert Crops(321, seed=0).long_side_limits() == (321, 550)
    assert Crops(321, seed=0, long_side=(256, 448)).long_side_limits() == (256, 448)


def test_a_picture_smaller_than_the_crop_lies_whole_on_zeros(voc):
    """Pictures whose long side is resized to 40 pixels, in crops of 64."""
    root, names, labels = voc
    crops = Crops(64, seed=0, long_side=(40, 40))
    dataset = TrainSet(root, names, labels, crops, f'{root}/SALImages')
    corners = set()
    for epoch in range(8):
        sample = dataset[epoch, 0]  # the picture has 101×80 pixels, resized 40×32
        is_picture = (sample['image'] != 0).any(0)
        rows = is_picture.any(1).nonzero()[:, 0]
        columns = is_picture.any(0).nonzero()[:, 0]
        assert sample['image'].shape == (3, 64, 64)
        assert len(rows) == rows[-1] - rows[0] + 1 == 32
        assert len(columns) == columns[-1] - columns[0] + 1 == 40
        assert sample['saliency'].max() > 0.9
        assert (sample['saliency'][0][~is_picture] == 0).all()
        corners.add((rows[0].item(), columns[0].item()))
    assert len(corners) > 4


def test_long_side_decides_the_size_of_the_picture_in_the_crop(voc):
    root, names, labels = voc
    dataset = TrainSet(root, names, labels, Crops(64, seed=0, long_side=(33, 48)))
    widths = []
    for epoch in range(60):
        is_picture = (dataset[epoch, 0]['image'] != 0).any(0)
        widths.append(is_picture.any(0).sum().item())
    assert min(widths) == 33 and max(widths) == 48


def test_saliency_is_checked_before_training(voc):
    root, names, _ = voc
    check_saliency(f'{root}/SALImages', root, names)
    with pytest.raises(UserError, match='nowhere: no such folder'):
        check_saliency(f'{root}/nowhere', root, names)
    path = f'{root}/SALImages/{names[1]}.png'
    Image.new('L', (10, 10)).save(path)
    with pytest.raises(
        UserError, match=f'{names[1]}.png: saliency map is 10x10, the picture is 96x87'
    ):
        check_saliency(f'{root}/SALImages', root, names)
    Image.new('RGB', (96, 87)).save(path)
    with pytest.raises(
        UserError, match=f'{names[1]}.png: must be an 8-bit grey or palette PNG, this one is RGB'
    ):
        check_saliency(f'{root}/SALImages', root, names)


def test_scales_of_a_turned_picture(voc):
    root, names, labels = voc
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new('RGB', (70, 50)).save(f'{root}/JPEGImages/{names[0]}.jpg', exif=exif)
    sample = MultiScaleSet(root, names, labels, [0.5, 1])[0]
    assert sample['size'] == (70, 50)
    assert [picture.shape for picture in sample['pictures']] == [(35, 25, 3), (70, 50, 3)]
    check_saliency(f'{root}/SALImages', root, names[1:])
    with pytest.raises(UserError, match='saliency map is 101x80, the picture is 50x70'):
        check_saliency(f'{root}/SALImages', root, names)


def test_a_picture_at_every_scale_is_handed_over_as_bytes(voc):
    root, names, labels = voc
    item = MultiScaleSet(root, names, labels, [0.5, 1.0])[2]
    assert item['name'] == names[2] and item['size'] == (94, 91) and item['classes'] == [0, 11]
    assert [tuple(picture.shape) for picture in item['pictures']] == [(47, 46, 3), (94, 91, 3)]
    assert {picture.dtype for picture in item['pictures']} == {torch.uint8}
    original = Image.open(f'{root}/JPEGImages/{names[2]}.jpg').convert('RGB')
    np.testing.assert_array_equal(item['pictures'][1], np.asarray(original))


def test_pictures_without_labels(voc):
    root, names, labels = voc
    with_labels = MultiScaleSet(root, names, labels, [1.0])[2]
    item = MultiScaleSet(root, names, None, [1.0])[2]
    assert set(with_labels) - set(item) == {'classes'}
    assert (item['pictures'][0] == with_labels['pictures'][0]).all()


def test_name_without_a_label_is_named():
    with pytest.raises(UserError, match='cls_labels.npy: no label for b'):
        pick_labels({'a': np.zeros(20, np.float32)}, ['a', 'b'], 'cls_labels.npy')


def test_saliency_of_0_and_1_is_refused(tmp_path):
    path = str(tmp_path / 'a.png')
    Image.fromarray(np.uint8([[0, 1], [1, 0]])).save(path)
    with pytest.raises(UserError, match='a.png: holds only 0 and 1.*multiply the maps by 255'):
        read_saliency(path)
    for values in ([[0, 0]], [[0, 1, 255]]):  # nothing salient; a map as it should be
        Image.fromarray(np.uint8(values)).save(path)
        assert np.asarray(read_saliency(path)).tolist() == values


def test_saliency_maps_that_are_all_black_are_refused(voc):
    root, names, _ = voc
    maps = f'{root}/SALImages'
    for name in names:
        size = image_size(f'{root}/JPEGImages/{name}.jpg')
        Image.fromarray(np.zeros(size, np.uint8)).save(f'{maps}/{name}.png')
    with pytest.raises(UserError, match='the saliency maps of all 4 pictures are black'):
        check_saliency(maps, root, names)
    check_saliency(maps, root, names[:1])  # a single picture may show nothing
    Image.fromarray(np.full(size, 200, np.uint8)).save(f'{maps}/{names[-1]}.png')
    check_saliency(maps, root, names)
