"""tool/files/disk.py: sizes in words, and where a path will lie."""

import pytest

from tool.files.disk import existing_part, in_words


@pytest.mark.parametrize(
    'size, words',
    [
        (0, '0 bytes'),
        (999, '999 bytes'),
        (1500, '1.5 kB'),
        (2_340_000, '2.3 MB'),
        (999_949_999_999, '999.9 GB'),
        (4_200_000_000_000, '4.2 TB'),
    ],
)
def test_sizes_in_words(size, words):
    assert in_words(size) == words


def test_the_nearest_folder_that_exists(tmp_path):
    assert existing_part(str(tmp_path)) == str(tmp_path)
    assert existing_part(str(tmp_path / 'a' / 'b')) == str(tmp_path)
    (tmp_path / 'file').write_text('')
    assert existing_part(str(tmp_path / 'file')) == str(tmp_path)
