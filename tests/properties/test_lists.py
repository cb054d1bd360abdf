"""tool/files/lists.py: any names, written and read again; any other file is one clean error."""

import os
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tool.files.lists import ENDINGS, picture_name, read_list, write_list
from tool.run.errors import UserError

# What names are made of here: any characters of file names, and often what a list could mistake.
TRAPS = [
    *ENDINGS,
    '.JPG',
    ' ',
    '  ',
    '.',
    '..',
    '\t',
    '\ufeff',
    '\xa0',
    '\x85',
    '\u2028',
    '\\',
    'ß',
]
PIECES = st.sampled_from(TRAPS) | st.text(
    st.characters(exclude_characters='/\0', exclude_categories=['Cs']), min_size=1, max_size=6
)
FILE_NAMES = st.lists(PIECES, min_size=1, max_size=6).map(''.join)
# Part of a line that could be the end of a first path.
ENDS_A_PATH = re.compile(r'\.\w+\s', re.IGNORECASE)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'list.txt')


def names_of_pictures():
    """Names that `write_list` has nothing against; files that begin with a dot are no pictures."""
    return FILE_NAMES.map(picture_name).filter(can_be_listed)


def can_be_listed(name):
    is_one_line = '\n' not in name and '\r' not in name
    return name == name.strip() != '' and is_one_line and not name.startswith(('\ufeff', '.'))


@given(names=st.lists(names_of_pictures(), min_size=1, max_size=8, unique=True))
def test_names_are_read_as_they_were_written(path, names):
    write_list(path, names)
    assert read_list(path) == names


@given(names=st.lists(FILE_NAMES, min_size=1, max_size=4))
@example(names=[' a'])
@example(names=['a '])
@example(names=['\ufeffa'])
@example(names=['a', 'photo.jpg'])
@example(names=['b\nc'])
@example(names=['a', 'a'])
@example(names=['\udcff'])
@example(names=['.jpg .jpg'])
def test_a_list_that_would_be_read_as_another_is_not_written(path, names):
    """Whatever the file names of a folder are: the list has these names, or there is no list."""
    try:
        write_list(path, names)
    except UserError as error:
        assert 'list.txt: ' in str(error)
        assert not os.path.exists(path)
    else:
        assert read_list(path) == names
        os.unlink(path)


@given(name=names_of_pictures(), ending=st.sampled_from(ENDINGS), upper=st.booleans())
def test_the_file_of_a_picture_stands_for_its_name(path, name, ending, upper):
    file = name + (ending.upper() if upper else ending)
    if ENDS_A_PATH.search(file):  # 'a.jpg b.png' may be two files
        return
    for line in (file, f'JPEGImages/{file}', f'/a folder/{file}'):
        with open(path, 'w', encoding='utf-8', newline='') as list_file:
            list_file.write(f'{line}\r\n')
        assert read_list(path) == [name]


@given(
    names=st.lists(names_of_pictures(), min_size=1, max_size=4, unique=True),
    space=st.sampled_from([' ', '  ', '\t', ' \t ']),
    ending=st.sampled_from(ENDINGS),
)
@example(names=['a.jpg b'], space=' ', ending='.jpg')
@example(names=['a.jpg b.tif c', 'a'], space=' ', ending='.WebP')
def test_of_two_paths_the_first_counts(path, names, space, ending):
    lines = []
    for name in names:
        lines.append(f'/JPEGImages/{name}{ending}{space}/SegmentationClassAug/{name}.png\n')
    with open(path, 'w', encoding='utf-8', newline='') as file:
        file.writelines(lines)
    assert read_list(path) == names


TEXT_LINES = st.lists(
    st.lists(st.sampled_from([*TRAPS, '/', '\n', 'a', '//']) | PIECES, max_size=8).map(''.join),
    max_size=6,
).map('\n'.join)


@given(
    content=st.binary(max_size=80)
    | TEXT_LINES.map(str.encode)
    | TEXT_LINES.map(lambda text: text.encode('utf-16'))
)
@example(content=b'/')
@example(content=b'JPEGImages/\n')
@example(content=b'a\n.jpg/')
def test_any_file_is_a_list_of_names_or_one_clean_error(path, content):
    with open(path, 'wb') as file:
        file.write(content)
    try:
        names = read_list(path)
    except UserError as error:
        assert 'list.txt: ' in str(error)
        return
    assert len(names) == len(set(names)) > 0
    for name in names:
        assert name == os.path.basename(name) != ''
        assert '\n' not in name
