"""Operators that PyTorch writes in C++ as several others, and that fake tensors show as one: written out again.

Called inside the watcher, so that every inner operator is seen, and with C++'s lifetimes: locals die in reverse.
NotImplemented where the operator is one kernel after all. Sources, under aten/src/ATen/native: ReduceOps.cpp
(logsumexp_out_impl), transformers/attention.cpp (_safe_softmax), Loss.cpp (binary_cross_entropy_with_logits,
soft_margin_loss_backward_out), TensorTransformations.cpp (roll_common), Distance.cpp (_euclidean_dist).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from memmodel.rules.reductions import composed_logsumexp

aten = torch.ops.aten


def _safe_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax whose rows without any finite score are 0; before torch 2.11 `where` makes a new result."""
    out = torch.softmax(x, dim, dtype)
    masked = torch.isneginf(x)
    rows = torch.all(masked, dim, keepdim=True)
    if in_place_safe_softmax():
        out.masked_fill_(rows, 0.0)  # where_out(out, rows, zero, out)
        result = out
    else:
        result = torch.where(rows, 0.0, out)
    del rows, masked, out
    return result


def _cross_entropy_of_logits(
    x: Tensor, target: Tensor, weight: Tensor | None = None, pos_weight: Tensor | None = None, reduction: int = 1
) -> Tensor:
    """(1 - target) * x - log(sigmoid(x)), the logarithm weighted where there are weights of positives."""
    logarithm = aten.log_sigmoid_forward(x)[0]
    if pos_weight is not None:
        logarithm.mul_((pos_weight - 1).mul(target).add_(1))
    loss = (1 - target).mul_(x).sub_(logarithm)
    if weight is not None:
        loss.mul_(weight)
    return loss if reduction == 0 else loss.mean() if reduction == 1 else loss.sum()


def _roll(x: Tensor, shifts: Any, dims: Any = ()) -> Any:
    """Roll along one dimension after the other; without dimensions, roll the flattened tensor."""
    if len(dims) == 1:
        return NotImplemented
    if not dims:
        return torch.roll(x.contiguous().view(-1), shifts, 0).view(x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        x = torch.roll(x, shift, dim)
    return x


def _margin_backward(gradient: Tensor, x: Tensor, target: Tensor, reduction: int = 1) -> Tensor:
    """-target * z / (1 + z), where z is exp(-target * x); a mean's divisor is left out."""
    negative = -target
    product = negative * x
    z = product.exp()
    del product, negative
    out = target * z
    out.mul_(-1.0)
    z.add_(1)
    return out.div_(z).mul_(gradient)


def _euclidean_distance(a: Tensor, b: Tensor) -> Tensor:
    """Distances by one matrix product of operands with their norms and ones appended (more than 25 rows)."""
    a_norm = a.pow(2).sum(-1, keepdim=True)
    a_ones = torch.ones_like(a_norm)
    b_norm = b.pow(2).sum(-1, keepdim=True)
    b_ones = torch.ones_like(b_norm)
    left = torch.cat((a.mul(-2), a_norm, a_ones), -1)
    del a_norm, a_ones  # moved into the list
    right = torch.cat((b, b_ones, b_norm), -1)
    del b_norm, b_ones
    result = left.matmul(right.mT)
    result.clamp_min_(0).sqrt_()
    del right, left
    return result


def in_place_safe_softmax() -> bool:
    """Whether this PyTorch's _safe_softmax writes its zeros into the softmax."""
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return (major, minor) >= (2, 11)


COMPOSITES: dict[Any, Callable[..., Any]] = {
    aten.logsumexp.default: composed_logsumexp,
    aten._safe_softmax.default: _safe_softmax,
    aten.binary_cross_entropy_with_logits.default: _cross_entropy_of_logits,
    aten.roll.default: _roll,
    aten.soft_margin_loss_backward.default: _margin_backward,
    aten._euclidean_dist.default: _euclidean_distance,
}
