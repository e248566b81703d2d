"""Concatenation: one copy of every operand. Source: aten/src/ATen/native/TensorShape.cpp (cat, stack)."""

from collections.abc import Sequence
from typing import Any

from memmodel.rules.dispatch import aten
from memmodel.rules.operator import RESULTS, Call, Spec, Steps, makes, moves, rule
from memmodel.rules.pointwise import result_dtype
from memmodel.tensors.autograd import Op
from memmodel.tensors.layout import axis
from memmodel.tensors.tensor import Tensor, method


@rule("cat", "stack")
def joined(call: Call) -> Steps:
    """Read every operand once, write the result once."""
    yield RESULTS
    yield moves("cat", call.tensors(), [call.out])


@makes("cat")
def _joined(pieces: Sequence[Tensor], dim: int) -> Spec:
    first, total = pieces[0], sum((x.shape[dim] for x in pieces), start=0)
    return Spec((*first.shape[:dim], total, *first.shape[dim + 1 :]), result_dtype(pieces))


class Cat(Op):
    """Tensors joined along one dimension."""

    def forward(self, *pieces: Tensor, dim: int) -> Tensor:
        """One copy of everything."""
        self.dim, self.sizes = dim, [x.shape[dim] for x in pieces]
        return aten("cat", pieces, dim)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """A view of the gradient for each piece."""
        parts, start = [], 0
        for size, need in zip(self.sizes, self.needs, strict=True):
            parts.append(grad.narrow(self.dim, start, size) if need else None)
            start = start + size
        return tuple(parts)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """Tensors joined along `dim`."""
    return Cat.apply(*tensors, dim=axis(dim, tensors[0].ndim))


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """Tensors joined along a new dimension."""
    return cat([x.unsqueeze(dim) for x in tensors], dim)


@method
def repeat_interleave(self: Tensor, repeats: int, dim: int) -> Any:
    """Repeat each index of `dim`, by a copy of an expanded view."""
    a = axis(dim, self.ndim)
    wide = self.unsqueeze(a + 1).expand((*self.shape[: a + 1], repeats, *self.shape[a + 1 :]))
    return wide.clone_contiguous().flatten(a, a + 1)
