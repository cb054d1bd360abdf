"""voc12/from_folder.py: what it writes of pictures and labels, and what it refuses."""

import os

import numpy as np
import pytest
from PIL import Image

from tool.files.lists import read_labels, read_list
from tool.files.pictures import read_mask, write_mask
from voc12 import data_folder
from voc12.data_folder import Picture, split
from voc12.from_folder import find_pictures, read_table
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
    save(photos / 'cat' / '2.jpg', orientation=6)
    save(photos / 'cat' / '3.jpg', orientation=1)
    path = table('file,labels\n1.jpg,cat\n2.jpg,cat\n3.jpg,cat\n5.jpg,dog\nlost.jpg,cat\n')
    data = photos.parent / 'data'
    more = ('--labels', path)
    refused(COMMAND, flags(photos, *more), 'bad_files.txt: names 3 files', '--skip_bad')
    assert [file.name for file in data.iterdir()] == ['bad_files.txt']
    lines = (data / 'bad_files.txt').read_text().splitlines()
    assert len(lines) == 4
    for name, why in (
        ('1.jpg', 'damaged'),
        ('2.jpg', 'EXIF orientation 6'),
        ('lost.jpg', 'no such picture'),
    ):
        assert any(f'{name}: ' in line and why in line for line in lines)
    assert run(COMMAND, *flags(photos, *more, '--skip_bad'))[0] == 0
    assert set(labels_in(data)) == {'3', '5'}
    assert (data / 'bad_files.txt').exists()
    # once mended, the same command goes through and the list is gone
    save(photos / 'cat' / '1.jpg')
    save(photos / 'cat' / '2.jpg')
    save(photos / 'cat' / 'lost.jpg')
    assert run(COMMAND, *flags(photos, *more))[0] == 0
    assert set(labels_in(data)) == {'1', '2', '3', '5', 'lost'}
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


def test_the_columns_of_a_table_without_labels_are_classes(table):
    rows, columns = read_table(str(table('file,a,b\nx.jpg,1,1\n')), ';')
    assert columns == ['a', 'b'] and rows[0].labels == ('a', 'b')
