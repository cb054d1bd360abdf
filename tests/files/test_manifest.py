"""tool/files/manifest.py: a stage goes on with its own output and with no one else's."""

import hashlib
import json

import pytest

from tool.files.manifest import MANIFEST, claim_all, fingerprint, missing
from tool.run.errors import UserError

SETTINGS = {'stage': 'infer', 'scales': (0.5, 1.0), 'threshold': 0.26, 'weights': 'ab12'}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'cam'


def claim(folder, settings, overwrite=False, is_own=None):
    claim_all([(folder, settings)], overwrite, is_own)


def test_claim_makes_the_folder_and_is_kept_by_the_same_settings(folder):
    claim(str(folder), SETTINGS)
    assert json.loads((folder / MANIFEST).read_text()) == {**SETTINGS, 'scales': [0.5, 1.0]}
    (folder / 'a.npy').write_text('a')
    claim(str(folder), dict(SETTINGS))
    assert (folder / 'a.npy').read_text() == 'a'


@pytest.mark.parametrize(
    'change, difference',
    [
        ({'threshold': 0.2}, 'threshold = 0.26, now threshold = 0.2'),
        ({'scales': [1.0]}, r'scales = \[0.5, 1.0\], now scales = \[1.0\]'),
        ({'new': 1}, 'new = None, now new = 1'),
    ],
)
def test_other_settings_are_refused_and_replaced_on_request(folder, change, difference):
    claim(str(folder), SETTINGS)
    for name in ('a.npy', 'b.png', 'notes.txt'):
        (folder / name).write_text('a')
    with pytest.raises(UserError, match=f'cam: was made with {difference}; use --overwrite'):
        claim(str(folder), SETTINGS | change)
    assert len(list(folder.iterdir())) == 4
    claim(str(folder), SETTINGS | change, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, 'notes.txt']
    claim(str(folder), SETTINGS | change)


def test_overwrite_of_the_same_settings_starts_again(folder):
    claim(str(folder), SETTINGS)
    (folder / 'a.npy').write_text('a')
    claim(str(folder), SETTINGS, overwrite=True)
    assert [path.name for path in folder.iterdir()] == [MANIFEST]


@pytest.mark.parametrize('overwrite', [False, True])
def test_output_without_a_manifest_is_refused(folder, overwrite):
    folder.mkdir()
    (folder / 'a.png').write_text('a')
    with pytest.raises(
        UserError,
        match='holds 1 files that this stage did not write, or that were changed since, e.g. a.png',
    ):
        claim(str(folder), SETTINGS, overwrite)
    assert [path.name for path in folder.iterdir()] == ['a.png']


@pytest.mark.parametrize('overwrite', [False, True])
def test_output_of_another_stage_is_never_replaced(folder, overwrite):
    claim(str(folder), SETTINGS)
    (folder / 'a.npy').write_text('a')
    with pytest.raises(UserError, match='cam: was made by the stage infer; use another folder'):
        claim(str(folder), {'stage': 'walk'}, overwrite)
    assert (folder / 'a.npy').read_text() == 'a'


def test_overwrite_keeps_files_that_the_stage_did_not_write(folder):
    claim(str(folder), SETTINGS)
    for name in ('a.npy', 'b.npy'):
        (folder / name).write_text('a')

    def is_own(folder, file):
        return file == 'a.npy'

    with pytest.raises(
        UserError,
        match='holds 1 files that this stage did not write, or that were changed since, e.g. b.npy',
    ):
        claim(str(folder), SETTINGS, overwrite=True, is_own=is_own)
    assert (folder / 'a.npy').exists() and (folder / 'b.npy').exists()
    (folder / 'b.npy').unlink()
    claim(str(folder), SETTINGS, overwrite=True, is_own=is_own)
    assert [path.name for path in folder.iterdir()] == [MANIFEST]


def test_a_folder_claimed_but_empty_may_be_claimed_by_other_settings(folder):
    claim(str(folder), SETTINGS)
    claim(str(folder), {'stage': 'other'})
    assert json.loads((folder / MANIFEST).read_text()) == {'stage': 'other'}


@pytest.mark.parametrize('text', ['{"a": ', '3', '[1, 2]', ''])
def test_unreadable_manifest(folder, text):
    folder.mkdir()
    (folder / MANIFEST).write_text(text)
    with pytest.raises(UserError, match='unreadable manifest'):
        claim(str(folder), SETTINGS)


def test_missing_needs_every_output(tmp_path):
    for name in ('cam/a.npy', 'cam/b.npy', 'png/b.png', 'png/c.png'):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('a')
    cam, png, absent = (
        (str(tmp_path / name), extension)
        for name, extension in [('cam', '.npy'), ('png', '.png'), ('absent', '.png')]
    )
    assert missing(['a', 'b', 'c', 'd'], [cam]) == ['c', 'd']
    assert missing(['a', 'b', 'c', 'd'], [cam, png]) == ['a', 'c', 'd']
    assert missing(['a', 'b'], [cam, absent]) == ['a', 'b']


def test_fingerprint(folder):
    folder.mkdir()
    assert fingerprint(str(folder)) == ''
    claim(str(folder), {'a': 1})
    first = fingerprint(str(folder))
    assert first == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:16]
    claim(str(folder), {'a': 2})
    assert fingerprint(str(folder)) != first
    (folder / 'w.pth').write_bytes(b'abc')
    assert fingerprint(str(folder / 'w.pth')) == 'ba7816bf8f01cfea'  # SHA-256 of 'abc', FIPS 180-2
