"""A look at what a file of torch.save asks of torch.load, before it is loaded.

`torch.load(weights_only=True)` runs no code of the file, but it believes the sizes in it: a few
hundred bytes could allocate gigabytes, make a process crash by reading behind the data, or keep it
busy for ever. `check_torch_pickles` is called before a file is loaded, `check_stored` on the
tensors before they are used.
"""

import io
import os
import re
import zipfile
from typing import BinaryIO

from tool.files.pickles import Name, Scan, Tuple, scan
from tool.files.reading import open_file
from tool.run.errors import UserError

# The first bytes of a zip archive, which torch.save has written since version 1.6.
_ZIP = b'PK\x03\x04'
# The first bytes of an older file: the pickle of a number. Pickles of the version, the machine, the
# value and the keys of its storages follow, and then the numbers of the tensors.
_OLD = b'\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.'
_OLD_PICKLES = 4
# Bytes of an element, by the name of the storage class of its type.
_ELEMENT_SIZES = {
    'BoolStorage': 1,
    'ByteStorage': 1,
    'CharStorage': 1,
    'ShortStorage': 2,
    'IntStorage': 4,
    'LongStorage': 8,
    'HalfStorage': 2,
    'BFloat16Storage': 2,
    'FloatStorage': 4,
    'DoubleStorage': 8,
    'ComplexFloatStorage': 8,
    'ComplexDoubleStorage': 16,
    'QInt8Storage': 1,
    'QUInt8Storage': 1,
    'QInt32Storage': 4,
    'QUInt4x2Storage': 1,
    'QUInt2x4Storage': 1,
    'UntypedStorage': 1,
}
_STORAGE = re.compile(r'torch\.(?:storage\.)?(\w+Storage)')
# The classes and functions that a file of tensors, numbers and texts has. torch.load accepts more,
# among them some that allocate what the file asks for.
_DATA = re.compile(
    _STORAGE.pattern
    + r'|torch\.Size'
    # devices and the types of numbers, e.g. torch.float32
    + r'|torch\.[a-z]\w*'
    + r'|torch\.nn\.parameter\.Parameter'
    + r'|torch\.serialization\._get_layout'
    + r'|torch\._tensor\._rebuild_from_type_v2'
    # sparse, quantised and meta tensors can be loaded, so that the message can name the tensor
    + r'|torch\._utils\._rebuild_(?:tensor|tensor_v2|tensor_v3|parameter|parameter_with_state'
    + r'|sparse_tensor|qtensor|meta_tensor_no_storage|nested_tensor)'
    + r'|collections\.OrderedDict'
)


def check_torch_pickles(path: str) -> None:
    """Check the pickles of a file of torch.save; the tensors themselves are not read.

    Raises:
        Exception: the file is damaged or hostile; such a file can raise anything, mostly a
            ValueError or an UnpicklingError.
    """
    with open_file(path) as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
        file.seek(0)
        if is_zip:
            _check_zip(file)
        else:
            _check_old(file)


def _check_zip(file: BinaryIO) -> None:
    """`check_torch_pickles` of a zip archive: each tensor has its numbers in an entry."""
    length = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        pickles = [entry for entry in entries if entry.filename.split('/')[1:] == ['data.pkl']]
        if len(pickles) != 1:
            raise ValueError(f'it has {len(pickles)} entries data.pkl, not one')
        (entry,) = pickles
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > length:
            raise ValueError('its data.pkl is compressed, which torch.save does not do')
        if entry.CRC == 0:  # written without checksums, see `torch_files.check_checksums`
            entry.CRC = None  # type: ignore[assignment]  # zipfile then checks none
        content = archive.read(entry)
    folder = entry.filename.removesuffix('data.pkl')
    size_of = {entry.filename: entry.file_size for entry in entries}
    for key, size in _storages(scan(io.BytesIO(content))).items():
        if size > size_of.get(f'{folder}data/{key}', -1):
            raise ValueError(f'a tensor has {size:,} bytes, its entry data/{key} has fewer')


def _check_old(file: BinaryIO) -> None:
    """`check_torch_pickles` of an old file: the numbers of all tensors follow the pickles."""
    if file.read(len(_OLD)) != _OLD:
        raise ValueError('it does not begin like a file of torch.save')
    total = 0
    for _ in range(_OLD_PICKLES):
        total += sum(_storages(scan(file)).values())
    left = os.fstat(file.fileno()).st_size - file.tell()
    if total > left:
        raise ValueError(f'its tensors have {total:,} bytes, and {left:,} follow')


def _storages(found: Scan) -> dict[str, int]:
    """{key of each storage that a pickle refers to: the bytes that it says that it has}."""
    for name in sorted(found.names):
        if not _DATA.fullmatch(name):
            raise ValueError(f'it holds {name}, and plain weights are tensors, numbers and texts')
    size_of: dict[str, int] = {}
    for reference in found.persistent:
        key, size = _storage(reference)
        size_of[key] = max(size, size_of.get(key, 0))
    return size_of


def _storage(reference: Tuple) -> tuple[str, int]:
    """(key, bytes) of the storage that a persistent id stands for."""
    # ('storage', class of the storage, key, device, number of elements), in old files one more item
    if len(reference.items) not in (5, 6):
        raise ValueError('it refers to something else than the numbers of a tensor')
    _, storage_class, key, _, count = reference.items[:5]
    match = isinstance(storage_class, Name) and _STORAGE.fullmatch(storage_class.name)
    element_size = _ELEMENT_SIZES.get(match[1]) if match else None
    if element_size is None or not isinstance(key, str) or not isinstance(count, int) or count < 0:
        raise ValueError('it refers to something else than the numbers of a tensor')
    return key, count * element_size


def check_stored(path: str, state: dict) -> None:
    """Check that the tensors of a file are stored in it, element by element.

    Args:
        path: the file, already loaded.
        state: {key: dense tensor}.
    Raises:
        UserError: a tensor repeats a few stored numbers (by a stride of 0), or the tensors have
            more bytes than the file.
    """
    fix = 'save it again with contiguous tensors'
    size_of: dict[int, int] = {}
    for key, value in state.items():
        storage = value.untyped_storage()
        if value.numel() * value.element_size() > storage.nbytes():
            raise UserError(
                f'{path}: {key} of shape {tuple(value.shape)} has only {storage.nbytes()} bytes in '
                f'the file, which it repeats; {fix}'
            )
        size_of[storage.data_ptr()] = storage.nbytes()
    total = sum(size_of.values())
    if total > os.path.getsize(path):
        raise UserError(f'{path}: its tensors have {total:,} bytes, more than the file; {fix}')
