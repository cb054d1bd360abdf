"""Pictures and their maps stay aligned through every augmentation.

The pictures here say where their pixels were: in red the column, in green the row, in blue that
they are of the picture. The maps that belong to them say the same. So both can be compared pixel by
pixel in any sample. Colour jitter would hide what they say and moves nothing, so it is left out.
"""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

import voc12.aff_data
import voc12.data
from datasets.voc import VOCDataset
from network.views import images_of
from segmentation_toy import config_of
from tool.files.npy import write_npy
from tool.files.pictures import write_mask
from tool.method.affinity import affinity_label
from tool.method.class_set import IGNORE
from voc12.aff_data import AffinityTrainSet, WalkSet, mean_pool, padded
from voc12.data import Crops, TrainSet
from voc12.normalisation import IMAGENET, MEAN, STD

# Grey levels between neighbouring pixels in red and green, so that a column or a row is one class.
STEP = 12
SIDES = st.integers(1, 21)
SEEDS = st.integers(0, 2**32 - 1)
# How a camera stored the picture: what turns it upright, undone.
STORED = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}
ORIENTATIONS = st.sampled_from(sorted(STORED))


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch):
    for module in (voc12.data, voc12.aff_data):
        monkeypatch.setattr(module, 'color_jitter', lambda picture, rng: picture)


def coordinates(height, width):
    """Columns and rows of all pixels, uint8 [H, W] each."""
    rows, columns = np.indices((height, width), np.uint8)
    return columns, rows


def write_picture(folder, height, width, orientation=1, step=STEP):
    """Write JPEGImages/a.png that says where its pixels are, stored as a camera would."""
    columns, rows = coordinates(height, width)
    inside = np.full_like(rows, 255)
    upright = Image.fromarray(np.stack([columns * step, rows * step, inside], 2))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    STORED[orientation](upright).save(file, 'PNG', exif=exif)
    pictures = folder / 'JPEGImages'
    pictures.mkdir(exist_ok=True)
    (pictures / 'a.png').write_bytes(file.getvalue())


def colours(image):
    """Grey levels [H, W, 3] of a normalised picture [3, H, W], and where it is no canvas."""
    pixels = image.numpy().transpose(1, 2, 0)
    inside = (pixels != 0).any(2)
    return (pixels * np.float32(STD) + np.float32(MEAN)) * 255, inside


def interior(inside, margin):
    """The pixels that have a whole square of others around them, [H, W]."""
    padded = np.pad(inside, margin)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * margin + 1, 2 * margin + 1))
    return windows.all((2, 3))


# ---------------------------------------------------------------- the CAM network


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    orientation=ORIENTATIONS,
    crop=st.integers(8, 64),
    shortest=st.integers(1, 60),
    longer=st.integers(0, 40),
    seed=SEEDS,
    epoch=st.integers(0, 3),
)
def test_saliency_lies_on_its_picture(
    tmp_path, height, width, orientation, crop, shortest, longer, seed, epoch
):
    """Resized, mirrored and cropped."""
    step = 4
    write_picture(tmp_path, height, width, orientation, step)
    columns, rows = coordinates(height, width)
    maps = {'columns': columns * step, 'rows': rows * step, 'inside': np.full_like(rows, 255)}
    crops = Crops(crop, seed, (shortest, shortest + longer))
    samples = {}
    for name, levels in maps.items():
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(levels).save(tmp_path / name / 'a.png')
        labels = np.zeros((1, 20), np.float32)
        data = TrainSet(str(tmp_path), ['a'], labels, crops, str(tmp_path / name))
        samples[name] = data[epoch, 0]
    image, inside = colours(samples['inside']['image'])
    assert inside.any()
    np.testing.assert_array_equal(samples['inside']['saliency'][0] == 1, inside)
    # At the edges of the picture, the cubic filter of the picture and the linear one of the map
    # give different means.
    largest_scale = (shortest + longer) / max(height, width)
    inner = interior(inside, margin=int(np.ceil(2 * max(1, largest_scale))) + 1)
    for channel, name in enumerate(('columns', 'rows')):
        saliency = samples[name]['saliency'][0].numpy() * 255
        assert (saliency[~inside] == 0).all()
        difference = np.abs(saliency - image[..., channel])
        assert (difference[inside] <= 2 * step).all()
        assert (difference[inner] <= step / 2).all()


# ---------------------------------------------------------------- AffinityNet


def one_hot(class_ids, of_pixels, inside):
    """A map float32 [H, W] for each class id, 1 where a pixel inside the picture has it."""
    maps = [(of_pixels == class_id) & inside for class_id in class_ids]
    return np.stack(maps).astype(np.float32)


def decode(image):
    """(columns, rows, inside) that a normalised picture which was not resized says."""
    levels, inside = colours(image)
    places = np.rint(levels / STEP).astype(int)
    return places[..., 0], places[..., 1], inside


@given(
    height=SIDES,
    width=SIDES,
    orientation=ORIENTATIONS,
    crop=st.sampled_from([8, 16, 24, 32]),
    seed=SEEDS,
    epoch=st.integers(0, 3),
    as_array=st.booleans(),
)
def test_affinity_maps_lie_on_their_picture(
    tmp_path, height, width, orientation, crop, seed, epoch, as_array
):
    """Cropped, mirrored and pooled, which leaves every number as it is.

    The class of a pixel is its column in the la map, and its row in the ha map.
    """
    write_picture(tmp_path, height, width, orientation)
    everywhere = np.ones((height, width), bool)
    class_ids = list(range(21)) if as_array else list(range(max(height, width)))
    for folder, places in zip(('la', 'ha'), coordinates(height, width)):
        maps = one_hot(class_ids, places, everywhere)
        write_npy(str(tmp_path / folder / 'a.npy'), maps if as_array else dict(enumerate(maps)))
    data = AffinityTrainSet(
        str(tmp_path), ['a'], str(tmp_path / 'la'), str(tmp_path / 'ha'), crop, seed
    )
    sample = data[epoch, 0]
    columns, rows, inside = decode(sample['image'])
    assert inside.sum() == min(height, crop) * min(width, crop)
    la = mean_pool(one_hot(class_ids, columns, inside))
    ha = mean_pool(one_hot(class_ids, rows, inside))
    np.testing.assert_array_equal(sample['label'], affinity_label(la, ha))


@given(height=st.integers(1, 20), width=st.integers(1, 20), orientation=ORIENTATIONS)
def test_cams_of_the_walk_lie_on_their_picture(tmp_path, height, width, orientation):
    """Padded and pooled. The CAM of a class is 1 in one column."""
    write_picture(tmp_path, height, width, orientation)
    columns, _ = coordinates(height, width)
    cams = one_hot(range(width), columns, np.ones((height, width), bool))
    write_npy(str(tmp_path / 'cam' / 'a.npy'), dict(enumerate(cams)))
    sample = WalkSet(str(tmp_path), ['a'], str(tmp_path / 'cam'), bg_score=0.5)[0]
    image = padded(images_of([sample['picture']], IMAGENET, torch.device('cpu')))[0]
    columns, _, inside = decode(image)
    assert inside.sum() == height * width and sample['size'] == (height, width)
    expected = mean_pool(one_hot(range(width), columns, inside))
    np.testing.assert_array_equal(sample['cam'][1:], expected)
    np.testing.assert_array_equal(sample['cam'][0], mean_pool(inside[None] * np.float32(0.5))[0])


# ---------------------------------------------------------------- DeepLab


@given(
    height=SIDES,
    width=SIDES,
    orientation=ORIENTATIONS,
    crop=st.integers(1, 40),
    scales=st.sampled_from([(1, 1), (0.5, 1.5), (0.5, 0.5), (1.5, 1.5), (0.9, 1.1)]),
    seed=SEEDS,
    epoch=st.integers(0, 3),
)
def test_a_mask_lies_on_its_picture(
    tmp_path, height, width, orientation, crop, scales, seed, epoch
):
    """Mirrored, scaled and cropped. The class of a pixel is its column, then its row."""
    write_picture(tmp_path, height, width, orientation)
    config = config_of(
        'EPS_deeplabv1_resnet101',
        DATA_ROOT=str(tmp_path),
        DATA_PSEUDO_GT=str(tmp_path / 'masks'),
        DATA_RANDOM_H=0,
        DATA_RANDOM_S=0,
        DATA_RANDOM_V=0,
        DATA_RANDOMSCALE=list(scales),
        DATA_RANDOMCROP=crop,
        TRAIN_SEED=seed,
    )
    places = coordinates(height, width)
    for channel, side in enumerate((width, height)):
        write_mask(str(tmp_path / 'masks' / 'a.png'), places[channel])
        sample = VOCDataset(config, ['a'])[epoch, 0]
        levels, inside = colours(sample['image'])
        mask = sample['mask'].numpy()
        np.testing.assert_array_equal(mask != IGNORE, inside)
        difference = np.abs(levels[..., channel] / STEP - mask)[inside]
        if scales == (1, 1):
            assert (difference < 0.01).all()
            continue
        # A pixel x of the result is between the columns of the picture around (x + ½) / scale − ½.
        # OpenCV's nearest neighbour, as published, takes column floor(x / scale) of the mask.
        smallest = max(1, round(side * scales[0]))
        furthest = 0.5 + 0.5 * side / smallest
        assert (difference <= furthest + 0.2).all()  # 0.2: what a cubic filter adds at edges
