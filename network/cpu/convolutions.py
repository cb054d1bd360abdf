"""Convolutions on a CPU in less time and memory than oneDNN takes, which PyTorch would use.

In float32 this is for inference. Winograd's algorithm F(6×6, 3×3) needs a fifth of a direct 3×3
convolution's multiplications. PyTorch has it (NNPACK) but does not choose it. On maps of MIN_PIXELS
and more it was 2 to 4 times as fast with AVX2, and 1.3 to
2.4 times with AVX-512 (Zen 4); channels-last maps keep oneDNN. Its rounding is about 1e-5 of the
largest value, ten times that of a direct convolution; through all of ResNet-38 the class maps'
distance from float64 grew to 1.6 times that of oneDNN (root mean square).

For bfloat16, training included, there is `winograd_rows`, F(2, 3) along the rows alone: two thirds
of the multiplications, 1.2 to 1.4 times as fast with AVX512-BF16 (Zen 4) in channels-last maps of
many channels, its rounding 1.7 times that of a bfloat16 convolution. With AMX, where
multiplications cost less than moving the sums, oneDNN stays. GPUs compute as ever.
"""

import torch
import torch.nn.functional as F
from torch import nn

MIN_PIXELS = 1500  # on smaller maps transforming the weights costs too much
MIN_CHANNELS = 256  # with fewer, moving the sums costs more than `winograd_rows` saves
TILE = 6  # rows and columns of the result that one transform gives
# floats of transformed results that NNPACK may hold (64 MB); it keeps them for the next convolution
WORKSPACE = 1 << 24


def infers_on_cpu(x: torch.Tensor) -> bool:
    """True for inference on a CPU, where nothing on the way to a result has to be kept."""
    return not torch.is_grad_enabled() and x.device.type == 'cpu'


def infers_in_float32(x: torch.Tensor) -> bool:
    """`infers_on_cpu`, in float32."""
    return infers_on_cpu(x) and x.dtype == torch.float32 and not torch.is_autocast_enabled('cpu')


def has_fast_winograd() -> bool:
    """True where NNPACK is there (it has to be asked before it is used) and the faster of the
    two."""
    return (
        torch.backends.cpu.get_cpu_capability() in ('AVX2', 'AVX512')
        and torch.backends.nnpack.is_available()
    )


def has_slow_bf16() -> bool:
    """True where a bfloat16 multiplication costs half of one in float32, or more: AVX512-BF16
    without AMX."""
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


class WinogradConv(nn.Conv2d):
    """A 3×3 convolution of stride 1 without bias that keeps the size, by Winograd's algorithm where
    that pays."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] * x.shape[3] < MIN_PIXELS:
            return super().forward(x)
        if infers_in_float32(x) and x.is_contiguous() and has_fast_winograd():
            return winograd(x, self.weight, self.dilation[0])
        if (
            x.device.type == 'cpu'
            and x.dtype == torch.bfloat16
            and x.is_contiguous(memory_format=torch.channels_last)
            and min(self.in_channels, self.out_channels) >= MIN_CHANNELS
            and has_slow_bf16()
        ):
            return winograd_rows(x, self.weight, self.dilation[0])
        return super().forward(x)


class StridedConv1x1(nn.Conv2d):
    """A 1×1 convolution with a stride and without bias; oneDNN would copy the pixels between the
    strides too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if infers_in_float32(x):
            rows, columns = self.stride
            return F.conv2d(x[:, :, ::rows, ::columns], self.weight)
        return super().forward(x)


def winograd(x: torch.Tensor, weight: torch.Tensor, dilation: int = 1) -> torch.Tensor:
    """F.conv2d(x, weight, padding=dilation, dilation=dilation) of x [N, C, H, W] and weight [D, C,
    3, 3], without gradient.

    A dilated convolution is an ordinary one on each of its dilation² subsampled images. They are
    laid side by side on one sheet, each with a row and a column of zeros at its end, which pad it
    and its neighbours.
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
    """The part of the sheet, as large as the image, that begins at (top, left)."""
    height, width = image.shape[2:]
    return sheet[:, :, top : top + height, left : left + width]


def _in_strips(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """F.conv2d(x, weight, padding=1) of one image, as many rows at a time as fit into the
    workspace."""
    (height, width), channels = x.shape[2:], len(weight)
    rows = TILE * max(1, WORKSPACE // (channels * (TILE + 2) ** 2 * -(-width // TILE)))
    if rows >= height:
        return torch._nnpack_spatial_convolution(x, weight, None, 1)
    y = x.new_empty(1, channels, height, width)
    for top in range(0, height, rows):
        end = min(top + rows, height)
        strip = F.pad(x[:, :, max(top - 1, 0) : end + 1], (0, 0, top == 0, end == height))
        y[:, :, top:end] = torch._nnpack_spatial_convolution(strip, weight, None, (0, 1))
    return y


def winograd_rows(x: torch.Tensor, weight: torch.Tensor, dilation: int = 1) -> torch.Tensor:
    """`winograd` of x [N, C, H, W] in its own type; the result is channels-last.

    The four rows that two rows of the result depend on (`dilation` apart) become four sums, each
    convolved along its row.
    """
    (n, channels, height, width), d = x.shape, dilation
    above, middle, below = weight.float().split(1, 2)
    kernels = [
        kernel.to(x.dtype, memory_format=torch.channels_last)
        for kernel in (above, (above + middle + below) / 2, (above - middle + below) / 2, below)
    ]
    pairs = -(-height // (2 * d))
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, 0, d, 2 * d * pairs - height + d))
    x0, x1 = x[:, : -2 * d].unflatten(1, (pairs, 2, d)).unbind(2)
    x2, x3 = x[:, 2 * d :].unflatten(1, (pairs, 2, d)).unbind(2)

    def convolved(total, kernel):
        y = F.conv2d(
            total.reshape(n, pairs * d, width, channels).permute(0, 3, 1, 2),
            kernel,
            padding=(0, d),
            dilation=(1, d),
        )
        return y.permute(0, 2, 3, 1).unflatten(1, (pairs, d))

    y1, y2 = convolved(x1 + x2, kernels[1]), convolved(x2 - x1, kernels[2])
    upper, lower = y1 + y2, y1.sub_(y2)
    del y2
    upper += convolved(x0 - x2, kernels[0])
    lower -= convolved(x1 - x3, kernels[3])
    y = torch.stack((upper, lower), 2).flatten(1, 3)
    return y[:, :height].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
