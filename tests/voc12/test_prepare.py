"""voc12/prepare.py and voc12/archives.py on small archives, and on a server on this machine.

The archives: VOC has train 2007_000001, 2 and val 3, 4; the pictures 1 … 7. SBD has 2, 3, 5, 6, 7.
So train_aug is 1, 2, 5, 6, 7; and 2 and 3 have VOC's masks, whose borders are 255.
"""

import http.server
import io
import re
import shutil
import sys
import tarfile
import threading
import tracemalloc
from collections import namedtuple

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tool.files.lists import read_labels, read_list
from tool.files.pictures import read_mask
from tool.method.class_set import colour_map
from tool.run.errors import UserError
from voc12 import archives, prepare
from voc12.archives import Archive, disk_size, download_archive, md5_of_file, provide, read_files
from voc12.classes import VOC

DEVKIT = 'VOCdevkit/VOC2012/'
SPLITS = {'train': (1, 2), 'val': (3, 4), 'trainval': (1, 2, 3, 4)}
SBD_IDS = (2, 3, 5, 6, 7)
VOC_MASK = np.array([[0, 1, 255, 2], [0, 1, 255, 2], [0, 0, 255, 20]], np.uint8)


def name_of(number):
    return f'2007_{number:06d}'


def png(mask):
    image = Image.fromarray(mask)
    image.putpalette(colour_map().tobytes())
    file = io.BytesIO()
    image.save(file, 'PNG')
    return file.getvalue()


def jpeg():
    file = io.BytesIO()
    Image.new('RGB', (4, 3), (9, 99, 199)).save(file, 'JPEG')
    return file.getvalue()


def sbd_mask(number):
    return np.full((3, 4), number, np.uint8)


def mat(mask):
    """A .mat file with the fields of SBD's: GTcls, a 1x1 struct, with Boundaries beside the
    mask."""
    boundaries = np.empty((20, 1), object)
    for row in range(20):
        boundaries[row, 0] = np.zeros((3, 4), np.uint8)
    struct = {'Boundaries': boundaries, 'Segmentation': mask, 'CategoriesPresent': np.unique(mask)}
    file = io.BytesIO()
    savemat(file, {'GTcls': struct}, do_compression=True)
    return file.getvalue()


def pack(path, files, links=()):
    with tarfile.open(path, 'w:gz' if path.suffix == '.tgz' else 'w') as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name in links:
            member = tarfile.TarInfo(name)
            member.type = tarfile.SYMTYPE
            member.linkname = '/etc/passwd'
            archive.addfile(member)


def voc_files():
    files = {}
    for split, numbers in SPLITS.items():
        text = ''.join(f'{name_of(number)}\n' for number in numbers)
        files[f'{DEVKIT}ImageSets/Segmentation/{split}.txt'] = text.encode()
    for number in range(1, 8):
        files[f'{DEVKIT}JPEGImages/{name_of(number)}.jpg'] = jpeg()
        xml = '<annotation><object><name>dog</name></object></annotation>'
        files[f'{DEVKIT}Annotations/{name_of(number)}.xml'] = xml.encode()
    for number in SPLITS['trainval']:
        files[f'{DEVKIT}SegmentationClass/{name_of(number)}.png'] = png(VOC_MASK)
        files[f'{DEVKIT}SegmentationObject/{name_of(number)}.png'] = b'not needed'
    return files


def sbd_files():
    files = {'benchmark_RELEASE/dataset/train.txt': b'', 'benchmark_RELEASE/README': b'hello'}
    for number in SBD_IDS:
        files[f'{prepare.SBD_FOLDER}{name_of(number)}.mat'] = mat(sbd_mask(number))
    files[f'{prepare.SBD_FOLDER}._{name_of(2)}.mat'] = b'a Mac was here'
    return files


@pytest.fixture
def folder(tmp_path):
    """A folder with the two archives."""
    folder = tmp_path / 'archives'
    folder.mkdir()
    pack(folder / prepare.VOC_FILE, voc_files())
    pack(folder / prepare.SBD_FILE, sbd_files())
    return folder


@pytest.fixture
def command(run, folder, tmp_path, monkeypatch):
    """command(flag, …) runs voc12.prepare on the archives, whose md5 sums are the expected ones."""
    md5 = {file: md5_of_file(str(folder / file)) for file in (prepare.VOC_FILE, prepare.SBD_FILE)}

    def voc_archive():
        return Archive(prepare.VOC_FILE, (), md5[prepare.VOC_FILE], 10_000)

    def sbd_archive():
        return Archive(prepare.SBD_FILE, (), md5[prepare.SBD_FILE], 10_000)

    monkeypatch.setattr(prepare, 'voc_archive', voc_archive)
    monkeypatch.setattr(prepare, 'sbd_archive', sbd_archive)

    def call(*flags):
        root = tmp_path / 'VOC2012'
        places = ['--root', root, '--archives', folder, '--out_dir', tmp_path / 'lists']
        code, out, err = run('voc12.prepare', *places, '--jobs', '0', *flags)
        assert 'Traceback' not in err
        return code, out, err

    return call


def error_of(result):
    """The one line of a refusal."""
    code, _, err = result
    lines = [line for line in err.splitlines() if 'error:' in line]
    assert code == 2 and len(lines) == 1, err
    return lines[0]


def no_temporary_files(root):
    return [path for path in root.rglob('*') if path.name.endswith('.tmp')] == []


# --- the whole command ----------------------------------------------------------------------------


@pytest.mark.parametrize('jobs', ['0', '2'])
def test_two_archives_make_a_complete_folder(command, tmp_path, jobs):
    code, out, _ = command('--jobs', jobs)
    assert code == 0
    root = tmp_path / 'VOC2012'
    shown = {path.name for path in root.iterdir()} - {prepare.STATE}
    assert shown == {*prepare.VOC_FOLDERS, prepare.AUGMENTED}
    assert no_temporary_files(root)
    for number in range(1, 8):
        path = root / prepare.AUGMENTED / f'{name_of(number)}.png'
        expected = VOC_MASK if number in SPLITS['trainval'] else sbd_mask(number)
        assert np.array_equal(read_mask(str(path), VOC), expected)
        with Image.open(path) as image:
            assert image.mode == 'P' and image.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
    lists = tmp_path / 'lists'
    train_aug = [name_of(number) for number in (1, 2, 5, 6, 7)]
    assert read_list(str(lists / 'train_aug.txt')) == train_aug
    assert (lists / 'trainaug.txt').read_text() == (lists / 'train_aug.txt').read_text()
    assert read_list(str(lists / 'val.txt')) == [name_of(3), name_of(4)]
    labels = read_labels(str(lists / 'cls_labels.npy'), VOC)
    assert len(labels) == 7
    assert all(np.flatnonzero(label).tolist() == [11] for label in labels.values())  # dog
    assert re.search(r'SBD +5 masks \(the whole SBD has 11355\)', out)
    assert re.search(r'all masks +7 in SegmentationClassAug \(expected 12031\)', out)
    assert 'train_aug       5 images (the whole VOC 2012 has 10582)' in out
    assert 'not recognised as the published one' in out


def test_what_is_complete_needs_no_archive(command, folder, tmp_path):
    assert command()[0] == 0
    mask = tmp_path / 'VOC2012' / prepare.AUGMENTED / f'{name_of(5)}.png'
    before = mask.stat().st_mtime_ns
    shutil.rmtree(folder)
    code, out, _ = command()
    assert code == 0 and mask.stat().st_mtime_ns == before
    assert re.search(r'SBD +5 masks', out)
    mask.unlink()
    assert f'{folder / prepare.SBD_FILE}: no such file' in error_of(command())


def test_what_is_lost_is_made_again_and_the_rest_stays(command, tmp_path):
    assert command()[0] == 0
    root = tmp_path / 'VOC2012'
    picture = root / 'JPEGImages' / f'{name_of(1)}.jpg'
    lost = [picture, root / prepare.AUGMENTED / f'{name_of(6)}.png']
    kept = root / prepare.AUGMENTED / f'{name_of(5)}.png'
    before = kept.stat().st_mtime_ns
    for path in lost:
        path.unlink()
    assert command()[0] == 0
    assert all(path.is_file() for path in lost)
    assert kept.stat().st_mtime_ns == before
    assert picture.read_bytes() == jpeg()


def test_a_whole_folder_that_others_made_needs_no_archive(command, folder, tmp_path, monkeypatch):
    assert command()[0] == 0
    (tmp_path / 'VOC2012' / prepare.STATE).unlink()
    (folder / prepare.VOC_FILE).unlink()
    assert f'{prepare.VOC_FILE}: no such file' in error_of(command())
    whole = {'JPEGImages': 7, 'Annotations': 7, 'SegmentationClass': 4, 'ImageSets/Segmentation': 3}
    monkeypatch.setitem(prepare.WHOLE, prepare.VOC_FILE, whole)
    assert command()[0] == 0  # with SBD's archive, whose masks are all there
    (tmp_path / 'VOC2012' / prepare.STATE).unlink()
    (folder / prepare.SBD_FILE).unlink()
    monkeypatch.setitem(prepare.WHOLE, prepare.SBD_FILE, {'SegmentationClassAug': 7})
    code, out, _ = command()
    assert code == 0 and re.search('SBD +not counted', out)
    assert re.search(r'all masks +7 in SegmentationClassAug', out)


def test_published_files_are_compared_by_content(command, tmp_path, monkeypatch):
    published = tmp_path / 'published'
    published.mkdir()
    lines = [
        f'/JPEGImages/{name_of(number)}.jpg /SegmentationClassAug/{name_of(number)}.png'
        for number in (7, 6, 5, 2, 1)
    ]
    (published / 'train_aug.txt').write_text('\n'.join(lines))
    (published / 'val.txt').write_text(name_of(3))
    dog = np.eye(20, dtype=np.float32)[11]
    # integer keys, and a picture more than the lists have
    labels = {int(f'2007{number:06d}'): dog for number in range(1, 9)}
    np.save(published / 'cls_labels.npy', labels)
    code, out, _ = command('--published', published)
    assert code == 0
    assert re.search('train_aug +equal to the one in --published', out)
    assert re.search('val +differs from the one in --published in 1 pictures', out)
    assert re.search('labels +equal to those in --published', out)

    labels[2007000005] = np.zeros(20, np.float32)
    np.save(published / 'cls_labels.npy', labels)
    md5 = prepare._md5('\n'.join(sorted(lines)) + '\n')
    monkeypatch.setitem(prepare.PUBLISHED, 'train_aug', md5)
    (published / 'train_aug.txt').unlink()
    out = command('--published', published)[1]
    assert re.search('train_aug +equal to the published one', out)
    assert re.search('labels +differ .* in 1 pictures, e.g. 2007_000005', out)


def test_the_md5_of_labels_is_that_of_their_content():
    labels = {'b': np.eye(20)[1], 'a': np.eye(20, dtype=np.float32)[0]}
    turned = {'a': labels['a'], 'b': labels['b'].astype(np.float32)}
    assert prepare.labels_content_md5(labels) == prepare.labels_content_md5(turned)
    text = 'a 1' + 19 * '0' + '\nb 01' + 18 * '0' + '\n'
    assert prepare.labels_content_md5(labels) == prepare._md5(text)


# --- what is refused ------------------------------------------------------------------------------


def test_a_wrong_md5_is_one_line_and_writes_nothing(command, folder, tmp_path):
    path = folder / prepare.SBD_FILE
    path.write_bytes(path.read_bytes()[:-10])
    line = error_of(command())
    assert f'{path.name}: its md5 is' in line and '--download' in line and '--no_md5' in line
    assert not (tmp_path / 'VOC2012').exists() and not (tmp_path / 'lists').exists()


@pytest.mark.parametrize('file', [prepare.VOC_FILE, prepare.SBD_FILE])
@pytest.mark.parametrize('share', [0, 0.3, 0.7])
def test_a_truncated_archive_is_one_line(command, folder, tmp_path, file, share):
    path = folder / file
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content)) + 100])
    line = error_of(command('--no_md5'))
    assert f'{path}: ' in line and '--download' in line
    root = tmp_path / 'VOC2012'
    assert no_temporary_files(root) and not (tmp_path / 'lists').exists()
    assert all(picture.read_bytes() == jpeg() for picture in root.glob('JPEGImages/*'))
    for mask in root.glob('SegmentationClassAug/*'):
        read_mask(str(mask), VOC)
    path.write_bytes(content)  # the same command continues with the whole archive
    assert command()[0] == 0


def test_a_tar_that_ends_between_two_files_is_incomplete(command, folder):
    files = voc_files()
    del files[f'{DEVKIT}SegmentationClass/{name_of(4)}.png']
    pack(folder / prepare.VOC_FILE, files)
    line = error_of(command('--no_md5'))
    assert f'incomplete, SegmentationClass/{name_of(4)}.png of val.txt' in line


@pytest.mark.parametrize('name', ['/tmp/evil.txt', '../evil.txt', f'{DEVKIT}JPEGImages/../../e'])
def test_a_name_outside_the_folder_is_refused(command, folder, tmp_path, name):
    pack(folder / prepare.VOC_FILE, {name: b'evil', **voc_files()})
    assert 'would be written outside the data folder' in error_of(command('--no_md5'))
    assert not (tmp_path / 'VOC2012').exists()


@pytest.mark.parametrize('name', ['JPEGImages', f'JPEGImages/{name_of(1)}.jpg'])
def test_a_link_is_refused(command, folder, tmp_path, name):
    pack(folder / prepare.VOC_FILE, voc_files(), links=[DEVKIT + name])
    # the link is last, and what is in the archive is looked at before anything is written
    assert f'{DEVKIT}{name} in it is a link' in error_of(command('--no_md5'))
    assert not (tmp_path / 'VOC2012').exists()


def test_links_that_are_not_needed_are_left_out(tmp_path):
    path = tmp_path / 'a.tar'
    pack(path, {'./x/a.txt': b'abc'}, links=['x/link'])

    def is_text(name, size):
        return name.endswith('.txt')

    assert list(read_files(str(path), is_text)) == [('x/a.txt', b'abc')]
    assert disk_size(str(path), is_text) == 4096


@pytest.mark.parametrize('kind', [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize('mode', ['w:gz', 'w:bz2', 'w:xz'])
def test_a_small_archive_that_unpacks_to_a_large_one_is_refused(tmp_path, kind, mode):
    """Files that are not wanted are unpacked too, and tarfile reads headers into memory."""
    path = tmp_path / 'a.tgz'
    with tarfile.open(path, mode) as archive:
        for name, content, its_kind in (
            ('x/zeros', bytes(40 << 20), kind),
            ('x/a.txt', b'abc', tarfile.REGTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type = its_kind
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

    def is_text(name, size):
        return name.endswith('.txt')

    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(UserError, match='a.tgz: damaged or truncated .it unpacks to more than'):
        list(read_files(str(path), is_text))
    # a small multiple of the archive, and the tables of the decompressor
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


def test_archives_of_other_things_are_refused(command, folder):
    pack(folder / prepare.SBD_FILE, {'a.txt': b'abc'})
    assert 'not the archive of SBD' in error_of(command('--no_md5'))
    shutil.rmtree(folder.parent / 'VOC2012')
    pack(folder / prepare.VOC_FILE, {'a.txt': b'abc'})
    assert 'not the archive of VOC 2012' in error_of(command('--no_md5'))
    (folder / prepare.VOC_FILE).write_text('<html>404 Not Found</html>')
    assert 'damaged or truncated' in error_of(command('--no_md5'))


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'not a mask of SBD'),
        (b'x' * 500, 'not a mask of SBD'),
        (mat(np.full((3, 4), 21, np.uint8)), 'holds class 21'),
        (mat(np.full((3, 4), 1.5)), 'no two-dimensional uint8'),
        (mat(np.ones((4, 3), np.uint8)), 'is 3x4, the picture is 4x3'),
    ],
)
def test_a_bad_mat_file_is_one_line(command, folder, tmp_path, content, message):
    files = sbd_files()
    files[f'{prepare.SBD_FOLDER}{name_of(6)}.mat'] = content
    pack(folder / prepare.SBD_FILE, files)
    line = error_of(command('--no_md5'))
    assert message in line and name_of(6) in line
    assert not (tmp_path / 'VOC2012' / prepare.AUGMENTED / f'{name_of(6)}.png').exists()


def test_a_full_disk_is_found_before_anything_is_written(command, tmp_path, monkeypatch):
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(archives.shutil, 'disk_usage', lambda path: usage(0, 0, 1000))
    line = error_of(command())
    assert 'only 0.00 GB are free' in line and prepare.VOC_FILE in line
    assert not (tmp_path / 'VOC2012').exists()
    archive = Archive('a.tar', ('http://127.0.0.1:1/a.tar',), None, 10_000)
    with pytest.raises(UserError, match='the download of a.tar takes'):
        download_archive(archive, str(tmp_path / 'new'))
    assert not (tmp_path / 'new').exists()


def test_a_missing_archive_names_the_flags(command, folder):
    (folder / prepare.VOC_FILE).unlink()
    line = error_of(command())
    assert f'{folder / prepare.VOC_FILE}: no such file' in line
    assert '--download' in line and '--archives' in line


# --- download -------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 1000


class _Handler(http.server.BaseHTTPRequestHandler):
    """Sends CONTENT. /whole ignores Range, /breaks sends 100,000 bytes a connection, /silent none,
    /other sends other bytes, all else but /good is 404."""

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get('Range')))
        body = CONTENT[::-1] if self.path == '/other' else CONTENT
        if self.path not in ('/good', '/whole', '/breaks', '/silent', '/other'):
            self.send_error(404)
            return
        asked = self.headers.get('Range')
        start = 0
        if asked and self.path != '/whole':
            start = int(asked.removeprefix('bytes=').removesuffix('-'))
            if start >= len(body):
                self.send_response(416)
                self.send_header('Content-Range', f'bytes */{len(body)}')
                self.end_headers()
                return
            self.send_response(206)
            self.send_header('Content-Range', f'bytes {start}-{len(body) - 1}/{len(body)}')
        else:
            self.send_response(200)
        self.send_header('Content-Length', str(len(body) - start))
        self.end_headers()
        sent = {'/breaks': 100_000, '/silent': 0}.get(self.path, len(body))
        self.wfile.write(body[start : start + sent])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
    server.requests = []
    server.url = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def download(server, tmp_path):
    """download('/good', …) downloads from these paths of the server; returns the file's bytes."""

    def call(*paths):
        urls = tuple(server.url + path for path in paths)
        md5 = archives.hashlib.md5(CONTENT).hexdigest()
        archive = Archive('a.tar', urls, md5, len(CONTENT))
        path = provide(archive, str(tmp_path / 'new'), download=True)
        assert not (tmp_path / 'new' / 'a.tar.part').exists()
        with open(path, 'rb') as file:
            return file.read()

    return call


@pytest.fixture
def part(tmp_path):
    """The file of an interrupted download; it has 70,000 bytes."""
    path = tmp_path / 'new' / 'a.tar.part'
    path.parent.mkdir()
    path.write_bytes(CONTENT[:70_000])
    return path


def test_a_download_and_then_none(download, server):
    assert download('/good') == CONTENT
    assert download('/good') == CONTENT
    assert server.requests == [('/good', None)]


def test_a_part_is_continued(download, server, part):
    assert download('/good') == CONTENT
    assert server.requests == [('/good', 'bytes=70000-')]


def test_a_server_that_ignores_range_starts_over(download, part):
    assert download('/whole') == CONTENT


def test_a_connection_that_breaks_is_made_again(download, server):
    assert download('/breaks') == CONTENT
    assert [asked for _, asked in server.requests] == [None, 'bytes=100000-', 'bytes=200000-']


def test_the_mirror_continues_where_the_first_address_fails(download, server, part):
    assert download('/lost', '/good') == CONTENT
    assert server.requests[-1] == ('/good', 'bytes=70000-')


def test_a_whole_part_is_not_sent_again(download, server, part):
    part.write_bytes(CONTENT)
    assert download('/good') == CONTENT
    assert server.requests == [('/good', f'bytes={len(CONTENT)}-')]


def test_a_part_that_is_too_long_starts_over(download, part):
    part.write_bytes(CONTENT + b'more')
    assert download('/good') == CONTENT


def test_wrong_bytes_are_dropped_and_the_mirror_is_tried(download):
    assert download('/other', '/good') == CONTENT


def test_no_address_is_one_line_that_says_why(download, part, capsys):
    with pytest.raises(UserError) as error:
        download('/lost', '/silent', '/other')
    message = str(error.value)
    printed = capsys.readouterr().out
    assert '/lost: the server answers 404' in printed
    assert '/silent: the connection broke after 70,000 of 256,000 bytes' in printed
    assert '/other: the md5 of what it sent is' in printed
    assert '/other: the md5 of what it sent is' in message
    assert 'cannot be downloaded from 3 addresses' in message
    assert 'a.tar: ' in message and 'same command' in message
    assert not part.exists() and not part.with_name('a.tar').exists()


def test_a_broken_download_keeps_its_part(download, part):
    with pytest.raises(UserError):
        download('/silent')
    assert part.read_bytes() == CONTENT[:70_000]


# --- the real archives ----------------------------------------------------------------------------


@pytest.mark.parametrize('has_torchvision', [True, False])
def test_addresses_and_md5_of_the_real_archives(monkeypatch, has_torchvision):
    if not has_torchvision:
        monkeypatch.setitem(sys.modules, 'torchvision.datasets', None)
        monkeypatch.setitem(sys.modules, 'torchvision.datasets.voc', None)
    voc = prepare.voc_archive()
    sbd = prepare.sbd_archive()
    assert voc.md5 == '6cd6e144f989b92b3379bac3b3de84fd' and voc.size == 1_999_639_040
    assert sbd.md5 == '82b4d87ceb2ed10f6038a1cba92111cb' and sbd.size == 1_419_539_633
    assert voc.urls[-2:] == (prepare.VOC_URL, prepare.VOC_MIRROR)
    assert prepare.SBD_URL in sbd.urls
    assert len(set(voc.urls)) == len(voc.urls)
