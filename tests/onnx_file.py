"""ONNX files of one convolution, written byte by byte, so that the tests need no package for them.

An ONNX file is a message of Google's protocol buffers. A message is a sequence of fields. Each has
a tag, number · 8 + kind, and a value: of kind 0 an integer, 7 bits a byte, of kind 2 a length and
as many bytes, which may be a message themselves. The numbers of the fields are those of onnx.proto.
"""

import numpy as np

FLOAT = 1  # of TensorProto.DataType
INTS = 7  # of AttributeProto.AttributeType


def integer(value: int) -> bytes:
    """A number of at least 0, 7 bits a byte, the lowest first."""
    parts = []
    while value > 127:
        parts.append(value % 128 + 128)
        value //= 128
    return bytes([*parts, value])


def field(number: int, value: int | str | bytes) -> bytes:
    """One field of a message."""
    if isinstance(value, int):
        return integer(number * 8) + integer(value)
    content = value.encode() if isinstance(value, str) else value
    return integer(number * 8 + 2) + integer(len(content)) + content


def attribute(name: str, values: list[int]) -> bytes:
    """An AttributeProto of several integers."""
    numbers = b''.join(field(8, value) for value in values)
    return field(1, name) + numbers + field(20, INTS)


def tensor(name: str, values: np.ndarray) -> bytes:
    """A TensorProto of float32."""
    dims = b''.join(field(1, size) for size in values.shape)
    return dims + field(2, FLOAT) + field(8, name) + field(9, values.astype('<f4').tobytes())


def value_info(name: str, shape: list[int]) -> bytes:
    """A ValueInfoProto of float32."""
    dims = b''.join(field(1, field(1, size)) for size in shape)
    tensor_type = field(1, FLOAT) + field(2, dims)
    return field(1, name) + field(2, field(1, tensor_type))


def convolution(weight: np.ndarray, side: int = 320) -> bytes:
    """The file of a network that is one convolution without padding.

    Args:
        weight: [channels of the output, 3, k, k].
        side: of the input in pixels, [1, 3, side, side].
    """
    channels, _, kernel, _ = weight.shape
    left = side - kernel + 1
    node = field(1, 'picture') + field(1, 'weight') + field(2, 'map') + field(3, 'conv')
    node += field(4, 'Conv') + field(5, attribute('kernel_shape', [kernel, kernel]))
    graph = field(1, node) + field(2, 'one convolution') + field(5, tensor('weight', weight))
    graph += field(11, value_info('picture', [1, 3, side, side]))
    graph += field(12, value_info('map', [1, channels, left, left]))
    version = 13  # of the set of operators
    return field(1, 8) + field(8, field(1, '') + field(2, version)) + field(7, graph)
