"""BatchNorm followed by ReLU, in half the memory where the BatchNorm is frozen."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable


def norm_relu(norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """ReLU(BatchNorm(x)), [N, C, h, w].

    For its gradient a frozen BatchNorm keeps its input, which nothing else needs, and ReLU its
    output, which the next convolution keeps anyway. `FrozenNormRelu` does with the output alone.
    """
    is_frozen = not norm.training and not norm.weight.requires_grad
    if is_frozen and x.requires_grad and torch.is_grad_enabled():
        return FrozenNormRelu.apply(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps
        )
    return F.relu(norm(x), inplace=True)


class FrozenNormRelu(torch.autograd.Function):
    """y = ReLU(a · x + b) with constants a, b for each channel, keeping only y.

        a = γ / √(σ² + ε)        b = β − a · μ        ∂y/∂x = a where y > 0, else 0

    γ and β are the BatchNorm's scale and shift, μ and σ² its running mean and variance. They get no
    gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        # the same calls as without this class, so that the values are the same bits
        y = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        y = F.relu(y, inplace=True)
        ctx.save_for_backward(y, mean, variance, weight)
        ctx.eps = eps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        y, mean, variance, weight = ctx.saved_tensors
        # ReLU's part comes second, in place: of the other order one more tensor would be needed
        of_x = _through_norm(gradient, y, mean, variance, weight, ctx.eps)
        return of_x.masked_fill_(y <= 0, 0), None, None, None, None, None


def _through_norm(
    gradient: torch.Tensor,
    like_x: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """The gradient of a frozen BatchNorm's input from that of its output.

    These are the calls that autograd itself makes, so the gradient has the same bits. PyTorch has
    no public function for them; the operators exist in 1.0 and later. The input of the BatchNorm
    counts only for the gradients of scale and shift, which are not asked for, so that any tensor of
    its size can stand for it.

    Args:
        gradient: that of the output, [N, C, h, w].
        like_x: a tensor of the input's size.
        mean, variance, weight: of the BatchNorm, [C].
        eps: of the BatchNorm.
    """
    only_of_input = [True, False, False]
    of_input, _, _ = torch.ops.aten.native_batch_norm_backward(
        gradient, like_x, weight, mean, variance, None, None, False, eps, only_of_input
    )
    return of_input
