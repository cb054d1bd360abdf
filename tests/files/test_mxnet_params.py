"""tool/files/mxnet_params.py: every array version and data type, the ResNet-38 names, and files
that are not what they claim."""

import random
import struct
import tracemalloc

import numpy as np
import pytest
import torch

from mini import GOLDEN
from network.resnet38d import ResNet38, width_of
from tool.files.mxnet_params import load_mxnet_params, resnet38_from_mxnet, resnet38_names
from tool.run.errors import UserError

DTYPES = ['<f4', '<f8', '<f2', 'u1', '<i4', 'i1', '<i8']
MAGIC = {1: 0xF993FAC8, 2: 0xF993FAC9, 3: 0xF993FACA}


def array_bytes(array, version, storage=0):
    if version == 0:
        head = struct.pack(f'<{array.ndim + 1}I', array.ndim, *array.shape)
    else:
        head = struct.pack('<I', MAGIC[version]) + (
            struct.pack('<i', storage) if version > 1 else b''
        )
        head += struct.pack(f'<I{array.ndim}q', array.ndim, *array.shape)
    return (
        head
        + struct.pack('<3i', 1, 0, DTYPES.index(array.dtype.str.replace('|', '')))
        + array.tobytes()
    )


def list_bytes(arrays, version=0, **options):
    """What MXNet writes for {name: array}."""
    names = b''.join(struct.pack('<Q', len(name.encode())) + name.encode() for name in arrays)
    return (
        struct.pack('<3Q', 0x112, 0, len(arrays))
        + b''.join(array_bytes(a, version, **options) for a in arrays.values())
        + struct.pack('<Q', len(arrays))
        + names
    )


def resnet38_arrays(width=1 / 16):
    """A ResNet-38 in MXNet's names, numbered contents, with the classifier; and the state dict it
    stands for."""
    state = {
        key: torch.randn(value.shape, generator=torch.Generator().manual_seed(index))
        for index, (key, value) in enumerate(ResNet38(width).state_dict().items())
        if 'num_batches' not in key
    }
    names = resnet38_names()
    arrays = {
        ('aux:' if 'running' in key else 'arg:') + names[key][0]: value.numpy()
        for key, value in state.items()
    }
    classifier = {
        'arg:linear1000_weight': np.ones((10, 4), np.float32),
        'arg:linear1000_bias': np.ones(10, np.float32),
    }
    return arrays | classifier, state


@pytest.fixture
def file(tmp_path):
    def write(data):
        path = tmp_path / 'net.params'
        path.write_bytes(data)
        return str(path)

    return write


def test_golden_file_of_2016():
    arrays = load_mxnet_params(str(GOLDEN / 'mxnet_v0_sample.params'))
    assert len(arrays) == 13
    assert arrays['conv1_weight'].shape == (10, 3, 3, 3) and arrays['conv4_2_weight'].shape == (
        4,
        32,
        1,
        1,
    )
    assert sum(a.size for a in arrays.values()) == 6632 and all(
        a.dtype == np.float32 for a in arrays.values()
    )
    # Its bytes 56…59, 8d38893d, are the first number of the first name in the list
    assert next(iter(arrays)) == 'prelu2_gamma'
    assert arrays['prelu2_gamma'][0] == np.frombuffer(bytes.fromhex('8d38893d'), '<f4')[0]


@pytest.mark.parametrize('version', [0, 1, 2, 3])
def test_versions_and_data_types(file, version):
    rng = np.random.default_rng(version)
    arrays = {
        f'a{i}': (100 * rng.standard_normal((2, i + 1, 3))).astype(dtype)
        for i, dtype in enumerate(DTYPES)
    }
    arrays['naïve'] = np.arange(5, dtype='<i8') << 40
    loaded = load_mxnet_params(file(list_bytes(arrays, version)))
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_versions_may_be_mixed_and_prefixes_are_dropped(file):
    arrays = [np.full((2, 2), i, np.float32) for i in range(4)]
    data = struct.pack('<3Q', 0x112, 0, 4) + b''.join(
        array_bytes(a, v) for v, a in enumerate(arrays)
    )
    data += struct.pack('<Q', 4) + b''.join(
        struct.pack('<Q', len(n)) + n for n in (b'arg:w', b'aux:v', b'arg:', b'x:y')
    )
    loaded = load_mxnet_params(file(data))
    assert {name: a[0, 0] for name, a in loaded.items()} == {'w': 0, 'v': 1, '': 2, 'x:y': 3}


def test_scalar_of_version_3(file):
    loaded = load_mxnet_params(file(list_bytes({'s': np.array(2.5, np.float32)}, 3)))
    assert loaded['s'].shape == () and loaded['s'] == 2.5


@pytest.mark.parametrize('version', [0, 1, 2, 3])
def test_truncated_at_every_byte(file, version):
    data = list_bytes({'arg:w': np.ones((2, 3), np.float32), 'b': np.ones(4, np.float64)}, version)
    assert len(load_mxnet_params(file(data))) == 2
    for end in range(len(data)):
        with pytest.raises(UserError, match='net.params: '):
            load_mxnet_params(file(data[:end]))
    with pytest.raises(UserError, match='1 bytes follow'):
        load_mxnet_params(file(data + b'\0'))


def test_random_bytes_give_an_array_or_a_user_error(file):
    rng = random.Random(0)
    wholes = [
        list_bytes({'arg:w': np.ones((2, 3), np.float32), 'b': np.ones(4, np.float64)}, v)
        for v in range(4)
    ]
    refused = 0
    tracemalloc.start()
    for turn in range(1500):
        data = bytearray(wholes[turn % 4])
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.choice(
                [0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)]
            )
        try:
            assert len(load_mxnet_params(file(data))) == 2
        except UserError as error:
            assert 'net.params: ' in str(error)
            refused += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 500
    assert peak < 4 << 20


def huge(**fields):
    """A V1 list of one array whose announced sizes are out of all proportion to the file."""
    count, dims, lengths = fields.get('count', 1), fields.get('dims'), fields.get('lengths', [2])
    head = struct.pack('<3Q', 0x112, 0, count) + struct.pack(
        '<2I', MAGIC[1], len(lengths) if dims is None else dims
    )
    return (
        head
        + struct.pack(f'<{len(lengths)}q', *lengths)
        + struct.pack('<3i', 1, 0, fields.get('dtype', 0))
        + bytes(8)
        + struct.pack('<QQ', fields.get('names', 1), fields.get('name', 1))
        + b'w'
    )


def test_the_huge_helper_is_sound_by_itself(file):
    assert load_mxnet_params(file(huge()))['w'].tolist() == [0, 0]


@pytest.mark.parametrize(
    'fields, reason',
    [
        ({'count': 2**63}, 'it ends within its 9223372036854775808 arrays'),
        ({'dims': 2**31}, '2147483648 dimensions'),
        ({'dims': 0}, 'has 0 dimensions'),
        ({'lengths': [2**40]}, '4398046511104 bytes wanted'),
        ({'lengths': [2**32, 2**32]}, 'bytes wanted'),  # the product is 0 in 64 bits
        ({'lengths': [-2, -1]}, 'has shape'),
        ({'lengths': [0, 2**62]}, 'has shape'),
        ({'dtype': 7}, 'data type 7'),
        ({'dtype': -1}, 'data type -1'),
        ({'names': 0}, '1 arrays but 0 names'),
        ({'names': 2**60}, 'names'),
        ({'name': 2**62}, 'it ends within name 0'),
    ],
)
def test_announced_sizes_are_checked_before_reading(file, fields, reason):
    tracemalloc.start()
    with pytest.raises(UserError, match=reason):
        load_mxnet_params(file(huge(**fields)))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize('version', [2, 3])
def test_sparse_storage_is_refused(file, version):
    data = list_bytes({'w': np.ones(4, np.float32)}, version, storage=1)
    with pytest.raises(UserError, match='storage type 1; only dense'):
        load_mxnet_params(file(data))


def test_other_files(file, tmp_path):
    with pytest.raises(UserError, match='no such file'):
        load_mxnet_params(str(tmp_path / 'absent.params'))
    for data, reason in [
        (b'', 'ends within the header'),
        (b'\x89PNG\r\n\x1a\n' + bytes(40), 'starts with'),
        (b'<html>' * 20, 'starts with'),
    ]:
        with pytest.raises(UserError, match=reason):
            load_mxnet_params(file(data))
    twice = list_bytes({'arg:w': np.ones(2, np.float32), 'aux:w': np.ones(2, np.float32)})
    with pytest.raises(UserError, match='two arrays are called w'):
        load_mxnet_params(file(twice))


def test_resnet38_round_trip(file):
    arrays, state = resnet38_arrays()
    loaded = resnet38_from_mxnet(file(list_bytes(arrays)))
    assert len(loaded) == 191 and list(loaded) == list(state) and width_of(loaded) == 1 / 16
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    net = ResNet38(1 / 16)
    missing, unexpected = net.load_state_dict(loaded, strict=False)
    assert not unexpected and all(key.endswith('num_batches_tracked') for key in missing)


def test_resnet38_with_short_names_of_the_statistics_and_half_floats(file):
    arrays, state = resnet38_arrays(1 / 32)
    short = {name.replace('moving_', ''): array.astype('<f2') for name, array in arrays.items()}
    loaded = resnet38_from_mxnet(file(list_bytes(short, 2)))
    assert loaded['bn7.running_var'].dtype == torch.float32
    assert torch.equal(loaded['bn7.running_var'], state['bn7.running_var'].half().float())


def test_resnet38_names_of_all_units():
    names = resnet38_names()
    assert names['b2_2.conv_branch2a.weight'] == ('res2b2_branch2a_weight',)
    assert names['b4_5.bn_branch2b1.running_mean'] == (
        'bn4b5_branch2b1_moving_mean',
        'bn4b5_branch2b1_mean',
    )
    assert names['b6.conv_branch2b2.weight'] == ('res6a_branch2b2_weight',)
    assert [key for key in names if 'conv_branch1.' in key] == [
        f'b{i}.conv_branch1.weight' for i in range(2, 8)
    ]
    published = {
        line.split()[0] for line in (GOLDEN / 'keys/resnet38_aff.keys.txt').read_text().splitlines()
    }
    assert set(names) == {
        key for key in published if not key.startswith('f') and 'num_batches' not in key
    }


def test_resnet38_missing_left_over_and_wrong(file):
    arrays, _ = resnet38_arrays(1 / 32)
    without = {
        name: array for name, array in arrays.items() if name != 'aux:bn4b3_branch2a_moving_var'
    }
    with pytest.raises(UserError, match=r'net.params: .*bn4b3_branch2a_moving_var is missing'):
        resnet38_from_mxnet(file(list_bytes(without)))
    with pytest.raises(
        UserError, match=r'res8a_branch1_weight does not belong to it \(1 left over\)'
    ):
        resnet38_from_mxnet(
            file(list_bytes(arrays | {'arg:res8a_branch1_weight': np.ones((2, 2), np.float32)}))
        )
    with pytest.raises(UserError, match='bn7_gamma is int32'):
        resnet38_from_mxnet(file(list_bytes(arrays | {'arg:bn7_gamma': np.ones(128, '<i4')})))
    with pytest.raises(UserError, match='is missing'):
        resnet38_from_mxnet(str(GOLDEN / 'mxnet_v0_sample.params'))
