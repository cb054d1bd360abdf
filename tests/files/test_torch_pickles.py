"""tool/files/torch_pickles.py: checkpoints that ask for more than they hold, and whole ones."""

import io
import os
import random
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict

import pytest
import torch

from mini import ROOT
from tool.files.checkpoints import load_checkpoint
from tool.files.torch_pickles import check_torch_pickles
from tool.run.errors import LONGEST_LINE, UserError


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'net.pth')


def save_zip(path, body, entries=None, **options):
    """A file of torch.save whose pickle is `body`; entries: {key: bytes} of the tensors."""
    with zipfile.ZipFile(path, 'w', **options) as archive:
        archive.writestr('net/data.pkl', body)
        archive.writestr('net/version', '3\n')
        for key, content in (entries or {}).items():
            archive.writestr(f'net/data/{key}', content)


def glob(module, name):
    return f'c{module}\n{name}\n'.encode()


def text(value):
    return b'X' + struct.pack('<I', len(value)) + value.encode()


def number(value):
    return b'\x8a\x08' + struct.pack('<q', value)


def tensor(count, size, stride, key='0', storage='FloatStorage'):
    """The pickle of a tensor whose storage says that it has `count` elements."""
    reference = b'(' + text('storage') + glob('torch', storage) + text(key) + text('cpu')
    reference += number(count) + b'tQ'
    body = glob('torch._utils', '_rebuild_tensor_v2') + b'(' + reference + b'K\x00'
    body += number(size) + b'\x85' + number(stride) + b'\x85\x89'
    return body + glob('collections', 'OrderedDict') + b')RtR'


def state(**pickles):
    """The pickle of a dict with these values."""
    body = b'\x80\x02}'
    for key, value in pickles.items():
        body += text(key) + value + b's'
    return body + b'.'


WHOLE = {
    'contiguous': {'a': torch.arange(6.0).reshape(2, 3), 'count': torch.tensor(3)},
    'a transposed tensor': {'a': torch.arange(6.0).reshape(2, 3).t()},
    'a part of a tensor': {'a': torch.arange(60.0)[10:20]},
    'tied tensors': dict.fromkeys('abc', torch.arange(50.0)),
    'no elements': {'a': torch.zeros(0, 3), 'b': torch.zeros(0)},
    'other numbers': {
        str(dtype): torch.ones(3, dtype=dtype)
        for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool)
    },
    'parameters': {'a': torch.nn.Parameter(torch.ones(3))},
    'a network': torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
    ).state_dict(),
}


@pytest.mark.parametrize('kind', WHOLE)
@pytest.mark.parametrize('is_new', [True, False], ids=['zip', 'old'])
def test_whole_checkpoints_are_read(path, kind, is_new):
    torch.save(WHOLE[kind], path, _use_new_zipfile_serialization=is_new)
    loaded = load_checkpoint(path)
    assert list(loaded) == list(WHOLE[kind])
    for key, value in WHOLE[kind].items():
        assert loaded[key].dtype == value.dtype and torch.equal(loaded[key], value)


def test_what_a_checkpoint_carries_beside_its_weights_is_read(path):
    weights = OrderedDict(a=torch.ones(2))
    weights.class_names = ['background', 'cat']
    weights.config = {'TEST_MULTISCALE': [0.5, 1], 'TEST_FLIP': True, 'DATA_MEAN': (0.1, 0.2)}
    torch.save(weights, path)
    assert load_checkpoint(path).config == weights.config


READ = """
import glob, os, resource, sys
sys.path.insert(0, {root!r})
import torch
from tool.files.checkpoints import load_checkpoint
from tool.run.errors import UserError
with open('/proc/self/statm') as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {memory}, used + {memory}))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for number in range({count}):
    path = f'{folder}/{{number}}.pth'
    try:
        print(f'{{path}}: read, and {{len(load_checkpoint(path))}} tensors', flush=True)
    except UserError as error:
        print(error, flush=True)
"""
HUGE = 1 << 32


def nested_key():
    body = b'\x80\x02})q\x00'
    for level in range(60):
        body += b'h' + bytes([level]) + b'\x86q' + bytes([level + 1])
    return body + b'K\x01s.'


EATERS = {
    # name: (bytes of the pickle, {key: bytes of the tensor's numbers}, part of the message)
    'a storage that is larger than its entry': (
        state(a=tensor(HUGE, HUGE, 1)),
        {'0': bytes(64)},
        'a tensor has 17,179,869,184 bytes, its entry data/0 has fewer',
    ),
    'a shape that is larger than its storage': (
        state(a=tensor(16, HUGE, 1)),
        {'0': bytes(64)},
        '',  # newer versions of torch do not resize such a storage, and say so
    ),
    'a stride of 0': (
        state(**{'bn7.weight': tensor(1, 16_384, 0)}),
        {'0': bytes(4)},
        'bn7.weight of shape (16384,) has only 4 bytes in the file, which it repeats',
    ),
    'a stride of 0 of 4 billion': (
        state(timm_model=tensor(1, HUGE, 0, storage='ByteStorage')),
        {'0': bytes(1)},
        'has only 1 bytes in the file',
    ),
    'a key of tuples with shared tuples': (nested_key(), {}, 'a long or nested tuple'),
    'a reference of such tuples': (
        nested_key().replace(b'K\x01s.', b'Q.'),
        {},
        'a long or nested tuple',
    ),
    'a bytearray': (
        state(a=glob('builtins', 'bytearray') + number(HUGE) + b'\x85R'),
        {},
        'it holds builtins.bytearray, and plain weights are tensors',
    ),
    'a new tensor': (
        state(a=glob('torch', 'FloatTensor') + number(HUGE) + b'\x85R'),
        {},
        'it holds torch.FloatTensor',
    ),
    'code': (state(a=glob('os', 'system') + text('true') + b'\x85R'), {}, 'it holds os.system'),
    'no storage': (state(a=b'K\x01\x85Q'), {}, 'it refers to something else than the numbers'),
    'a long text': (
        b'\x80\x02}' + text('a' * 1_000_000) + b'K\x01s.',
        {},
        'not a bare state dict',
    ),
}


@pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='needs /proc')
def test_small_checkpoints_take_little_time_and_memory(tmp_path):
    """In one process with limits, so that a regression fails and does not stop the machine."""
    for number, (body, entries, _) in enumerate(EATERS.values()):
        save_zip(tmp_path / f'{number}.pth', body, entries)
    code = READ.format(root=str(ROOT), folder=tmp_path, count=len(EATERS), memory=1 << 30)
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=200
    )
    lines = result.stdout.splitlines()
    for number, (kind, (_, _, part)) in enumerate(EATERS.items()):
        assert len(lines) > number, f'{kind}: {result.returncode} {result.stderr[-500:]}'
        assert lines[number].startswith(f'{tmp_path}/{number}.pth: ') and part in lines[number]
        assert len(lines[number]) <= LONGEST_LINE
    assert result.returncode == 0


def test_an_old_file_that_claims_too_much(path):
    content = io.BytesIO()
    torch.save({'a': torch.ones(1000)}, content, _use_new_zipfile_serialization=False)
    whole = content.getvalue()
    for part, forged, message in (
        # the storage, and then the shape, for which torch would make the storage larger
        (b'M\xe8\x03N', b'M\xff\xffN', 'its tensors have 262,140 bytes, and 4,0.. follow'),
        (b'M\xe8\x03\x85', b'M\xff\xff\x85', '262,?140'),
    ):
        assert whole.count(part) == 1
        with open(path, 'wb') as file:
            file.write(whole.replace(part, forged))
        with pytest.raises(UserError, match=message):
            load_checkpoint(path)


def test_a_compressed_pickle_is_refused_before_it_is_read(path):
    save_zip(path, b'\x80\x02' + b'N0' * 5_000_000 + b'N.', compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match='its data.pkl is compressed'):
        load_checkpoint(path)


@pytest.mark.parametrize('is_new', [True, False], ids=['zip', 'old'])
def test_damaged_files_raise_nothing_but_a_user_error(path, is_new):
    rng = random.Random(0)
    torch.save(WHOLE['a network'], path, _use_new_zipfile_serialization=is_new)
    with open(path, 'rb') as file:
        whole = file.read()
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(3):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with open(path, 'wb') as file:
            file.write(data[: rng.choice([len(data), rng.randrange(len(data))])])
        try:
            load_checkpoint(path)
        except UserError:
            refused += 1
    assert refused > 50


def test_what_is_no_file_of_torch_is_refused(path):
    for content in (b'', b'PK\x03\x04', b'\x80\x02.', b'text\n' * 9):
        with open(path, 'wb') as file:
            file.write(content)
        with pytest.raises(Exception):  # noqa: B017 it can be any
            check_torch_pickles(path)
        with pytest.raises(UserError, match='net.pth: not a PyTorch checkpoint'):
            load_checkpoint(path)
