"""tool.export: the command, its inputs and what it refuses. tests/files/annotations/ reads the
formats back."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tool.files.pictures import read_mask, write_mask
from tool.method.class_set import IGNORE, ClassSet

COMMAND = 'tool.export'
CLASSES = ('chat', 'voiture à bras', '猫')
# {name: (file of the picture, its EXIF orientation, size (H, W) of the turned picture)}
PICTURES = {
    'a': ('a.jpg', 1, (20, 30)),
    'my cat': ('my cat.PNG', 1, (24, 16)),
    'turned': ('turned.jpeg', 6, (30, 20)),
}


def make_mask(size):
    """Objects of 12, 6 and 1 pixels, and three ignored pixels."""
    mask = np.zeros(size, np.uint8)
    mask[2:5, 2:6] = 1
    mask[8:10, 4:7] = 2
    mask[0, -1] = 3
    mask[12, 3:6] = IGNORE
    return mask


@pytest.fixture
def data(tmp_path):
    """A data folder of three pictures with masks in data/masks."""
    folder = tmp_path / 'data'
    (folder / 'JPEGImages').mkdir(parents=True)
    for name, (file, orientation, size) in PICTURES.items():
        height, width = size if orientation == 1 else size[::-1]
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new('RGB', (width, height)).save(folder / 'JPEGImages' / file, exif=exif)
        write_mask(str(folder / 'masks' / f'{name}.png'), make_mask(size))
    (folder / 'classes.txt').write_text('\n'.join(CLASSES), encoding='utf-8')
    return folder


def flags(data, to, out, *more):
    return ('--masks', data / 'masks', '--to', to, '--out', out, *more)


def read_json(path):
    return json.loads(path.read_text(encoding='utf-8'))


def coco_mask(file, image_id):
    """The mask of a picture that pycocotools reads."""
    image = file.loadImgs(image_id)[0]
    mask = np.zeros((image['height'], image['width']), np.uint8)
    for annotation in file.loadAnns(file.getAnnIds(image_id)):
        mask[file.annToMask(annotation) == 1] = annotation['category_id']
    return mask


def test_a_device_is_written_to_without_overwrite_and_not_replaced(data, tmp_path, run):
    # a terminal of its own: a mistake here must not replace a device of this machine
    keyboard, screen = os.openpty()
    link = tmp_path / 'screen'
    link.symlink_to(os.ttyname(screen))
    (tmp_path / 'list.txt').write_text('a\n')
    code, _, err = run(COMMAND, *flags(data, 'coco', link, '--list', tmp_path / 'list.txt'))
    assert code == 0, err
    written = json.loads(os.read(keyboard, 100_000))
    assert [image['file_name'] for image in written['images']] == ['a.jpg']
    assert link.is_symlink() and link.is_char_device()
    os.close(keyboard)
    os.close(screen)


def test_coco_with_the_files_and_sizes_of_the_pictures(data, tmp_path, run):
    out = tmp_path / 'new folder' / 'masks.json'
    code, printed, _ = run(COMMAND, *flags(data, 'coco', out))
    assert code == 0
    assert printed.splitlines() == [
        f'3 masks, 9 objects (chat, voiture à bras, 猫): {out}',
        '9 pixels of 255 (ignore) are exported as nothing, which is background',
    ]
    file = COCO(str(out))
    images = file.loadImgs([1, 2, 3])
    assert [image['file_name'] for image in images] == [item[0] for item in PICTURES.values()]
    assert [category['name'] for category in file.loadCats([1, 2, 3])] == list(CLASSES)
    for image_id, (_, _, size) in enumerate(PICTURES.values(), 1):
        mask = make_mask(size)
        mask[mask == IGNORE] = 0
        assert np.array_equal(coco_mask(file, image_id), mask)


def test_labelme_beside_the_pictures(data, run):
    code, _, _ = run(COMMAND, *flags(data, 'labelme', data / 'JPEGImages'))
    assert code == 0
    for file, _, size in PICTURES.values():
        content = read_json((data / 'JPEGImages' / file).with_suffix('.json'))
        assert content['imagePath'] == file
        assert (content['imageHeight'], content['imageWidth']) == size
        assert [shape['label'] for shape in content['shapes']] == list(CLASSES)


def test_labelme_in_a_folder_that_is_a_link(data, tmp_path, run):
    (tmp_path / 'far' / 'away').mkdir(parents=True)
    (tmp_path / 'link').symlink_to(tmp_path / 'far' / 'away')
    code, _, _ = run(COMMAND, *flags(data, 'labelme', tmp_path / 'link'))
    assert code == 0
    path = read_json(tmp_path / 'link' / 'a.json')['imagePath']
    assert (tmp_path / 'link' / path).samefile(data / 'JPEGImages' / 'a.jpg')


def test_cvat(data, tmp_path, run):
    code, _, _ = run(COMMAND, *flags(data, 'cvat', tmp_path / 'a.zip'))
    assert code == 0
    with zipfile.ZipFile(tmp_path / 'a.zip') as archive:
        names = archive.read('ImageSets/Segmentation/default.txt').decode().splitlines()
        content = archive.read('SegmentationClass/turned.png')
    assert names == list(PICTURES)
    colours = ClassSet.of(CLASSES).colour_map
    mask = make_mask((30, 20))
    mask[mask == IGNORE] = 0
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), colours[mask])


def test_labelstudio(data, tmp_path, run):
    code, _, _ = run(COMMAND, *flags(data, 'labelstudio', tmp_path / 'out'))
    assert code == 0
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'labels.xml',
        'tasks.json',
    ]
    tasks = read_json(tmp_path / 'out' / 'tasks.json')
    assert [task['data']['image'] for task in tasks] == [
        '/data/local-files/?d=JPEGImages/a.jpg',
        '/data/local-files/?d=JPEGImages/my%20cat.PNG',
        '/data/local-files/?d=JPEGImages/turned.jpeg',
    ]
    result = tasks[2]['predictions'][0]['result'][0]
    assert (result['original_height'], result['original_width']) == (30, 20)
    more = ('--url_prefix', 'https://host/p/', '--overwrite')
    run(COMMAND, *flags(data, 'labelstudio', tmp_path / 'out', *more))
    tasks = read_json(tmp_path / 'out' / 'tasks.json')
    assert tasks[1]['data']['image'] == 'https://host/p/my%20cat.PNG'


def test_small_objects_become_background(data, tmp_path, run):
    code, printed, _ = run(COMMAND, *flags(data, 'coco', tmp_path / 'a.json', '--min_area', 7))
    assert code == 0
    assert printed.splitlines()[:2] == [
        f'3 masks, 3 objects (chat): {tmp_path}/a.json',
        '6 objects of fewer than 7 pixels became background: 21 pixels',
    ]
    file = COCO(str(tmp_path / 'a.json'))
    assert np.array_equal(coco_mask(file, 1), make_mask((20, 30)) == 1)


def test_a_list_and_masks_far_from_the_pictures(data, tmp_path, run):
    """--images and --classes_txt, and --voc12_root for both."""
    (data / 'masks').rename(tmp_path / 'masks')
    (tmp_path / 'list.txt').write_text('my cat.png\n')
    common = ('--masks', tmp_path / 'masks', '--list', tmp_path / 'list.txt')
    images = ('--images', data / 'JPEGImages', '--classes_txt', data / 'classes.txt')
    for number, source in enumerate([images, ('--voc12_root', data)]):
        out = tmp_path / f'{number}.json'
        code, _, _ = run(COMMAND, *common, *source, '--to', 'coco', '--out', out)
        assert code == 0
        content = read_json(out)
        assert [image['file_name'] for image in content['images']] == ['my cat.PNG']
        assert [item['name'] for item in content['categories']] == list(CLASSES)


def test_without_pictures_and_classes(data, tmp_path, run, refused):
    """Pictures are <name>.jpg and classes are VOC's, except where a format needs the pictures."""
    (data / 'masks').rename(tmp_path / 'masks')
    code, printed, _ = run(COMMAND, *flags(tmp_path, 'coco', tmp_path / 'a.json'))
    assert code == 0 and '(aeroplane, bicycle, bird)' in printed
    content = read_json(tmp_path / 'a.json')
    assert [image['file_name'] for image in content['images']] == [
        'a.jpg',
        'my cat.jpg',
        'turned.jpg',
    ]
    for to in ('labelme', 'labelstudio'):
        refused(COMMAND, flags(tmp_path, to, tmp_path / 'out'), f'--to {to}', '--images')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('polygons', [False, True])
def test_from_coco_makes_the_masks_again(data, tmp_path, run, polygons):
    more = ('--polygons',) if polygons else ()
    assert run(COMMAND, *flags(data, 'coco', tmp_path / 'a.json', *more))[0] == 0
    code, _, _ = run(
        'voc12.from_coco',
        *('--annotations', tmp_path / 'a.json', '--images', data / 'JPEGImages'),
        *('--list', 'all', '--overlap', 'last', '--out', tmp_path / 'coco', '--jobs', 0),
    )
    assert code == 0
    for name, (_, _, size) in PICTURES.items():
        mask = make_mask(size)
        mask[mask == IGNORE] = 0
        path = str(tmp_path / 'coco' / 'SegmentationClass' / f'{name}.png')
        assert np.array_equal(read_mask(path, ClassSet.of(CLASSES)), mask)


@pytest.mark.parametrize('to', ['coco', 'labelme', 'cvat', 'labelstudio'])
def test_nothing_is_written_when_a_file_is_wrong(data, tmp_path, refused, to):
    last = data / 'masks' / 'turned.png'
    out = tmp_path / 'out' / 'masks'
    good = last.read_bytes()
    last.write_bytes(good[:40])
    refused(COMMAND, flags(data, to, out), 'turned.png: damaged')
    write_mask(str(last), make_mask((20, 30)))
    refused(COMMAND, flags(data, to, out), 'turned.png: is 30x20, the picture is 20x30')
    write_mask(str(last), make_mask((30, 20)) + 1)
    refused(COMMAND, flags(data, to, out), 'turned.png: holds value 4')
    last.write_bytes(good)
    (data / 'JPEGImages' / 'turned.jpeg').unlink()
    refused(COMMAND, flags(data, to, out), 'turned.jpg: no such file', 'of the 3 masks, 1')
    assert not out.parent.exists()


@pytest.mark.parametrize('to', ['coco', 'cvat'])
def test_a_picture_is_never_replaced(data, tmp_path, refused, to):
    picture = data / 'JPEGImages' / 'a.jpg'
    content = picture.read_bytes()
    refused(COMMAND, flags(data, to, picture, '--overwrite'), 'lies in --images', 'another --out')
    assert picture.read_bytes() == content


@pytest.mark.parametrize('to', ['coco', 'labelme', 'cvat', 'labelstudio'])
def test_what_is_there_is_kept(data, tmp_path, run, refused, to):
    out = tmp_path / 'out'
    assert run(COMMAND, *flags(data, to, out))[0] == 0
    files = [out] if out.is_file() else sorted(out.iterdir())
    made = [path.read_bytes() for path in files]
    for path in files:
        path.write_text('corrected by hand')
    refused(COMMAND, flags(data, to, out), out, 'already there', '--overwrite')
    assert all(path.read_text() == 'corrected by hand' for path in files)
    assert run(COMMAND, *flags(data, to, out, '--overwrite'))[0] == 0
    assert [path.read_bytes() for path in files] == made


def test_too_many_objects_for_cvat(data, tmp_path, run, refused):
    """The message says which --min_area suits all masks."""
    mask = np.zeros((8, 400), np.uint8)
    mask[0, :200:2] = 1  # 100 objects of one pixel
    mask[2:4, ::2] = 1  # 200 of two pixels
    mask[5:8, :200:2] = 1  # 100 of three pixels
    write_mask(str(data / 'masks' / 'my cat.png'), mask)
    Image.new('RGB', (400, 8)).save(data / 'JPEGImages' / 'my cat.PNG')
    out = tmp_path / 'a.zip'
    parts = ('my cat.png: has 400 objects', 'of the 3 masks, 1 have more', '--min_area 3 is')
    refused(COMMAND, flags(data, 'cvat', out), *parts)
    refused(COMMAND, flags(data, 'cvat', out, '--min_area', 2), 'has 300', '--min_area 3 is')
    assert not out.exists()
    code, printed, _ = run(COMMAND, *flags(data, 'cvat', out, '--min_area', 3))
    # of each of the two other masks the two larger objects are kept
    assert code == 0 and printed.startswith('3 masks, 104 objects')


def test_what_is_refused(data, tmp_path, refused):
    out = tmp_path / 'out'
    refused(COMMAND, flags(data, 'coco', out, '--min_area', 0), '--min_area')
    refused(COMMAND, flags(data, 'cvat', out, '--polygons'), '--polygons', 'cvat has masks only')
    refused(COMMAND, flags(data, 'coco', out, '--url_prefix', 'x'), '--url_prefix')
    refused(COMMAND, flags(data, 'yolo', out), '--to')
    refused(COMMAND, flags(data, 'coco', data), f'{data}: is a folder')
    refused(COMMAND, flags(data, 'labelme', data / 'classes.txt'), 'classes.txt: is a file')
    refused(COMMAND, flags(tmp_path, 'coco', out), f'{tmp_path}/masks: no such folder')
    refused(COMMAND, flags(data, 'coco', out, '--images', out), f'{out}: no such folder')
    (data / 'list.txt').write_text('a\nb\n')
    lists = ('--list', data / 'list.txt')
    refused(COMMAND, flags(data, 'coco', out, *lists), 'b.png: no such file')
    (tmp_path / 'masks').mkdir()
    refused(COMMAND, flags(tmp_path, 'coco', out), 'holds no masks')
    assert not out.exists()
