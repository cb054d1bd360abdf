"""voc12/from_coco.py: masks are what pycocotools decodes, by the rule that was asked for."""

import json

import numpy as np
import pytest
from coco_format import annotation, rectangle
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from tool.files.lists import read_labels, read_list
from tool.files.pictures import image_size, read_mask
from tool.run.errors import UserError
from voc12.from_coco import Annotation, region
from voc12.layout import class_set

COMMAND = 'voc12.from_coco'
HEIGHT, WIDTH = 40, 60
# ids with gaps and out of order, as files of this format may have them
CATEGORIES = [{'id': 7, 'name': 'traffic light'}, {'id': 3, 'name': 'cat'}, {'id': 90, 'name': 'b'}]
MASK_VALUE = {7: 1, 3: 2, 90: 3}


def crowd_region(top, bottom):
    """A run-length encoding without compression, as COCO's crowds have it."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[top:bottom] = 1
    flat = pixels.flatten(order='F')
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    counts = [0, *runs] if flat[0] else runs
    return {'size': [HEIGHT, WIDTH], 'counts': counts}


def compressed(top, bottom):
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order='F')
    pixels[top:bottom] = 1
    encoded = coco.encode(pixels)
    return {'size': encoded['size'], 'counts': encoded['counts'].decode()}


ANNOTATIONS = [
    # a small one first, then a large one over it, in the file's order
    annotation(1, 10, 3, rectangle(10, 10, 20, 20), 100),
    annotation(2, 10, 7, rectangle(5, 5, 40, 30), 875),
    annotation(3, 10, 90, crowd_region(25, 40), 15 * WIDTH, crowd=1),
    annotation(4, 11, 90, compressed(0, 8), 8 * WIDTH),
    annotation(5, 11, 7, rectangle(0.5, 2.5, 33.3, 20.7) + rectangle(40, 20, 50, 35), 700),
    annotation(6, 12, 3, crowd_region(0, 3), 3 * WIDTH, crowd=1),
]


def write_data(folder, split='train', first=10, annotations=ANNOTATIONS, count=4):
    """A file of annotations of `count` pictures and the pictures; the last has no annotation."""
    images = folder / f'{split} pictures'
    images.mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(first, first + count):
        name = f'COCO_{split}_{number:012d}.jpg'
        Image.new('RGB', (WIDTH, HEIGHT), (number, 9, 9)).save(images / name)
        entry = {'id': number, 'file_name': name, 'height': HEIGHT, 'width': WIDTH}
        entries.append(entry)
    content = {'images': entries, 'annotations': annotations, 'categories': CATEGORIES}
    path = folder / f'instances {split}.json'
    path.write_text(json.dumps(content))
    return path, images


def flags(folder, *more, pictures='annotated', overlap='last'):
    return (
        *('--annotations', folder / 'instances train.json', '--images', folder / 'train pictures'),
        *('--out', folder / 'data', '--list', pictures, '--overlap', overlap, '--jobs', 0, *more),
    )


def name_of(number, split='train'):
    return f'COCO_{split}_{number:012d}'


def expected_mask(api, image, overlap, crowd):
    """The mask, pixel by pixel, from the regions that pycocotools' own API decodes."""
    annotations = api.loadAnns(api.getAnnIds(imgIds=[image]))
    regions = {entry['id']: api.annToMask(entry) for entry in annotations}
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            here = [entry for entry in annotations if regions[entry['id']][y, x]]
            objects = [entry for entry in here if crowd == 'in' or not entry['iscrowd']]
            if objects and overlap == 'last':
                mask[y, x] = MASK_VALUE[objects[-1]['category_id']]
            elif objects:
                smallest = min(objects, key=lambda entry: entry['area'])
                mask[y, x] = MASK_VALUE[smallest['category_id']]
            elif here:
                mask[y, x] = 255
    return mask


@pytest.mark.parametrize('overlap', ['last', 'small'])
@pytest.mark.parametrize('crowd', ['out', 'in'])
def test_masks_are_those_of_pycocotools(tmp_path, run, overlap, crowd):
    path, _ = write_data(tmp_path)
    code, out, _ = run(COMMAND, *flags(tmp_path, '--crowd', crowd, overlap=overlap))
    assert code == 0
    api = COCO(str(path))
    data = tmp_path / 'data'
    for image in (10, 11, 12):
        expected = expected_mask(api, image, overlap, crowd)
        for folder in ('SegmentationClass', 'SegmentationClassAug'):
            mask = read_mask(str(data / folder / f'{name_of(image)}.png'), class_set(str(data)))
            np.testing.assert_array_equal(mask, expected)
    first = read_mask(str(data / 'SegmentationClass' / f'{name_of(10)}.png'), class_set(str(data)))
    assert first[15, 15] == {'last': 1, 'small': 2}[overlap]
    assert first[35, 50] == {'out': 255, 'in': 3}[crowd]
    assert first[27, 30] == {('last', 'in'): 3}.get((overlap, crowd), 1)
    rule = json.loads((data / 'masks.json').read_text())
    assert (rule['list'], rule['overlap'], rule['crowd']) == ('annotated', overlap, crowd)
    assert out.splitlines()[-1] == f'masks: {rule["rule"]}'


@pytest.mark.parametrize('pictures, numbers', [('annotated', '10 11 12'), ('all', '10 11 12 13')])
@pytest.mark.parametrize('jobs', [0, 2])
def test_lists_labels_and_classes(tmp_path, run, pictures, numbers, jobs):
    write_data(tmp_path)
    more = ('--val', 0, '--jobs', jobs)
    assert run(COMMAND, *flags(tmp_path, *more, pictures=pictures))[0] == 0
    data = tmp_path / 'data'
    assert class_set(str(data)).foreground == ('traffic light', 'cat', 'b')
    labels = read_labels(str(data / 'lists' / 'cls_labels.npy'), class_set(str(data)))
    names = [name_of(int(number)) for number in numbers.split()]
    assert read_list(str(data / 'lists' / 'train.txt')) == names == list(labels)
    assert labels[name_of(10)].tolist() == [1, 1, 1]
    assert labels[name_of(12)].tolist() == [0, 1, 0]  # only a crowd
    if pictures == 'all':
        assert not labels[name_of(13)].any()
        mask = read_mask(
            str(data / 'SegmentationClass' / f'{name_of(13)}.png'), class_set(str(data))
        )
        assert not mask.any()


def test_val_annotations_make_the_list_val(tmp_path, run, refused):
    write_data(tmp_path)
    of_val = [annotation(1, 20, 7, rectangle(1, 1, 9, 9), 64)]
    path, images = write_data(tmp_path, 'val', 20, of_val, 2)
    more = ('--val_annotations', path, '--val_images', images)
    assert run(COMMAND, *flags(tmp_path, *more))[0] == 0
    data = tmp_path / 'data'
    assert read_list(str(data / 'lists' / 'val.txt')) == [name_of(20, 'val')]
    assert len(read_list(str(data / 'lists' / 'train_aug.txt'))) == 3
    same = ('--val_annotations', tmp_path / 'instances train.json', '--overwrite')
    refused(COMMAND, flags(tmp_path, *same), 'no picture in common')


def test_eval_names_the_rule(tmp_path, run, refused):
    write_data(tmp_path)
    assert run(COMMAND, *flags(tmp_path, '--val', 0))[0] == 0
    data = tmp_path / 'data'
    score = ('--list', data / 'lists' / 'train.txt', '--jobs', 0)
    score += ('--gt_dir', data / 'SegmentationClass', '--predict_dir', data / 'SegmentationClass')
    code, out, _ = run('eval', *score)
    assert code == 0
    lines = [line for line in out.splitlines() if 'later annotations over earlier ones' in line]
    assert len(lines) == 1 and 'crowd regions are 255' in lines[0]
    (data / 'masks.json').write_text('{}')
    refused('eval', score, 'masks.json', 'make it again or remove it')


def test_the_same_command_makes_the_same_and_another_rule_is_refused(tmp_path, run, refused):
    write_data(tmp_path)
    assert run(COMMAND, *flags(tmp_path))[0] == 0
    path = tmp_path / 'data' / 'SegmentationClass' / f'{name_of(10)}.png'
    before = path.read_bytes()
    assert run(COMMAND, *flags(tmp_path))[0] == 0 and path.read_bytes() == before
    refused(COMMAND, flags(tmp_path, overlap='small'), 'overlap = last, now overlap = small')
    assert run(COMMAND, *flags(tmp_path, '--overwrite', overlap='small'))[0] == 0
    assert path.read_bytes() != before


def test_bad_pictures_and_regions_are_listed_and_nothing_is_written(tmp_path, run, refused):
    broken = [*ANNOTATIONS[:5], annotation(6, 12, 3, [[1, 2]], 5)]
    _, images = write_data(tmp_path, annotations=[*broken, annotation(7, 13, 3, None, 5)])
    (images / f'{name_of(10)}.jpg').unlink()
    refused(COMMAND, flags(tmp_path), 'names 3 files')
    data = tmp_path / 'data'
    assert [path.name for path in data.iterdir()] == ['bad_files.txt']
    text = (data / 'bad_files.txt').read_text()
    assert f'{name_of(10)}.jpg: no such file; check --images' in text
    assert f'{name_of(12)}.jpg: the segmentation of annotation 6 cannot be decoded' in text
    assert 'annotation 7' in text
    assert run(COMMAND, *flags(tmp_path, '--skip_bad', '--val', 0))[0] == 0
    assert read_list(str(data / 'lists' / 'train.txt')) == [name_of(11)]


def test_the_annotations_are_of_the_turned_picture(tmp_path, run, refused):
    _, images = write_data(tmp_path)
    path = images / f'{name_of(10)}.jpg'
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (HEIGHT, WIDTH)).save(path, exif=exif)
    assert run(COMMAND, *flags(tmp_path))[0] == 0
    assert image_size(str(tmp_path / 'data' / 'JPEGImages' / path.name)) == (HEIGHT, WIDTH)
    Image.new('RGB', (WIDTH, HEIGHT)).save(path, exif=exif)
    refused(COMMAND, flags(tmp_path), 'exiftool -Orientation=1 -n')
    problem = (tmp_path / 'data' / 'bad_files.txt').read_text()
    assert 'turns it to 40x60, and it was annotated unturned, as 60x40' in problem
    exif[0x0112] = 1
    Image.new('RGB', (WIDTH, HEIGHT)).save(path, exif=exif)
    assert run(COMMAND, *flags(tmp_path))[0] == 0
    Image.new('RGB', (HEIGHT, WIDTH)).save(path)
    refused(COMMAND, flags(tmp_path), 'take the picture that was annotated')
    problem = (tmp_path / 'data' / 'bad_files.txt').read_text()
    assert 'is 40x60, the annotations say it is 60x40' in problem


@pytest.mark.parametrize(
    'change, part',
    [
        ({'categories': None}, 'not a readable file'),
        ({'categories': []}, 'lacks'),
        ({'annotations': [annotation(1, 99, 3, [], 1)]}, 'lacks 99'),
        ({'images': [{'id': 10}]}, "lacks 'height'"),
        ({'categories': CATEGORIES + CATEGORIES[:1]}, 'two categories have the same id'),
        ({'images': [], 'annotations': []}, 'has no picture'),
    ],
)
def test_files_that_are_refused(tmp_path, refused, change, part):
    path, _ = write_data(tmp_path)
    content = json.loads(path.read_text()) | change
    if 'images' in change and change['images']:
        content['annotations'] = []
    path.write_text(json.dumps(content))
    refused(COMMAND, flags(tmp_path), 'instances train.json', part)
    path.write_text('[')
    refused(COMMAND, flags(tmp_path), 'not a readable file of COCO object annotations')
    assert not (tmp_path / 'data').exists()


# what pycocotools must not be given: it would crash the process or fill the memory
HOSTILE = {
    'a coordinate far outside': [[0, 0, 1e9, 0, 1e9, 1e9]],
    'to and fro': [[0, 0, 59, 39] * 5000],
    'infinity': [[0, 0, 1e999, 5, 5, 5]],
    'not a number': [[0, 0, float('nan'), 5, 5, 5]],
    'texts': [['a', 'b', 'c', 'd', 'e', 'f']],
    'lists in lists': [[[0, 0], [1, 1], [2, 2]]],
    'an odd number': [[0, 0, 5, 5, 9, 9, 1]],
    'a huge box': [[0, 0, 1e9, 1e9]],
    'nothing': [[]],
    'a number': [5],
    'counts that are too few': {'size': [HEIGHT, WIDTH], 'counts': [5, 5]},
    'counts that are too many': {'size': [HEIGHT, WIDTH], 'counts': [0, HEIGHT * WIDTH + 1]},
    'negative counts': {'size': [HEIGHT, WIDTH], 'counts': [-5, HEIGHT * WIDTH + 5]},
    'counts of 64 bits': {'size': [HEIGHT, WIDTH], 'counts': [0, (1 << 64) + HEIGHT * WIDTH]},
    'counts of texts': {'size': [HEIGHT, WIDTH], 'counts': ['a']},
    'a text that is no encoding': {'size': [HEIGHT, WIDTH], 'counts': 'o' * 99},
    'a text that is too long': {'size': [HEIGHT, WIDTH], 'counts': '0' * 100_000},
    'another size': {'size': [HEIGHT * 9, WIDTH * 9], 'counts': [0, HEIGHT * WIDTH * 81]},
    'no counts': {'size': [HEIGHT, WIDTH]},
}


@pytest.mark.parametrize('kind', HOSTILE)
def test_a_segmentation_that_cannot_be_drawn_is_refused(kind):
    broken = Annotation(7, 1, HOSTILE[kind], False, None)
    with pytest.raises(UserError, match='the segmentation of annotation 7 cannot be decoded'):
        region(broken, (HEIGHT, WIDTH))


def test_a_polygon_over_the_edge_of_the_picture_is_drawn():
    shape = [[-3.5, -2, WIDTH + 4, -2, WIDTH + 4, HEIGHT + 0.5, -3.5, HEIGHT]]
    assert region(Annotation(7, 1, shape, False, None), (HEIGHT, WIDTH)).all()


@pytest.mark.parametrize('seed', range(20))
def test_compressed_run_lengths_are_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    pixels = rng.random((HEIGHT, WIDTH)) < rng.choice([0, 0.01, 0.5, 0.99, 1])
    encoded = coco.encode(np.asfortranarray(pixels, np.uint8))
    segmentation = {'size': encoded['size'], 'counts': encoded['counts'].decode()}
    drawn = region(Annotation(7, 1, segmentation, True, None), (HEIGHT, WIDTH))
    np.testing.assert_array_equal(drawn, pixels)
