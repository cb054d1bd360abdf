"""Files of `torch.save`: written so that equal values give equal files, and read with their
checksums.

Such a file is a zip archive of uncompressed entries. torch.save writes a CRC-32 of every entry, and
torch.load does not look at them, so that a flipped byte would become another weight.
"""

import os
import zipfile
from typing import Any, BinaryIO

from tool.files.atomic import atomic
from tool.files.reading import open_file
from tool.files.torch_pickles import check_torch_pickles

# The first bytes of a zip archive. Older files of torch.save are none, and have no checksums.
_ZIP = b'PK\x03\x04'
# The bit of an entry's external attributes that makes it a folder.
_FOLDER = 0x10


def write_torch(path: str, value: Any) -> None:
    """Write a value atomically, as torch.save does.

    Given a path, torch.save writes the file's name into the file, here the random one of a
    temporary file. Given an open file it does not, so equal values give equal bytes: the same
    training again gives the file whose fingerprint its CAMs carry.

    Raises:
        OutputError: the file cannot be written; the one that was there is left as it was.
    """
    import torch

    with atomic(path) as temporary, open(temporary, 'wb') as file:
        try:
            torch.save(value, file)
            file.flush()
            os.fsync(file.fileno())
        except RuntimeError as error:
            # torch's zip writer raises this for the error of a full disk, which is its context
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read_torch(path: str) -> Any:
    """Read a file of torch.save, its tensors on the CPU, without running code of the file.

    Raises:
        Exception: the file is damaged or hostile; such a file can raise anything.
    """
    import torch

    check_torch_pickles(path)
    check_checksums(path)
    return torch.load(path, map_location='cpu', weights_only=True)


def check_checksums(path: str) -> None:
    """Check the CRC-32 of every entry of a file of torch.save, at 2 to 3 GB/s.

    A file of `torch.serialization.set_crc32_options(False)` has 0 for every checksum, and is taken
    as it is.

    Raises:
        ValueError: an entry has other bytes than were written, or is compressed, or the entries
            together are larger than the file.
        zipfile.BadZipFile: the archive is damaged.
    """
    with open_file(path) as file:
        if file.read(len(_ZIP)) != _ZIP:
            return
        _check_zip(file)


def _check_zip(file: BinaryIO) -> None:
    """`check_checksums` of a zip archive."""
    length = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        # checked before anything is read, so that no small file takes long
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError('its entries are compressed, which torch.save does not do')
        if any(entry.external_attr & _FOLDER for entry in entries):
            raise ValueError('an entry is marked as a folder, of which torch.load reads nothing')
        if sum(entry.file_size for entry in entries) > length:
            raise ValueError('its entries overlap')
        if all(entry.CRC == 0 for entry in entries):
            return
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f'the checksum of {damaged} is another one: bytes of the file changed')
