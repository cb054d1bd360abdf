"""Convolutions on a CPU that take less time and memory than those of oneDNN, PyTorch's choice.

Inference in float32 uses Winograd's algorithm F(6×6, 3×3). It needs a fifth of the multiplications
of a direct 3×3 convolution. PyTorch has it (NNPACK) but does not choose it.

- Speed, on maps of MIN_PIXELS and more: 2 to 4 times as fast with AVX2, 1.3 to 2.4 times with
  AVX-512 (Zen 4). Channels-last maps keep oneDNN.
- Rounding: about 1e-5 of the largest value, ten times that of a direct convolution. After all of
  ResNet-38 the distance of the class maps from float64 was 1.6 times that of oneDNN (root mean
  square).

Training and inference in bfloat16 use `winograd_rows`, which is F(2, 3) along the rows alone. It
needs two thirds of the multiplications.

- Speed, on channels-last maps of many channels: 1.2 to 1.4 times as fast with AVX512-BF16 (Zen 4).
  With AMX, where multiplications cost less than moving the sums, oneDNN stays.
- Rounding: 1.7 times that of a bfloat16 convolution.

Nothing changes on a GPU.
"""

import torch
import torch.nn.functional as F
from torch import nn

MIN_PIXELS = 1500  # on smaller maps transforming the weights costs too much
MIN_CHANNELS = 256  # with fewer, moving the sums costs more than `winograd_rows` saves
TILE = 6  # rows and columns of the result that one transform gives
# How many floats of transformed results NNPACK may hold (64 MB). It keeps the memory for the next
# convolution.
WORKSPACE = 1 << 24


def infers_on_cpu(x: torch.Tensor) -> bool:
    """True for inference on a CPU, where intermediate results need not be kept."""
    return not torch.is_grad_enabled() and x.device.type == 'cpu'


def infers_in_float32(x: torch.Tensor) -> bool:
    """True for inference on a CPU in float32."""
    in_float32 = x.dtype == torch.float32 and not torch.is_autocast_enabled('cpu')
    return infers_on_cpu(x) and in_float32


def has_fast_winograd() -> bool:
    """True where NNPACK is available and faster than oneDNN.

    NNPACK needs this question before its first use.
    """
    return (
        torch.backends.cpu.get_cpu_capability() in ('AVX2', 'AVX512')
        and torch.backends.nnpack.is_available()
    )


def has_slow_bf16() -> bool:
    """True with AVX512-BF16 without AMX.

    There a multiplication in bfloat16 costs at least half of one in float32.
    """
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


class WinogradConv(nn.Conv2d):
    """A 3×3 convolution that uses Winograd's algorithm where that is faster.

    It has stride 1 and no bias, and keeps the size of the map.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] * x.shape[3] < MIN_PIXELS:
            return super().forward(x)
        if infers_in_float32(x) and x.is_contiguous() and has_fast_winograd():
            return winograd(x, self.weight, self.dilation[0])
        in_bf16_on_cpu = x.device.type == 'cpu' and x.dtype == torch.bfloat16
        if (
            in_bf16_on_cpu
            and x.is_contiguous(memory_format=torch.channels_last)
            and min(self.in_channels, self.out_channels) >= MIN_CHANNELS
            and has_slow_bf16()
        ):
            return winograd_rows(x, self.weight, self.dilation[0])
        return super().forward(x)


class StridedConv1x1(nn.Conv2d):
    """A 1×1 convolution with a stride and without bias, which reads only the pixels it needs.

    oneDNN would also copy the pixels between the strides.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if infers_in_float32(x):
            rows, columns = self.stride
            needed = x[:, :, ::rows, ::columns]
            return F.conv2d(needed, self.weight)
        return super().forward(x)


def winograd(x: torch.Tensor, weight: torch.Tensor, dilation: int = 1) -> torch.Tensor:
    """A 3×3 convolution by NNPACK's Winograd algorithm, without gradient.

    It is F.conv2d(x, weight, padding=dilation, dilation=dilation).

    A convolution with dilation d is an ordinary one on each of the d² images that subsampling by d
    gives. They are laid side by side on one sheet. A row and a column of zeros at the end of each
    pad it and its neighbours.

    Args:
        x: [N, channels, H, W].
        weight: [channels of the result, channels, 3, 3].
        dilation: d.
    """
    if len(x) > 1:  # NNPACK's own way with a batch takes twice as long
        return torch.cat([winograd(image, weight, dilation) for image in x.split(1)])
    if dilation == 1:
        return _in_strips(x, weight)
    height, width = x.shape[2:]
    rows = (height - 1) // dilation + 2  # of a subsampled image with its zeros
    columns = (width - 1) // dilation + 2
    sheet = x.new_zeros(1, x.shape[1], dilation * rows, dilation * columns)
    for i in range(dilation):
        for j in range(dilation):
            subsampled = x[:, :, i::dilation, j::dilation]
            _place(sheet, i * rows, j * columns, subsampled).copy_(subsampled)
    sheet = _in_strips(sheet, weight)
    y = x.new_empty(1, len(weight), height, width)
    for i in range(dilation):
        for j in range(dilation):
            subsampled = y[:, :, i::dilation, j::dilation]
            subsampled.copy_(_place(sheet, i * rows, j * columns, subsampled))
    return y


def _place(sheet: torch.Tensor, top: int, left: int, image: torch.Tensor) -> torch.Tensor:
    """The view of the sheet that begins at (top, left) and has the size of the image."""
    height, width = image.shape[2:]
    return sheet[:, :, top : top + height, left : left + width]


def _in_strips(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """F.conv2d(x, weight, padding=1) of one image, in strips of rows that fit into WORKSPACE."""
    height, width = x.shape[2:]
    channels = len(weight)
    tiles_of_a_row = -(-width // TILE)  # rounded up
    floats_of_a_row = channels * (TILE + 2) ** 2 * tiles_of_a_row
    rows = TILE * max(1, WORKSPACE // floats_of_a_row)
    if rows >= height:
        return torch._nnpack_spatial_convolution(x, weight, None, 1)
    y = x.new_empty(1, channels, height, width)
    for top in range(0, height, rows):
        end = min(top + rows, height)
        strip = x[:, :, max(top - 1, 0) : end + 1]  # with a row of its neighbours, if there are any
        zeros_above = int(top == 0)
        zeros_below = int(end == height)
        strip = F.pad(strip, (0, 0, zeros_above, zeros_below))
        y[:, :, top:end] = torch._nnpack_spatial_convolution(strip, weight, None, (0, 1))
    return y


def winograd_rows(x: torch.Tensor, weight: torch.Tensor, dilation: int = 1) -> torch.Tensor:
    """A 3×3 convolution by Winograd's algorithm along the rows, in the number format of x.

    It is F.conv2d(x, weight, padding=dilation, dilation=dilation). Two rows of the result,
    d = `dilation` rows apart, depend on four rows x0 … x3 of the map, each d rows after the other.
    With the kernel's rows k0, k1, k2, and ∗ for a convolution along the row:

        y1 = (x1 + x2) ∗ (k0 + k1 + k2)/2        y2 = (x2 − x1) ∗ (k0 − k1 + k2)/2
        upper = y1 + y2 + (x0 − x2) ∗ k0         lower = y1 − y2 − (x1 − x3) ∗ k2

    Args:
        x: [N, channels, H, W].
        weight: [channels of the result, channels, 3, 3].
        dilation: d.
    Returns:
        [N, channels of the result, H, W], channels-last.
    """
    n, channels, height, width = x.shape
    d = dilation
    k0, k1, k2 = weight.float().split(1, 2)

    def converted(kernel: torch.Tensor) -> torch.Tensor:
        return kernel.to(x.dtype, memory_format=torch.channels_last)

    kernel_x0 = converted(k0)
    kernel_y1 = converted((k0 + k1 + k2) / 2)
    kernel_y2 = converted((k0 - k1 + k2) / 2)
    kernel_x3 = converted(k2)

    pairs = -(-height // (2 * d))  # groups of 2·d rows, rounded up
    rows_below = 2 * d * pairs - height + d
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, 0, d, rows_below))  # [N, H', W, channels]
    x0, x1 = padded[:, : -2 * d].unflatten(1, (pairs, 2, d)).unbind(2)  # [N, pairs, d, W, channels]
    x2, x3 = padded[:, 2 * d :].unflatten(1, (pairs, 2, d)).unbind(2)

    def convolved(rows: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        rows = rows.reshape(n, pairs * d, width, channels).permute(0, 3, 1, 2)
        y = F.conv2d(rows, kernel, padding=(0, d), dilation=(1, d))
        return y.permute(0, 2, 3, 1).unflatten(1, (pairs, d))

    y1 = convolved(x1 + x2, kernel_y1)
    y2 = convolved(x2 - x1, kernel_y2)
    upper = y1 + y2
    lower = y1.sub_(y2)
    del y1, y2
    upper += convolved(x0 - x2, kernel_x0)
    lower -= convolved(x1 - x3, kernel_x3)
    y = torch.stack((upper, lower), 2).flatten(1, 3)
    return y[:, :height].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
