"""tool/files/npy.py and what reads through it: pickles of every protocol, and files that must
neither run code nor eat memory."""

import functools
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from mini import ROOT
from tool.files.lists import read_labels
from tool.files.maps import maps_size, read_maps
from tool.files.npy import read_npy
from tool.run.errors import LONGEST_LINE, UserError
from voc12.classes import VOC


def save_pickle(path, value, protocol):
    """`value` as the one element of an object array in a .npy, as np.save writes it, at any pickle
    protocol."""
    with open(path, 'wb') as file:
        np.lib.format.write_array_header_1_0(
            file, {'descr': '|O', 'fortran_order': False, 'shape': ()}
        )
        pickle.dump(np.array(value, dtype=object), file, protocol=protocol)


def save_body(path, body):
    with open(path, 'wb') as file:
        np.lib.format.write_array_header_1_0(
            file, {'descr': '|O', 'fortran_order': False, 'shape': ()}
        )
        file.write(body)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'file.npy')


SIZES = [(1, 1), (1, 2), (3, 5), (10, 300), (300, 10), (255, 256), (366, 500), (500, 1), (70000, 2)]


@pytest.mark.parametrize('protocol', [2, 3, 4, 5, 'np.save'])
@pytest.mark.parametrize('dtype', [np.float32, np.float16, np.float64])
def test_maps_and_their_size_at_every_pickle_protocol(path, protocol, dtype):
    for height, width in SIZES:
        for keys in [(0,), (3, 7), (0, 19, 20), (np.int64(4), np.int64(2))]:
            values = [(i + 0.5) / 4 for i in range(len(keys))]
            maps = {key: np.full((height, width), v, dtype) for key, v in zip(keys, values)}
            np.save(path, maps) if protocol == 'np.save' else save_pickle(path, maps, protocol)
            assert maps_size(path, VOC) == ((height, width), 'dict')
            read = read_maps(path, VOC, (height, width))
            assert list(read) == [int(key) for key in keys] and all(
                m.dtype == np.float32 for m in read.values()
            )
            assert [float(m.mean()) for m in read.values()] == values


@pytest.mark.parametrize('protocol', range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize('order', '<>')
def test_names_that_numpy_has_read_are_texts(path, protocol, order):
    names = np.array(['2007_ä', 'b'], f'{order}U6')  # as np.loadtxt gives them
    save_pickle(path, {name: np.ones(3, np.float32) for name in names}, protocol)
    found = read_npy(path)
    assert list(found) == ['2007_ä', 'b'] and {type(name) for name in found} == {str}


@pytest.mark.parametrize('code', [0xD800, 0x7FFFFFFF])
def test_a_damaged_name_of_numpys_is_refused(path, code):
    save_pickle(path, {np.str_('ä'): np.ones(3, np.float32)}, 4)
    with open(path, 'rb') as file:
        content = file.read()
    damaged = content.replace('ä'.encode('utf-32-le'), code.to_bytes(4, 'little'))
    assert damaged != content
    with open(path, 'wb') as file:
        file.write(damaged)
    with pytest.raises(UserError, match='it carries a damaged text'):
        read_npy(path)


def test_non_contiguous_and_fortran_maps(path):
    map_ = np.arange(35, dtype=np.float32).reshape(5, 7) / 64
    for protocol in (2, 4, 5):
        save_pickle(
            path,
            {0: np.asfortranarray(map_), 1: map_.repeat(2, 1)[:, ::2], 2: map_.astype('>f4')},
            protocol,
        )
        for read in read_maps(path, VOC).values():
            np.testing.assert_array_equal(read, map_)
            read += 1  # what was read is the reader's own


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


HOSTILE = {
    'os.system': lambda mark: Call(os.system, f'touch {mark}'),
    'eval': lambda mark: Call(eval, f'open({str(mark)!r}, "w")'),
    'partial': lambda mark: Call(functools.partial, os.system, f'touch {mark}'),
    'open': lambda mark: Call(open, str(mark), 'w'),
    'huge ndarray': lambda mark: Call(np.ndarray, (1 << 40,), np.dtype('f8')),
    'np.zeros': lambda mark: Call(np.zeros, 1 << 30),
    'torch': lambda mark: torch.zeros(2),
}


@pytest.mark.parametrize('kind', HOSTILE)
@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_pickled_calls_are_refused_and_not_made(path, tmp_path, kind, protocol):
    mark = tmp_path / 'was run'
    evil = HOSTILE[kind](mark)
    for value in (evil, {1: evil}, {1: np.ones((2, 2)), 'x': [evil]}):
        save_pickle(path, value, protocol) if value is not evil else save_body(
            path, pickle.dumps(value, protocol)
        )
        tracemalloc.start()
        for read, more in ((read_npy, ()), (read_maps, (VOC,)), (read_labels, (VOC,))):
            with pytest.raises(UserError, match='file.npy: refused'):
                read(path, *more)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()
    assert not mark.exists()


@pytest.mark.parametrize(
    'value',
    [
        {1: {2: np.ones(3)}},
        {1: [np.ones(3)]},
        {1: 'text'},
        {1: 2.0},
        {1: None},
        {True: np.ones(3)},
        {(1, 2): np.ones(3)},
        {1.5: np.ones(3)},
        {1: np.array([None, 1], object)},
        {1: np.array('x', object)},
        {1: np.array(['a', 'b'])},
        {1: np.ones(2, 'c8')},
        {1: np.ones(2, [('a', 'f4')])},
        [np.ones(3)],
        'text',
        None,
        7,
    ],
    ids=repr,
)
def test_what_is_no_dict_of_numbers_is_refused(path, value):
    np.save(
        path,
        np.array(value, dtype=object) if not isinstance(value, list) else np.array([value], object),
    )
    with pytest.raises(UserError, match='file.npy: refused'):
        read_npy(path)


def glob(module, name):
    return f'c{module}\n{name}\n'.encode()


def array_pickle(
    dtype, shape, data, state=b'(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
):
    """A protocol 2 pickle of one array whose dtype state and shape are free to lie."""
    return (
        b'\x80\x02'
        + glob('numpy.core.multiarray', '_reconstruct')
        + b'('
        + glob('numpy', 'ndarray')
        + b'(K\x00tU\x01btR(K\x01'
        + shape
        + glob('numpy', 'dtype')
        + b'(U'
        + bytes([len(dtype)])
        + dtype
        + b'I00\nI01\ntR'
        + state
        + b'I00\n'
        + data
        + b'tb.'
    )


@pytest.mark.parametrize(
    'body',
    [
        array_pickle(
            b'O8', b')', b'C\x08' + b'A' * 8
        ),  # bytes that would be taken for an object's address
        array_pickle(b'O8', b'(K\x02t', b'C\x10' + b'A' * 16),
        array_pickle(b'O8', b'(J\xff\xff\xff\x7ft', b']'),  # 16 GB of pointers
        array_pickle(b'f8', b'(J\xff\xff\xff\x7ft', b'C\x08' + b'A' * 8),
        b'\x80\x04r\xff\xff\xff\x7fN.',  # a memo of 2^31 entries
        b'\x80\x02Nr\xff\xff\xff\x01.',
        b'\x80\x02Np20000000\n.',  # memos of 2^25 and 20 million entries
        b'\x80\x05\x96' + struct.pack('<Q', 1 << 36) + b'.',  # bytearrays and bytes of 64 GB
        b'\x80\x04\x8e' + struct.pack('<Q', 1 << 36) + b'.',
        b'\x80\x04\x95' + struct.pack('<Q', 1 << 60) + b'N.',
        glob('numpy', 'dtype') + b'(U\x02f4tR.',
        glob('numpy', 'ndarray') + b'(K\x05tR.',
        b'',
        b'.',
        b'N',
        b'\xff\xff',
    ],
)
def test_forged_pickles(path, body):
    save_body(path, body)
    tracemalloc.start()
    with pytest.raises(UserError, match='file.npy: refused'):
        read_npy(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # numpy evaluates the damaged headers
def test_damaged_npy_gives_a_dict_or_a_user_error(path):
    rng, wholes = random.Random(0), []
    for protocol in (2, 4, 5):
        save_pickle(
            path, {3: np.ones((2, 3), np.float32), 11: np.zeros((2, 3), np.float32)}, protocol
        )
        wholes.append(Path(path).read_bytes())
    np.save(path, np.ones((21, 2, 3), np.float32))
    wholes.append(Path(path).read_bytes())
    refused = 0
    for turn in range(1600):
        data = bytearray(wholes[turn % 4])
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(min(len(data), 700))] = rng.randrange(256)
        Path(path).write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
        for read in (read_maps, maps_size):
            try:
                read(path, VOC)
            except UserError:
                refused += 1
    assert refused > 1000


@pytest.mark.parametrize(
    'header, data',
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (21, 99999, 99999), }", bytes(64)),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (21, 2000, 2000), }", bytes(64)),
        ("{'descr': '<U4', 'fortran_order': False, 'shape': (21, 1, 1), }", bytes(21 * 16)),
        ("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (), }", bytes(8)),
        ("{'descr': '<f4', 'shape': (2", b''),
        ('', b''),
    ],
)
def test_lying_npy_headers(path, header, data):
    text = header.encode().ljust(117) + b'\n'
    Path(path).write_bytes(b'\x93NUMPY\x01\x00' + struct.pack('<H', len(text)) + text + data)
    tracemalloc.start()
    with pytest.raises(UserError, match='file.npy: refused'):
        read_maps(path, VOC)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize('version', [b'\0\0', b'\2\0', b'\3\0'])
def test_the_length_of_a_header_is_not_believed(path, version):
    """numpy reads as many bytes as the header says, and makes room for them first."""
    length = struct.pack('<I', 1 << 30)
    Path(path).write_bytes(b'\x93NUMPY' + version + length + b"{'descr': '|O'}" + bytes(99))
    tracemalloc.start()
    for read in (read_npy, lambda path: maps_size(path, VOC)):
        with pytest.raises(UserError, match='file.npy: refused'):
            read(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


# ---------------------------------------------------------------- small files that eat the machine


def head(protocol=2):
    return b'\x80' + bytes([protocol])


def nested_key(levels, again):
    """A dict whose key is a tuple that holds a tuple …; with `again` each holds the same one
    twice, so that its hash value takes 2^levels steps."""
    body = bytearray(head() + b'}' + b')q\x00')
    for level in range(levels):
        place = bytes([level % 256])
        body += b'h' + place + b'\x86' if again else b'\x85'
        body += b'q' + bytes([(level + 1) % 256])
    return bytes(body) + b'K\x01s.'


def outer(content):
    """The pickle of the outermost array, of a dict whose pickle is `content`."""
    return array_pickle(b'O8', b')', b']' + content + b'a')


def shared_bytes(size, count):
    """One bytes object that `count` arrays of the dict are made from."""
    body = b'}' + b'B' + struct.pack('<I', size) + bytes(size) + b'q\x630'
    dtype = glob('numpy', 'dtype') + b'(U\x02u1I00\nI01\ntRq\x64'
    state = b'(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb0'
    body += dtype + state + glob('numpy.core.multiarray', '_reconstruct') + b'q\x650'
    body += glob('numpy', 'ndarray') + b'q\x660'
    for index in range(count):
        body += b'M' + struct.pack('<H', index) + b'h\x65h\x66K\x00\x85U\x01b\x87R'
        body += b'(K\x01M' + struct.pack('<H', size) + b'\x85h\x64I00\nh\x63tbs'
    return outer(body)


def growing_dtype(turns):
    """A dtype whose byte order is its own long one, again and again."""
    body = glob('numpy', 'dtype') + b'(U\x02f4I00\nI01\ntR'
    body += b'X' + struct.pack('<I', 1 << 16) + b'<' * (1 << 16) + b'q\x630'
    for _ in range(turns):
        body += b'K\x03h\x63\x86b'
    return head() + body + b'.'


def encoded_again(size, count):
    """A list of one text, encoded again and again."""
    body = b']' + b'X' + struct.pack('<I', size) + b'a' * size + b'q\x630'
    for _ in range(count):
        body += glob('_codecs', 'encode') + b'h\x63U\x06latin1\x86Ra'
    return head() + body + b'.'


EATERS = {
    # name: (function that makes the body, its arguments)
    'a key of tuples with shared tuples': (nested_key, 60, True),
    'a key of tuples, deep': (nested_key, 300_000, False),
    'an outer dict with such a key': (lambda: outer(nested_key(60, True)[2:-1]),),
    'one bytes object as 1,000 arrays': (shared_bytes, 60_000, 1000),
    'a byte order that grows': (growing_dtype, 5000),
    'a text encoded 1,000 times': (encoded_again, 1 << 20, 1000),
    'a number of 200,000 digits': (lambda: head() + b'L' + b'9' * 200_000 + b'L\n.',),
    'a number of 1 MB': (
        lambda: head() + b'\x8b' + struct.pack('<i', 1 << 20) + b'\x7f' * (1 << 20) + b'.',
    ),
    'a set': (lambda: head(4) + b'\x8f(K\x01\x90.',),
}
READ = """
import resource, sys
sys.path.insert(0, {root!r})
import numpy
from tool.files.npy import read_npy
from tool.run.errors import LONGEST_LINE, UserError
with open('/proc/self/statm') as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {memory}, used + {memory}))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
try:
    read_npy({path!r})
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize('kind', EATERS)
@pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='needs /proc')
def test_a_small_file_takes_little_time_and_memory(path, kind):
    """In a process with limits, so that a regression fails and does not stop the machine."""
    make, *arguments = EATERS[kind]
    save_body(path, make(*arguments))
    memory = (32 << 20) + 30 * os.path.getsize(path)
    code = READ.format(root=str(ROOT), path=path, memory=memory)
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, (result.returncode, result.stderr[-500:])
    assert f'{path}: refused' in result.stdout and len(result.stdout) <= LONGEST_LINE + 1
    # not because the memory was full: that error has no text, or one of numpy
    assert 'arrays ()' not in result.stdout and 'allocate' not in result.stdout


def test_arrays_may_be_shared_by_keys(path):
    """One label of many pictures: the arrays are the same, and nothing is copied."""
    label = np.ones(20, np.float32)
    shared = {f'picture {number}': label for number in range(1000)}
    np.save(path, shared)
    assert list(read_labels(path, VOC)) == list(shared)


def test_shared_maps_are_converted_once(path):
    class_map = np.ones((500, 500), np.float16)
    np.save(path, {class_id: class_map for class_id in range(20)})
    tracemalloc.start()
    maps = read_maps(path, VOC)
    assert len(maps) == 20 and tracemalloc.get_traced_memory()[1] < 10 * class_map.nbytes
    tracemalloc.stop()


def test_a_pipe_is_refused_and_not_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(UserError, match='is a pipe or a device'):
        read_npy(path)
