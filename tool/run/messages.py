"""Python objects between two processes, through a socket.

The bytes of arrays and tensors follow the pickled object as they are, and the receiver reads them
into memory of its own. Nothing goes through shared memory or through files, so neither the size of
/dev/shm nor the length of TMPDIR matters (`torch.utils.data.DataLoader` depends on both).
"""

import io
import pickle
import socket
import struct
import sys
from typing import Any

# A message begins with the number of its parts and the number of bytes of each. The first part is
# the pickled object, the others are the buffers of its arrays.
_COUNT = struct.Struct('<Q')


class _Pickler(pickle.Pickler):
    """Pickles tensors as the arrays that share their memory."""

    def reducer_override(self, value: Any) -> Any:
        torch = sys.modules.get('torch')  # a process without torch has no tensors
        if torch is None or type(value) is not torch.Tensor:
            return NotImplemented
        if value.device.type != 'cpu' or value.requires_grad or value.dtype == torch.bfloat16:
            return NotImplemented
        if value.layout != torch.strided or value.is_quantized:
            return NotImplemented
        # Layers may compute other bits for another order of the dimensions in memory: it is kept.
        order = sorted(range(value.dim()), key=value.stride, reverse=True)
        array = value.permute(order).contiguous().numpy()
        return _tensor, (array, order)


def _tensor(array: Any, order: list[int]) -> Any:
    """The tensor whose dimensions `order` are those of an array."""
    import torch

    back = sorted(range(len(order)), key=order.__getitem__)
    return torch.from_numpy(array).permute(back)


def send(channel: socket.socket, message: object) -> None:
    """Send an object.

    Raises:
        OSError: the other process has ended.
    """
    buffers: list[pickle.PickleBuffer] = []
    pickled = io.BytesIO()
    _Pickler(pickled, protocol=5, buffer_callback=buffers.append).dump(message)
    parts = [pickled.getbuffer()]
    for buffer in buffers:
        parts.append(buffer.raw())
    head = [_COUNT.pack(len(parts))]
    for part in parts:
        head.append(_COUNT.pack(part.nbytes))
    channel.sendall(b''.join(head))
    for part in parts:
        channel.sendall(part)


def receive(channel: socket.socket) -> Any:
    """Wait for the next object, and return it.

    Raises:
        EOFError, OSError: the other process has ended.
    """
    count = _number(channel)
    sizes = [_number(channel) for _ in range(count)]
    parts = [_read(channel, size) for size in sizes]
    return pickle.loads(parts[0], buffers=parts[1:])


def _number(channel: socket.socket) -> int:
    """Read one number of the beginning of a message."""
    return _COUNT.unpack(_read(channel, _COUNT.size))[0]


def _read(channel: socket.socket, size: int) -> bytearray:
    """Read so many bytes."""
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        received = channel.recv_into(rest)
        if received == 0:
            raise EOFError('the other process has closed the channel')
        rest = rest[received:]
    return data
