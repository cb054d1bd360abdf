"""voc12/from_folder.py: what it writes of pictures and labels, and what it refuses."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tool.files.lists import read_labels, read_list
from tool.files.picture_files import find_pictures
from tool.files.pictures import image_size, read_mask, write_mask
from voc12 import data_folder
from voc12.data_folder import Picture, draw_lists, split
from voc12.from_folder import read_table
from voc12.layout import check_images, class_set, image_path

COMMAND = 'voc12.from_folder'


def save(path, orientation=None, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new('RGB', size, (10, 200, 30)).save(path, exif=exif)


@pytest.fixture
def photos(tmp_path):
    """cat/1 … 4, dog/5 … 8 and background/9, in a folder whose name has a space."""
    root = tmp_path / 'my photos'
    for number in range(1, 10):
        folder = 'cat' if number < 5 else 'dog' if number < 9 else 'background'
        save(root / folder / f'{number}.jpg')
    return root


@pytest.fixture
def table(tmp_path):
    """table(text) writes a CSV file."""

    def write(text, name='labels.csv'):
        path = tmp_path / name
        path.write_text(text, encoding='utf-8')
        return path

    return write


def flags(photos, *more):
    return '--images', photos, '--out', photos.parent / 'data', '--jobs', 0, *more


def everything(folder):
    """{path: bytes or target of the link} of a folder."""
    found = {}
    for path in folder.rglob('*'):
        if path.is_symlink():
            found[path.relative_to(folder)] = os.readlink(path)
        elif path.is_file():
            found[path.relative_to(folder)] = path.read_bytes()
    return found


def labels_in(data):
    return read_labels(str(data / 'lists' / 'cls_labels.npy'), class_set(str(data)))


@pytest.mark.parametrize('jobs', [0, 2])
def test_by_folder(photos, run, jobs):
    data = photos.parent / 'data'
    code, out, _ = run(COMMAND, *flags(photos, '--by_folder', '--val', 0.25, '--jobs', jobs))
    assert code == 0
    assert class_set(str(data)).foreground == ('cat', 'dog')
    labels = labels_in(data)
    assert {name: label.tolist() for name, label in labels.items()} == {
        **{str(number): [1, 0] for number in range(1, 5)},
        **{str(number): [0, 1] for number in range(5, 9)},
        '9': [0, 0],
    }
    train = read_list(str(data / 'lists' / 'train.txt'))
    val = read_list(str(data / 'lists' / 'val.txt'))
    assert len(train) == 7 and len(val) == 2 and set(train) | set(val) == set(labels)
    assert sum(labels[name] for name in val).tolist() == [1, 1]
    for name, same in (('train', train), ('train_aug', train), ('trainaug', train), ('val', val)):
        assert read_list(str(data / 'ImageSets' / 'Segmentation' / f'{name}.txt')) == same
    assert read_list(str(data / 'lists' / 'train_aug.txt')) == train
    check_images(str(data), train + val)
    link = data / 'JPEGImages' / '1.jpg'
    assert os.readlink(link) == str(photos / 'cat' / '1.jpg')
    assert '1 pictures show none of the classes' in out
    assert not (data / 'bad_files.txt').exists()


def test_a_table_of_labels(photos, table, run):
    path = table(
        '\ufefffile,labels,remark\n1.jpg,tabby cat;sofa,"a, b"\ndog/5,dog,\n'
        '9.jpg,,\n7,background,\n'
    )
    code, out, _ = run(COMMAND, *flags(photos, '--labels', path, '--val', 0))
    assert code == 0
    data = photos.parent / 'data'
    assert class_set(str(data)).foreground == ('dog', 'sofa', 'tabby cat')
    assert {name: label.tolist() for name, label in labels_in(data).items()} == {
        '1': [0, 1, 1],
        '5': [1, 0, 0],
        '7': [0, 0, 0],
        '9': [0, 0, 0],
    }
    assert not (data / 'lists' / 'val.txt').exists()
    assert '5 pictures without a label were left out' in out
    assert 'cat/2.jpg' in (data / 'unlabelled.txt').read_text().splitlines()


def test_a_table_with_a_column_a_class(photos, table, run):
    path = table('zebra,file,ant\n1,1.jpg,0\n0,2.jpg,1.0\n,3.jpg,\n')
    assert run(COMMAND, *flags(photos, '--labels', path))[0] == 0
    data = photos.parent / 'data'
    assert class_set(str(data)).foreground == ('zebra', 'ant')
    assert [label.tolist() for label in labels_in(data).values()] == [[1, 0], [0, 1], [0, 0]]


def test_separator_and_order_of_classes(photos, table, run, refused):
    path = table('file,labels\n1.jpg,b|a\n')
    order = table('b\na\nc\n', 'order.txt')
    more = ('--labels', path, '--separator', '|', '--classes_txt', order)
    assert run(COMMAND, *flags(photos, *more))[0] == 0
    assert labels_in(photos.parent / 'data')['1'].tolist() == [1, 1, 0]
    order.write_text('a\n')
    refused(COMMAND, flags(photos, *more), 'order.txt', "no class 'b'")


@pytest.mark.parametrize(
    'text, part',
    [
        ('', 'must name the columns file and labels'),
        ('name,labels\n1.jpg,a\n', 'it names name, labels'),
        ('file,labels\n', 'no line besides the first'),
        ('file,labels\n1.jpg,a\n1.jpg,b\n', 'line 2 and in line 3'),
        ('file,labels\n1.jpg,a,b\n', 'line 2 has 3 cells'),
        ('file,labels\n,a\n', 'line 2 names no file'),
        ('file,a,b\n1.jpg,1,?\n', "line 2 has '?' in the column b"),
        ('file,a,a\n1.jpg,1,0\n', 'two columns have the same name'),
        ('file,labels\n1.jpg,\n', 'at least one foreground class'),
    ],
)
def test_tables_that_are_refused(photos, table, refused, text, part):
    refused(COMMAND, flags(photos, '--labels', table(text)), part)
    assert not (photos.parent / 'data').exists()


def test_bad_files_are_listed_and_nothing_is_written(photos, table, run, refused):
    (photos / 'cat' / '1.jpg').write_bytes(b'no picture')
    path = table('file,labels\n1.jpg,cat\n2.jpg,cat\n5.jpg,dog\nlost.jpg,cat\n')
    data = photos.parent / 'data'
    more = ('--labels', path)
    refused(COMMAND, flags(photos, *more), 'bad_files.txt: names 2 files', '--skip_bad')
    assert [file.name for file in data.iterdir()] == ['bad_files.txt']
    lines = (data / 'bad_files.txt').read_text().splitlines()
    assert len(lines) == 3
    for name, why in (('1.jpg', 'damaged'), ('lost.jpg', 'no such picture')):
        assert any(f'{name}: ' in line and why in line for line in lines)
    assert run(COMMAND, *flags(photos, *more, '--skip_bad'))[0] == 0
    assert set(labels_in(data)) == {'2', '5'}
    assert (data / 'bad_files.txt').exists()
    # once mended, the same command goes through and the list is gone
    save(photos / 'cat' / '1.jpg')
    save(photos / 'cat' / 'lost.jpg')
    assert run(COMMAND, *flags(photos, *more))[0] == 0
    assert set(labels_in(data)) == {'1', '2', '5', 'lost'}
    assert not (data / 'bad_files.txt').exists()


def test_masks_are_checked_and_linked(photos, run, refused):
    masks = photos / 'masks'
    masks.mkdir()
    write_mask(str(masks / '1.png'), np.full((4, 6), 2, np.uint8))
    write_mask(str(masks / '2.png'), np.full((4, 6), 3, np.uint8))
    write_mask(str(masks / '3.png'), np.full((6, 4), 1, np.uint8))
    more = ('--by_folder', '--masks', masks)
    refused(COMMAND, flags(photos, *more), 'names 2 files')
    code, out, _ = run(COMMAND, *flags(photos, *more, '--skip_bad'))
    assert code == 0 and '1 of 9 pictures have a mask' in out
    data = photos.parent / 'data'
    assert class_set(str(data)).foreground == ('cat', 'dog')
    for folder in ('SegmentationClass', 'SegmentationClassAug'):
        assert [path.name for path in (data / folder).iterdir()] == ['1.png']
        mask = read_mask(str(data / folder / '1.png'), class_set(str(data)))
        assert (mask == 2).all()


def test_a_mask_has_the_size_of_the_turned_picture(photos, run, refused):
    save(photos / 'cat' / '1.jpg', orientation=6)  # stored 6 wide and 4 high
    masks = photos / 'masks'
    masks.mkdir()
    more = ('--by_folder', '--masks', masks)
    write_mask(str(masks / '1.png'), np.ones((4, 6), np.uint8))
    refused(COMMAND, flags(photos, *more), '1.png: is 6x4, the picture is 4x6')
    write_mask(str(masks / '1.png'), np.ones((6, 4), np.uint8))
    code, out, _ = run(COMMAND, *flags(photos, *more))
    assert code == 0 and '1 of 9 pictures have a mask' in out
    data = photos.parent / 'data'
    assert image_size(image_path(str(data), '1')) == (6, 4)
    assert (data / 'JPEGImages' / '1.jpg').read_bytes() == (photos / 'cat' / '1.jpg').read_bytes()


@pytest.mark.parametrize(
    'orientation, size, is_said', [(3, (6, 4), True), (6, (5, 5), True), (6, (6, 4), False)]
)
def test_masks_whose_size_does_not_tell_how_they_were_drawn_are_said(
    photos, run, orientation, size, is_said
):
    save(photos / 'cat' / '1.jpg', orientation, size)
    turned = size[::-1] if orientation == 6 else size
    write_mask(str(photos / 'masks' / '1.png'), np.ones(turned[::-1], np.uint8))
    code, out, _ = run(COMMAND, *flags(photos, '--by_folder', '--masks', photos / 'masks'))
    assert code == 0
    assert ('1 pictures with masks are turned' in out) == is_said


@pytest.fixture
def same_names(tmp_path):
    """cat/001, cat/002, dog/001 and dog/2021/001."""
    root = tmp_path / 'photos'
    for file in ('cat/001.jpg', 'cat/002.JPG', 'dog/001.png', 'dog/2021/001.jpg'):
        save(root / file)
    return root


def test_pictures_named_by_their_path(same_names, run, refused):
    refused(COMMAND, flags(same_names, '--by_folder'), 'of the name 001', '--names path')
    more = ('--by_folder', '--names', 'path', '--val', 0)
    assert run(COMMAND, *flags(same_names, *more))[0] == 0
    data = same_names.parent / 'data'
    names = ['cat_001', 'cat_002', 'dog_001', 'dog_2021_001']
    assert read_list(str(data / 'lists' / 'train.txt')) == names
    check_images(str(data), names)
    assert [labels_in(data)[name].tolist() for name in names] == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert os.readlink(data / 'JPEGImages' / 'cat_002.JPG') == str(same_names / 'cat/002.JPG')
    assert os.readlink(data / 'JPEGImages' / 'dog_001.png') == str(same_names / 'dog/001.png')
    (same_names / 'dog' / '001.png').unlink()
    shutil.rmtree(same_names / 'dog' / '2021')
    save(same_names / 'dog' / '3.jpg')
    (same_names / 'cat' / '001.jpg').unlink()
    more = ('--by_folder', '--val', 0)
    refused(COMMAND, flags(same_names, *more), 'names = path, now names = file')


def test_a_table_of_pictures_named_by_their_path(same_names, table, run):
    path = table('file,labels\ncat/001.jpg,a\ndog/2021/001,b\n002,b\n')
    more = ('--labels', path, '--names', 'path', '--val', 0)
    assert run(COMMAND, *flags(same_names, *more))[0] == 0
    labels = labels_in(same_names.parent / 'data')
    assert {name: label.tolist() for name, label in labels.items()} == {
        'cat_001': [1, 0],
        'cat_002': [0, 1],
        'dog_2021_001': [0, 1],
    }


def test_masks_of_pictures_named_by_their_path(same_names, tmp_path, run):
    masks = tmp_path / 'masks'
    # cat/001 has both kinds of mask, dog/001 one by its name; 002.png is that of no path
    for file, value in (('cat/001', 1), ('cat_001', 2), ('dog_001', 2), ('002', 1)):
        write_mask(str(masks / f'{file}.png'), np.full((4, 6), value, np.uint8))
    more = ('--by_folder', '--names', 'path', '--masks', masks, '--val', 0)
    code, out, _ = run(COMMAND, *flags(same_names, *more))
    assert code == 0 and '2 of 4 pictures have a mask' in out
    linked = same_names.parent / 'data' / 'SegmentationClass'
    assert {path.name: os.readlink(path) for path in linked.iterdir()} == {
        'cat_001.png': str(masks / 'cat' / '001.png'),
        'dog_001.png': str(masks / 'dog_001.png'),
    }


def test_two_paths_of_one_name_and_long_names_are_refused(tmp_path, run, refused):
    save(tmp_path / 'photos' / 'a' / 'b_c.jpg')
    save(tmp_path / 'photos' / 'a_b' / 'c.jpg')
    more = ('--by_folder', '--names', 'path')
    refused(COMMAND, flags(tmp_path / 'photos', *more), 'of the name a_b_c; rename one of them')
    assert not (tmp_path / 'data').exists()
    (tmp_path / 'photos' / 'a_b' / 'c.jpg').unlink()
    save(tmp_path / 'photos' / ('d' * 150) / ('e' * 100 + '.jpg'))
    refused(COMMAND, flags(tmp_path / 'photos', *more), 'the name has 251 bytes, more than 230')
    assert run(COMMAND, *flags(tmp_path / 'photos', '--by_folder'))[0] == 0


def test_only_pictures_with_a_mask_are_in_train_and_val(tmp_path, run):
    photos, masks = tmp_path / 'photos', tmp_path / 'masks'
    for number in range(40):
        save(photos / ('cat' if number % 2 else 'dog') / f'{number:02d}.jpg')
        if number < 20:
            write_mask(str(masks / f'{number:02d}.png'), np.ones((4, 6), np.uint8))
    names = [f'{number:02d}' for number in range(40)]
    more = ('--by_folder', '--val', 0.2, '--masks', masks)
    code, out, _ = run(COMMAND, *flags(photos, *more))
    assert code == 0 and '20 of 40 pictures have a mask' in out
    assert 'only pictures with a mask are in train (16) and val (4)' in out
    lists = tmp_path / 'data' / 'lists'
    train, val = (read_list(str(lists / f'{name}.txt')) for name in ('train', 'val'))
    assert len(val) == 4 and sorted(train + val) == names[:20]
    assert sum(int(name) % 2 for name in val) == 2
    image_sets = tmp_path / 'data' / 'ImageSets' / 'Segmentation'
    assert read_list(str(image_sets / 'train.txt')) == train
    train_aug = [name for name in names if name not in val]
    for file in (
        lists / 'train_aug.txt',
        image_sets / 'train_aug.txt',
        image_sets / 'trainaug.txt',
    ):
        assert read_list(str(file)) == train_aug


@pytest.mark.parametrize('with_mask', [0, 40])
def test_all_pictures_or_none_with_a_mask_make_the_lists_of_split(with_mask):
    pictures = [Picture(f'{number:02d}', '', (number % 3,)) for number in range(40)]
    scored = {picture.name for picture in pictures[:with_mask]}
    lists = draw_lists(pictures, scored, 0.2, 0)
    assert (lists.train, lists.val) == split(pictures, 0.2, 0)
    assert lists.train_aug == lists.train and len(lists.val) == 8


def test_an_empty_train_list_is_not_written(photos, run):
    masks = photos / 'masks'
    write_mask(str(masks / '1.png'), np.ones((4, 6), np.uint8))
    assert run(COMMAND, *flags(photos, '--by_folder', '--masks', masks, '--val', 0.5))[0] == 0
    lists = photos.parent / 'data' / 'lists'
    assert read_list(str(lists / 'val.txt')) == ['1']
    assert not (lists / 'train.txt').exists()
    assert len(read_list(str(lists / 'train_aug.txt'))) == 8


@pytest.mark.parametrize('count', [2000, pytest.param(50000, marks=pytest.mark.slow)])
def test_many_pictures(tmp_path, run, count):
    """Hard links of one picture and one mask; --jobs 0 is fastest for pictures this small."""
    save(tmp_path / 'one.jpg')
    write_mask(str(tmp_path / 'one.png'), np.ones((4, 6), np.uint8))
    photos, masks = tmp_path / 'photos', tmp_path / 'masks'
    masks.mkdir()
    for folder in range(10):
        (photos / f'{folder}').mkdir(parents=True)
    for number in range(count):
        os.link(tmp_path / 'one.jpg', photos / f'{number % 10}' / f'{number}.jpg')
        if number % 5 == 0:
            os.link(tmp_path / 'one.png', masks / f'{number}.png')
    code, out, _ = run(COMMAND, *flags(photos, '--by_folder', '--masks', masks))
    assert code == 0 and f'{count // 5} of {count} pictures have a mask' in out
    data = tmp_path / 'data'
    val = read_list(str(data / 'lists' / 'val.txt'))
    train_aug = read_list(str(data / 'lists' / 'train_aug.txt'))
    assert len(val) == count // 50 and len(train_aug) == count - len(val)
    check_images(str(data), val + train_aug)


def test_copies_are_of_the_same_bytes(photos, run):
    source = photos / 'cat' / '1.jpg'
    source.chmod(0o444)
    assert run(COMMAND, *flags(photos, '--by_folder', '--copy'))[0] == 0
    copy = photos.parent / 'data' / 'JPEGImages' / '1.jpg'
    assert not copy.is_symlink() and copy.read_bytes() == source.read_bytes()


def test_a_link_leaves_the_mode_of_its_source(photos, run):
    source = photos / 'cat' / '1.jpg'
    source.chmod(0o400)
    assert run(COMMAND, *flags(photos, '--by_folder'))[0] == 0
    assert source.stat().st_mode & 0o777 == 0o400


def test_the_same_command_makes_the_same_and_another_is_refused(photos, table, run, refused):
    data = photos.parent / 'data'
    first = table('file,labels\n1.jpg,a\n2.jpg,b\n', 'first.csv')
    second = table('file,labels\n1.jpg,a\n3.jpg,c\n', 'second.csv')
    assert run(COMMAND, *flags(photos, '--labels', first))[0] == 0
    before = everything(data)
    assert run(COMMAND, *flags(photos, '--labels', first))[0] == 0
    assert everything(data) == before
    refused(COMMAND, flags(photos, '--labels', second), '--overwrite', 'was made with')
    assert everything(data) == before
    (data / 'mine.txt').write_text('mine')
    (data / 'JPEGImages' / 'mine.jpg').write_text('mine')
    assert run(COMMAND, *flags(photos, '--labels', second, '--overwrite'))[0] == 0
    assert {path.name for path in (data / 'JPEGImages').iterdir()} == {'1.jpg', '3.jpg', 'mine.jpg'}
    assert (data / 'mine.txt').read_text() == 'mine'
    assert (photos / 'cat' / '2.jpg').exists()


def test_files_that_the_command_did_not_write_are_kept(photos, refused):
    data = photos.parent / 'data'
    data.mkdir()
    (data / 'classes.txt').write_text('mine')
    for more in ((), ('--overwrite',)):
        refused(COMMAND, flags(photos, '--by_folder', *more), 'classes.txt', 'not written by')
    assert (data / 'classes.txt').read_text() == 'mine'
    assert [path.name for path in data.iterdir()] == ['classes.txt']


def test_a_run_after_a_stop_knows_what_both_runs_wrote(photos, table, run, monkeypatch):
    data = photos.parent / 'data'
    first = table('file,labels\n1.jpg,a\n2.jpg,b\n', 'first.csv')
    second = table('file,labels\n1.jpg,a\n3.jpg,c\n', 'second.csv')
    assert run(COMMAND, *flags(photos, '--labels', first))[0] == 0

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(data_folder, 'write_lists', stop)
        assert run(COMMAND, *flags(photos, '--labels', second, '--overwrite'))[0] == 130
    assert run(COMMAND, *flags(photos, '--labels', second))[0] == 0
    after_stop = everything(data)
    assert run(COMMAND, *flags(photos, '--labels', first, '--overwrite'))[0] == 0
    assert run(COMMAND, *flags(photos, '--labels', second, '--overwrite'))[0] == 0
    assert everything(data) == after_stop


def test_a_file_of_the_data_folder_is_no_source_of_it(photos, tmp_path, run, refused):
    data = photos.parent / 'data'
    assert run(COMMAND, *flags(photos, '--by_folder', '--copy'))[0] == 0
    others = tmp_path / 'others'
    (others / 'cat').mkdir(parents=True)
    (others / 'cat' / '1.jpg').symlink_to(data / 'JPEGImages' / '1.jpg')
    (others / 'cat' / '2.jpg').symlink_to(photos / 'cat' / '2.jpg')
    before = everything(data)
    more = ('--images', others, '--out', data, '--by_folder', '--overwrite', '--jobs', 0)
    refused(COMMAND, more, '1.jpg: is a file that this command writes')
    assert everything(data) == before


def test_a_table_may_name_full_paths(photos, table, run):
    path = table(f'file,labels\n{photos}/cat/1.jpg,a\n{photos}/dog/5.jpg,b\n')
    assert run(COMMAND, *flags(photos, '--labels', path))[0] == 0
    assert set(labels_in(photos.parent / 'data')) == {'1', '5'}


def test_two_files_of_one_name_and_wrong_folders(photos, tmp_path, refused):
    save(photos / 'dog' / '1.png')
    refused(COMMAND, flags(photos, '--by_folder'), '1.jpg', '1.png', 'of the name 1')
    refused(COMMAND, flags(tmp_path / 'no', '--by_folder'), 'no such folder')
    empty = tmp_path / 'empty' / 'photos'
    empty.mkdir(parents=True)
    refused(COMMAND, flags(empty, '--by_folder'), 'holds no picture')
    inside = ('--images', photos, '--by_folder', '--out', photos / 'data')
    refused(COMMAND, inside, 'choose another --out')


def test_names_may_have_spaces_and_folders_may_be_links(tmp_path, run):
    save(tmp_path / 'elsewhere' / 'größe 1 (2).JPG')
    photos = tmp_path / 'photos'
    photos.mkdir()
    (photos / 'big cat').symlink_to(tmp_path / 'elsewhere')
    (photos / 'loop').symlink_to(photos)
    save(photos / 'dog' / '2.webp')
    assert len(find_pictures(str(photos))) == 2
    assert run(COMMAND, *flags(photos, '--by_folder', '--val', 0))[0] == 0
    data = tmp_path / 'data'
    assert read_list(str(data / 'lists' / 'train.txt')) == ['2', 'größe 1 (2)']
    assert image_path(str(data), 'größe 1 (2)').endswith('.JPG')
    check_images(str(data), ['2', 'größe 1 (2)'])


def test_a_name_with_an_outer_space_is_bad(tmp_path, refused):
    save(tmp_path / 'photos' / 'cat' / ' 1.jpg')
    save(tmp_path / 'photos' / 'cat' / '2.jpg')
    refused(COMMAND, flags(tmp_path / 'photos', '--by_folder'), 'begins or ends with a space')


def test_split_is_stratified_and_depends_on_the_seed():
    pictures = [Picture(str(number), '', (number % 4,)) for number in range(400)]
    train, val = split(pictures, 0.1, 0)
    assert len(train) == 360 and len(val) == 40
    assert [sum(int(name) % 4 == k for name in val) for k in range(4)] == [10, 10, 10, 10]
    assert split(pictures[::-1], 0.1, 0) == (train, val)
    assert split(pictures, 0.1, 1)[1] != val


def test_no_class_has_all_its_pictures_in_val():
    common = [Picture(f'a{number}', f'a{number}.jpg', (0,)) for number in range(6)]
    rare = [Picture('rare', 'rare.jpg', (1,)), Picture('rarest', 'rarest.jpg', (1, 2))]
    for seed in range(8):
        train, val = split([*common, *rare], 0.5, seed)
        assert 'rarest' in train and sorted([*train, *val]) == sorted(
            [picture.name for picture in (*common, *rare)]
        )
        assert 2 <= len(val) <= 4


def test_the_columns_of_a_table_without_labels_are_classes(table):
    rows, columns = read_table(str(table('file,a,b\nx.jpg,1,1\n')), ';')
    assert columns == ['a', 'b'] and rows[0].labels == ('a', 'b')
