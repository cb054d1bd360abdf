"""Archives of a data set: download with resume, md5, and reading tar files without trusting them.

`voc12/prepare.py` is the command that uses this module.
"""

import bz2
import contextlib
import gzip
import hashlib
import http.client
import lzma
import os
import posixpath
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from tool.files.atomic import need_file
from tool.files.reading import open_file
from tool.run.errors import UserError
from tool.run.progress import progress

BLOCK = 1 << 20  # bytes that are read at a time
TIMEOUT = 60  # seconds without a byte after which a connection counts as broken
ATTEMPTS = 3  # connections to one address that may break without a new byte
LARGEST_FILE = 256 << 20  # bytes; a file in an archive that claims to be larger is refused
MOST_TIMES = 20  # an archive may unpack to so many times its own size,
SPARE = 1 << 20  # and to so many bytes more
DISK_BLOCK = 4096  # bytes; a file on disk takes a multiple of this


@dataclass(frozen=True)
class Archive:
    """An archive that the data is made from.

    Attributes:
        filename: its name in the folder of archives.
        urls: addresses to download it from; the second is tried where the first fails, and so on.
        md5: md5 sum of the file; None accepts any file, as --no_md5 does.
        size: bytes of the file, for the check of free disk.
    """

    filename: str
    urls: tuple[str, ...]
    md5: str | None
    size: int


def provide(archive: Archive, folder: str, download: bool) -> str:
    """The path of an archive in a folder, downloaded where it is missing, after its md5 is checked.

    Args:
        archive: which one.
        folder: folder of archives.
        download: download it where it is missing.
    Raises:
        UserError: it is missing and may not or cannot be downloaded, or its md5 is another.
    """
    path = os.path.join(folder, archive.filename)
    if not os.path.exists(path) and download:
        return download_archive(archive, folder)
    need_file(path, 'download it with --download, or name the folder that holds it with --archives')
    if archive.md5 is not None:
        found = md5_of_file(path)
        if found != archive.md5:
            raise UserError(
                f'{path}: its md5 is {found}, expected {archive.md5} '
                f'({os.path.getsize(path):,} bytes, expected {archive.size:,}); remove it and run '
                'the command again with --download, or give --no_md5 for an archive of another '
                'source'
            )
    return path


def md5_of_file(path: str) -> str:
    """md5 sum of a file, with a progress bar."""
    digest = hashlib.md5(usedforsecurity=False)
    name = os.path.basename(path)
    try:
        size = os.path.getsize(path)
        with (
            open_file(path) as file,
            progress(total=size, desc=f'md5 of {name}', unit='B', scale=True) as bar,
        ):
            while block := file.read(BLOCK):
                digest.update(block)
                bar.update(len(block))
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); copy it again') from None
    return digest.hexdigest()


def need_space(folder: str, needed: int, what: str) -> None:
    """Check that the disk of a folder, which need not exist yet, has room.

    Args:
        folder: where the files will be.
        needed: bytes that they take.
        what: what needs them, for the message.
    Raises:
        UserError: fewer bytes are free.
    """
    existing = os.path.abspath(folder)
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f'{folder}: {what} takes {needed / 1e9:.2f} GB and only {free / 1e9:.2f} GB are free; '
            'free some or choose another disk'
        )


# --- download -------------------------------------------------------------------------------------


class _Broken(Exception):
    """A download that failed at one address; the message is the reason."""


def download_archive(archive: Archive, folder: str) -> str:
    """Download an archive into a folder, and return its path.

    The bytes go to <filename>.part, from which a later call continues. The file gets its name when
    its md5 fits.

    Raises:
        UserError: the disk is full, or no address gave the file.
    """
    path = os.path.join(folder, archive.filename)
    part = path + '.part'
    need_space(folder, archive.size - _size(part), f'the download of {archive.filename}')
    reasons = []
    for url in archive.urls:
        try:
            os.makedirs(folder, exist_ok=True)
            _download_from(url, part)
            if archive.md5 is not None:
                found = md5_of_file(part)
                if found != archive.md5:
                    os.unlink(part)  # these bytes cannot become the file
                    raise _Broken(f'the md5 of what it sent is {found}, expected {archive.md5}')
            os.replace(part, path)
            return path
        except _Broken as error:
            print(f'{url}: {error}', flush=True)
            reasons.append(f'{url}: {error}')
        except OSError as error:
            raise UserError(
                f'{part}: cannot be written ({error.strerror}); choose another folder with '
                '--archives'
            ) from None
    # one line has no room for all of them, which have been printed
    raise UserError(
        f'{path}: cannot be downloaded from {len(reasons)} addresses, the last was {reasons[-1]}; '
        'run the same command again, which continues, or put a copy of the file there'
    )


def _size(path: str) -> int:
    """Bytes of a file; 0 where there is none."""
    return os.path.getsize(path) if os.path.exists(path) else 0


def _download_from(url: str, part: str) -> None:
    """Download the rest of a file from one address; a connection that breaks is made again.

    Raises:
        _Broken: the address does not give the whole file.
        OSError: the file cannot be written.
    """
    failures = 0
    while True:
        before = _size(part)
        try:
            _connect_and_append(url, part)
            return
        except _Broken:
            has_grown = _size(part) > before
            failures = 0 if has_grown else failures + 1
            if failures == ATTEMPTS:
                raise


def _connect_and_append(url: str, part: str) -> None:
    """Append the rest of a file to `part` over one connection; errors as `_download_from`."""
    have = _size(part)
    # "identity": a compressed transfer would count other bytes than the file has.
    request = urllib.request.Request(url, headers={'Accept-Encoding': 'identity'})
    if have:
        request.add_header('Range', f'bytes={have}-')
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing is left to send; the md5 decides about the file
            size_there = error.headers.get('Content-Range', '').rpartition('/')[2]
            if size_there == str(have):
                return
            os.unlink(part)
        raise _Broken(f'the server answers {error.code} {error.reason}') from None
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(getattr(error, 'reason', error))) from None

    with response:
        continues = response.status == 206
        start = have if continues else 0  # a server that ignores Range sends the whole file
        if continues:
            sent_range = response.headers.get('Content-Range', '')
            if not sent_range.startswith(f'bytes {have}-'):
                raise _Broken(f'the server sent another range ({sent_range})')
        length = response.headers.get('Content-Length')
        total: int | None = None
        if length is not None and length.isdigit():
            total = start + int(length)
        name = os.path.basename(part).removesuffix('.part')
        bar = progress(total=total, initial=start, desc=name, unit='B', scale=True)
        with open(part, 'ab' if continues else 'wb') as file, bar:
            received = start
            for block in _blocks(response):
                file.write(block)
                received += len(block)
                bar.update(len(block))
    if total is not None and received < total:
        raise _Broken(f'the connection broke after {received:,} of {total:,} bytes')


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The bytes of an answer, block by block."""
    while True:
        try:
            block = response.read(BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(f'the connection broke ({error})') from None
        if not block:
            return
        yield block


# --- reading --------------------------------------------------------------------------------------


def read_files(path: str, wanted: Callable[[str, int], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of files in a tar archive, compressed or not, in its order.

    The caller writes the files itself, so nothing of the archive decides where a file comes to lie.

    Args:
        path: the archive.
        wanted: wanted(name, size in bytes) says which files to read.
    Raises:
        UserError: the archive is damaged or truncated; a name is absolute or has '..' in it; or
            something wanted is no plain file but a link or a device.
    """
    with _readable(path), _open_tar(path) as archive:
        for name, member in _wanted_members(path, archive, wanted):
            file = archive.extractfile(member)
            content = file.read() if file is not None else b''
            if len(content) != member.size:
                raise tarfile.ReadError('unexpected end of data')
            yield name, content


def disk_size(path: str, wanted: Callable[[str, int], bool]) -> int:
    """Bytes that the wanted files of an archive take on disk; arguments and errors as
    `read_files`."""
    total = 0
    with _readable(path), _open_tar(path) as archive:
        for _, member in _wanted_members(path, archive, wanted):
            blocks = -(-member.size // DISK_BLOCK)  # rounded up
            total += blocks * DISK_BLOCK
    return total


@contextlib.contextmanager
def _open_tar(path: str) -> Iterator[tarfile.TarFile]:
    """Open a tar archive, compressed or not, that may unpack to MOST_TIMES its own size."""
    with open_file(path) as file:
        limit = MOST_TIMES * os.fstat(file.fileno()).st_size + SPARE
        start = file.read(4)
        file.seek(0)
        unpacked: IO[bytes] = file
        if start.startswith(b'\x1f\x8b'):
            unpacked = gzip.open(file)
        elif start.startswith(b'BZh'):
            unpacked = bz2.open(file)
        elif start.startswith(b'\xfd7zX'):
            unpacked = lzma.open(file)
        with tarfile.open(fileobj=_Limited(unpacked, limit), mode='r:') as archive:  # type: ignore
            yield archive


class _Limited:
    """An open file that is refused behind a number of bytes: what tarfile needs of a file.

    A few megabytes can unpack to a terabyte, which even passing over them would unpack.
    """

    def __init__(self, file: IO[bytes], limit: int):
        self.file = file
        self.limit = limit

    def tell(self) -> int:
        return self.file.tell()

    def read(self, size: int) -> bytes:
        self._check(self.file.tell() + size)
        return self.file.read(size)

    def seek(self, position: int) -> int:
        self._check(position)
        return self.file.seek(position)

    def _check(self, position: int) -> None:
        if position > self.limit:
            raise tarfile.ReadError(f'it unpacks to more than {self.limit:,} bytes')


def _wanted_members(
    path: str, archive: tarfile.TarFile, wanted: Callable[[str, int], bool]
) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yield (name, member) of the wanted files; arguments and errors as `read_files`."""
    for member in archive:
        name = _safe_name(path, member)
        if member.isdir() or not wanted(name, member.size):
            continue
        if not member.isfile():
            raise UserError(f'{path}: {name} in it is a link or a device; refused')
        if member.size > LARGEST_FILE:
            raise UserError(f'{path}: {name} in it has {member.size:,} bytes; refused')
        yield name, member


def _safe_name(path: str, member: tarfile.TarInfo) -> str:
    """The name of a member without './', if it stays below the folder that it is unpacked in.

    tarfile's own filter 'data' is newer than the oldest Python here, takes the slash off an
    absolute name instead of refusing it, and refuses a data folder that is a link to another disk.
    """
    if member.name.startswith('/') or '..' in member.name.split('/'):
        raise UserError(
            f'{path}: {member.name} in it would be written outside the data folder; refused, '
            'download the archive again'
        )
    return posixpath.normpath(member.name)


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """Turn what a damaged archive raises into a UserError."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise UserError(
            f'{path}: damaged or truncated ({error}); remove it and run the command again with '
            '--download'
        ) from None
