"""Tensors joined: one copy of everything."""

from collections.abc import Sequence
from typing import Any

from memmodel.dims import Dim
from memmodel.recording.autograd import Op
from memmodel.recording.elementwise import promoted
from memmodel.recording.layout import axis
from memmodel.recording.tensor import Tensor, new
from memmodel.work import Work


class Cat(Op):
    """Tensors joined along one dimension."""

    def forward(self, *pieces: Tensor, dim: int) -> Tensor:
        """One copy of everything."""
        self.dim, self.sizes = dim, [x.shape[dim] for x in pieces]
        first = pieces[0]
        total: Dim = 0
        for size in self.sizes:
            total = total + size
        out = new(first.storage.tape, (*first.shape[:dim], total, *first.shape[dim + 1 :]), promoted(*pieces), "cat")
        work = Work(read=sum((x.bytes_read for x in pieces), start=0), written=out.bytes_read)
        first.storage.tape.launch("cat", work, out.dtype, parallel=out.numel())
        return out

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
