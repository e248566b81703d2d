"""Matrix products, as PyTorch folds them onto bmm and mm.

2 FLOP per multiply-add. Sources: aten/src/ATen/native/LinearAlgebra.cpp (matmul), native/cuda/Blas.cpp.
"""

from typing import Any

from memmodel.dims import hint, product, same
from memmodel.errors import UsageError
from memmodel.recording.autograd import Op
from memmodel.recording.elementwise import copied, elementwise
from memmodel.recording.layout import broadcast_shape
from memmodel.recording.ops_view import UnsafeView, expand, reshape, transpose
from memmodel.recording.tensor import Tensor, method, new
from memmodel.work import Work


def gemm(name: str, a: Tensor, b: Tensor) -> Tensor:
    """(..., m, k) x (..., k, n) -> (..., m, n) in one launch. The result is allocated before any scratch."""
    if a.dtype is not b.dtype:
        raise UsageError(f"a matrix product of {a.dtype} and {b.dtype}: both operands need the same dtype")
    if not same(a.shape[-1], b.shape[-2]):
        raise UsageError(f"a matrix product of shapes {a.shape} and {b.shape}: inner dimensions must agree")
    tape = a.storage.tape
    out = new(tape, (*a.shape[:-1], b.shape[-1]), a.dtype, name)
    packed = [copied(x, "pack") for x in (a, b) if tape.device.gemm_packs_operands and not _has_unit_stride(x)]
    work = Work(
        matmul=2 * product(a.shape) * b.shape[-1],
        read=a.bytes_read + b.bytes_read,
        written=out.bytes_read,
    )
    sizes = product(a.shape[:-2]), a.shape[-2], b.shape[-1], a.shape[-1]
    tape.launch(name, work, a.dtype, product(out.shape), tape.device.streams_gemm, kind="gemm", sizes=sizes)
    while packed:
        packed.pop()
    return out


def _has_unit_stride(x: Tensor) -> bool:
    """Whether cuBLAS can read the matrix: one of the last two strides is 1 and the other spans the rows."""
    rows, cols = (x.shape[-2], x.shape[-1])
    row_stride, col_stride = x.strides[-2], x.strides[-1]
    return _leading(col_stride, row_stride, cols) or _leading(row_stride, col_stride, rows)


def _leading(unit: Any, leading: Any, size: Any) -> bool:
    return same(unit, 1) and hint(leading) >= max(1, hint(size))


class Bmm(Op):
    """Batched matrix product of (b, m, k) and (b, k, n); keeps both operands."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """One batched GEMM."""
        if self.needs[0]:
            self.save(mat2=b)
        if self.needs[1]:
            self.save(self=a)
        return gemm("bmm", a, b)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """grad b^T and a^T grad; the second operand's comes first."""
        b = gemm("bmm", transpose(self.unpack("self"), 1, 2), grad) if self.needs[1] else None
        a = gemm("bmm", grad, transpose(self.unpack("mat2"), 1, 2)) if self.needs[0] else None
        return a, b


class Mm(Op):
    """Matrix product of (m, k) and (k, n); keeps both operands."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """One GEMM."""
        if self.needs[0]:
            self.save(mat2=b)
        if self.needs[1]:
            self.save(self=a)
        self.column_major = [same(x.strides[0], 1) and same(x.strides[1], x.shape[0]) for x in (a, b)]
        return gemm("mm", a, b)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradients in the memory order of their operands (mm_mat1_backward, mm_mat2_backward)."""
        a = b = None
        if self.needs[1]:
            x = self.unpack("self")
            b = gemm("mm", grad.t(), x).t() if self.column_major[1] else gemm("mm", x.t(), grad)
        if self.needs[0]:
            y = self.unpack("mat2")
            a = gemm("mm", y, grad.t()).t() if self.column_major[0] else gemm("mm", grad, y.t())
        return a, b


class Baddbmm(Op):
    """beta * input + alpha * (a b); keeps a and b."""

    def forward(self, base: Tensor, a: Tensor, b: Tensor, beta: Any, alpha: Any) -> Tensor:
        """One batched GEMM into a fresh result."""
        self.beta, self.alpha = beta, alpha
        if self.needs[2]:
            self.save(batch1=a)
        if self.needs[1]:
            self.save(batch2=b)
        return gemm("baddbmm", a, b)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """As for bmm, each times alpha where that is not 1."""
        a = b = None
        if self.needs[1]:
            a = _times(gemm("bmm", grad, transpose(self.unpack("batch2"), 1, 2)), self.alpha)
        if self.needs[2]:
            b = _times(gemm("bmm", transpose(self.unpack("batch1"), 1, 2), grad), self.alpha)
        return (_times(grad, self.beta) if self.needs[0] else None), a, b


def _times(x: Tensor, factor: Any) -> Tensor:
    """ATen's maybe_multiply: nothing for 1."""
    return x if isinstance(factor, int | float) and factor == 1 else elementwise("mul", x, factor)


@method
def bmm(self: Tensor, other: Tensor) -> Any:
    """Batched matrix product of 3-d tensors."""
    if self.ndim != 3 or other.ndim != 3:
        raise UsageError(f"bmm of shapes {self.shape} and {other.shape}: both need three dimensions; use matmul")
    return Bmm.apply(self, other)


@method
def mm(self: Tensor, other: Tensor) -> Any:
    """Matrix product of 2-d tensors."""
    if self.ndim != 2 or other.ndim != 2:
        raise UsageError(f"mm of shapes {self.shape} and {other.shape}: both need two dimensions; use matmul")
    return Mm.apply(self, other)


@method
def baddbmm(self: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * self + alpha * (batch1 batch2)."""
    return Baddbmm.apply(self, batch1, batch2, beta=beta, alpha=alpha)


@method
def matmul(self: Tensor, other: Tensor) -> Any:
    """The product of the last two dimensions, broadcast over the others: mm, a folded mm, or expand + reshape + bmm."""
    if self.ndim < 2 or other.ndim < 2:
        raise UsageError(f"matmul of shapes {self.shape} and {other.shape}: both need at least two dimensions")
    if self.ndim == 2 and other.ndim == 2:
        return mm(self, other)
    if other.ndim == 2 and (other.requires_grad or self.is_contiguous()):
        rows = reshape(self, -1, self.shape[-1])
        return UnsafeView.apply(mm(rows, other), shape=(*self.shape[:-1], other.shape[-1]))
    batch = (
        broadcast_shape([self.shape[:-2], other.shape[:-2]])
        if other.ndim > 2 and self.ndim > 2
        else (self.shape[:-2] or other.shape[:-2])
    )
    a = reshape(expand(self, (*batch, *self.shape[-2:])), product(batch), *self.shape[-2:])
    b = reshape(expand(other, (*batch, *other.shape[-2:])), product(batch), *other.shape[-2:])
    out = UnsafeView.apply(Bmm.apply(a, b), shape=(*batch, self.shape[-2], other.shape[-1]))
    del b, a  # C++ destroys locals in reverse
    return out


method("__matmul__")(matmul)
