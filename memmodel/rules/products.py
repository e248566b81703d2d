"""Matrix products: one GEMM each, and the decomposition of matmul and einsum into them.

2 FLOP per multiply-add. Sources: aten/src/ATen/native/LinearAlgebra.cpp (matmul), native/cuda/Blas.cpp
(prepare_batch_matrix_for_cublas), native/Linear.cpp (einsum, sumproduct_pair).
"""

from typing import Any

from memmodel.base.dtypes import bfloat16
from memmodel.base.errors import UsageError
from memmodel.rules.dispatch import aten
from memmodel.rules.operator import RESULTS, Call, NotKnown, Spec, Steps, copy_of, kernel, makes, rule
from memmodel.rules.views import UnsafeView, expand, permute, reshape, squeeze, transpose, unsqueeze, view
from memmodel.sizes.dims import Dim, Shape, merged, product, same, same_shape
from memmodel.tensors.autograd import Op
from memmodel.tensors.layout import Strided, broadcast_shape
from memmodel.tensors.tensor import Tensor, method

_ADDED = ("addmm", "baddbmm")  # their first operand is added to the product


@rule("mm", "bmm", *_ADDED)
def gemm(call: Call) -> Steps:
    """(..., m, k) x (..., k, n) -> (..., m, n) in one launch; the result is allocated before the copies of operands."""
    a, b = call.args[1:3] if call.op in _ADDED else call.args[:2]
    yield RESULTS
    packs = call.device.gemm_packs_operands
    left = a if not packs or has_unit_stride(a) else (yield from copy_of(a))
    right = b if not packs or has_unit_stride(b) else (yield from copy_of(b))
    added = [call.args[0]] if call.op in _ADDED and call.named.get("beta", 1) != 0 else []
    n = b.shape[-1]
    # A vector to add is a bias, which addmm leaves to an epilogue of cuBLASLt; a matrix goes through cuBLAS.
    yield kernel(
        call.op, [*added, left, right], [call.out], a.dtype, matmul=2 * product(a.shape) * n, kind="gemm",
        sizes=(product(a.shape[:-2]), a.shape[-2], n, a.shape[-1]), cublas=call.device.streams_gemm,
        adds_bias=call.device.streams_gemm and any(len(x.shape) == 1 for x in added),
    )  # fmt: skip


@rule("_grouped_mm")
def grouped_gemm(call: Call) -> Steps:
    """Products of groups of rows of (S, k) with their matrices of (g, k, n), or sums over groups of (m, S) (S, n).

    In bfloat16 one kernel of CUTLASS on Hopper and later, whose tables of pointers take some kilobytes; else a product
    for each group (aten/src/ATen/native/cuda/GroupedBlas.cpp, GroupedMMUtils.h).
    """
    a, b = call.args[:2]
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    batch = a.shape[0] if len(a.shape) == len(b.shape) == 3 else 1
    fused = call.device.name == "cuda" and call.device.capability >= 90 and a.dtype is bfloat16
    yield RESULTS
    if fused:
        yield NotKnown("its tables of pointers, some kilobytes, count as 0")
    yield kernel(
        "grouped_mm", [a, b], [call.out], a.dtype, matmul=2 * batch * m * k * n, kind="gemm", sizes=(batch, m, n, k),
        cublas=call.device.streams_gemm and not fused,
    )  # fmt: skip


def has_unit_stride(x: Strided) -> bool:
    """Whether cuBLAS can read the matrix: one of the last two strides is 1 and the other spans the rows."""
    (*_, rows, cols), (*_, down, across), _ = x.numbers()
    return (across == 1 and down >= max(1, cols)) or (down == 1 and across >= max(1, rows))


@makes("mm", "bmm")
def _product(a: Strided, b: Strided) -> Spec:
    if a.dtype is not b.dtype:
        raise UsageError(f"a matrix product of {a.dtype} and {b.dtype}: both operands need the same dtype")
    if not same(a.shape[-1], b.shape[-2]):
        raise UsageError(f"a matrix product of shapes {a.shape} and {b.shape}: inner dimensions must agree")
    return Spec((*a.shape[:-1], b.shape[-1]), a.dtype)


makes(*_ADDED)(lambda _, a, b, **__: _product(a, b))


class Bmm(Op):
    """Batched matrix product of (b, m, k) and (b, k, n); saves both operands."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """One batched GEMM."""
        if self.needs[0]:
            self.save(mat2=b)
        if self.needs[1]:
            self.save(self=a)
        return aten("bmm", a, b)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """grad b^T and a^T grad; the second operand's comes first."""
        b = aten("bmm", transpose(self.unpack("self"), 1, 2), grad) if self.needs[1] else None
        a = aten("bmm", grad, transpose(self.unpack("mat2"), 1, 2)) if self.needs[0] else None
        return a, b


class Mm(Op):
    """Matrix product of (m, k) and (k, n); saves both operands."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """One GEMM."""
        if self.needs[0]:
            self.save(mat2=b)
        if self.needs[1]:
            self.save(self=a)
        # As PyTorch's node, it keeps sizes and strides of both, also where it saves only one of them.
        self.column_major = [_column_major(x) for x in (a, b)]
        return aten("mm", a, b)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradients in the memory order of their operands (mm_mat1_backward, mm_mat2_backward)."""
        b = _of_right(grad, self.unpack("self"), self.column_major[1]) if self.needs[1] else None
        a = _of_left(grad, self.unpack("mat2"), self.column_major[0]) if self.needs[0] else None
        return a, b


def _column_major(x: Tensor) -> bool:
    return same(x.strides[0], 1) and same(x.strides[1], x.shape[0])


def _of_left(grad: Tensor, right: Tensor, column_major: bool) -> Tensor:
    """grad b^T, in the memory order of a (mm_mat1_backward)."""
    return aten("mm", right, grad.t()).t() if column_major else aten("mm", grad, right.t())


def _of_right(grad: Tensor, left: Tensor, column_major: bool) -> Tensor:
    """a^T grad, in the memory order of b (mm_mat2_backward)."""
    return aten("mm", grad.t(), left).t() if column_major else aten("mm", left.t(), grad)


class Addmm(Op):
    """bias + a b, the bias broadcast over rows; saves a and b."""

    def forward(self, bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """One GEMM into a fresh result."""
        if self.needs[2]:
            self.save(mat1=a)
        if self.needs[1]:
            self.save(mat2=b)
        self.column_major = [_column_major(x) for x in (a, b)]
        return aten("addmm", bias, a, b)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """Gradients of mm; that of the bias is the gradient itself, which the engine sums over rows."""
        a = _of_left(grad, self.unpack("mat2"), self.column_major[0]) if self.needs[1] else None
        b = _of_right(grad, self.unpack("mat1"), self.column_major[1]) if self.needs[2] else None
        return (grad if self.needs[0] else None), a, b


class Baddbmm(Op):
    """beta * input + alpha * (a b); saves a and b."""

    def forward(self, base: Tensor, a: Tensor, b: Tensor, beta: Any, alpha: Any) -> Tensor:
        """One batched GEMM into a fresh result."""
        self.beta, self.alpha = beta, alpha
        if self.needs[2]:
            self.save(batch1=a)
        if self.needs[1]:
            self.save(batch2=b)
        return aten("baddbmm", base, a, b, beta=beta, alpha=alpha)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """Gradients of bmm, each multiplied by alpha unless that is 1."""
        a = b = None
        if self.needs[1]:
            a = _times(aten("bmm", grad, transpose(self.unpack("batch2"), 1, 2)), self.alpha)
        if self.needs[2]:
            b = _times(aten("bmm", transpose(self.unpack("batch1"), 1, 2), grad), self.alpha)
        return (_times(grad, self.beta) if self.needs[0] else None), a, b


def _times(x: Tensor, factor: Any) -> Tensor:
    """ATen's maybe_multiply: a factor of 1 launches nothing."""
    return x if isinstance(factor, int | float) and factor == 1 else aten("mul", x, factor)


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
def addmm(self: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * self + alpha * (mat1 mat2); not under autograd."""
    return aten("addmm", self, mat1, mat2, beta=beta, alpha=alpha)


@method
def addmm_(self: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """`addmm`, into the tensor itself."""
    return aten("addmm_", self, mat1, mat2, into=self, beta=beta, alpha=alpha)


@method
def matmul(self: Tensor, other: Tensor) -> Any:
    """The product of the last two dimensions, broadcast over the others: mm, a folded mm, or expand + reshape + bmm."""
    if self.ndim < 2 or other.ndim < 2:
        raise UsageError(f"matmul of shapes {self.shape} and {other.shape}: both need at least two dimensions")
    if self.ndim == 2 and other.ndim == 2:
        return mm(self, other)
    # should_fold: rows are merged for one mm where that copies nothing, and always for a matrix that requires a
    # gradient, which bmm would make once for each batch and sum.
    if other.ndim == 2 and (other.requires_grad or self.is_contiguous()):
        rows = reshape(self, -1, self.shape[-1])
        return UnsafeView.apply(mm(rows, other), shape=(*self.shape[:-1], other.shape[-1]))
    batch = self.shape[:-2] or other.shape[:-2]
    if other.ndim > 2 and not same_shape(batch, other.shape[:-2]):
        batch = broadcast_shape([batch, other.shape[:-2]])
    a, b = _batched(self, batch), _batched(other, batch)
    out = Bmm.apply(a, b)
    if len(batch) > 1:
        out = UnsafeView.apply(out, shape=(*batch, self.shape[-2], other.shape[-1]))
    del b, a  # C++ destroys locals in reverse
    return out


def _batched(x: Tensor, batch: Shape) -> Tensor:
    """Matrices in one dimension of batches. PyTorch's views of a tensor as it is are left out: they cost nothing."""
    wide = x if same_shape(x.shape[:-2], batch) else expand(x, (*batch, *x.shape[-2:]))
    # reshape copies an operand whose leading dimensions cannot be merged, and bmm then saves the copy.
    return wide if len(batch) == 1 else reshape(wide, merged(batch), *x.shape[-2:])


method("__matmul__")(matmul)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """input weight^T + bias, over the last dimension (aten/src/ATen/native/Linear.cpp, _flatten_nd_linear)."""
    if bias is None:
        return matmul(input, weight.t())
    rows = reshape(input, -1, input.shape[-1])
    out = Addmm.apply(bias, rows, weight.t())
    return view(out, *input.shape[:-1], weight.shape[0])


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """The sum of products in `equation`, such as "bhqd,bhkd->bhqk"; two operands, `...` for leading dimensions.

    Raises UsageError for an implicit result, or a label that is repeated, or summed in one operand only.
    """
    inputs, output = _labels(equation, operands)
    summed = sorted({label for labels in inputs for label in labels} - set(output))
    order = [*output, *summed]
    left, right = (_aligned(x, labels, order) for x, labels in zip(operands, inputs, strict=True))
    sums = list(range(len(output), len(order)))
    for i in sums:
        if same(left.shape[i], 1) or same(right.shape[i], 1):
            raise UsageError(f"einsum {equation!r}: {order[i]} is summed in one operand only; sum it before")
    return _contracted(left, right, sums)


def _labels(equation: str, operands: tuple[Tensor, ...]) -> tuple[list[str], str]:
    """The labels of each operand and of the result; digits stand for the dimensions of `...`."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    if not arrow or len(inputs) != 2 or len(operands) != 2:
        raise UsageError(f"einsum {equation!r}: recording tensors take two operands and an explicit result")
    widest = max(x.ndim - len(labels.replace("...", "")) for x, labels in zip(operands, inputs, strict=True))
    dots = "0123456789"[:widest]
    spelled = []
    for x, labels in zip(operands, inputs, strict=True):
        own = x.ndim - len(labels.replace("...", ""))
        spelled.append(labels.replace("...", dots[len(dots) - own :] if own else ""))
        if len(spelled[-1]) != x.ndim or len(set(spelled[-1])) != x.ndim:
            raise UsageError(f"einsum {equation!r}: {labels} does not name each dimension of shape {x.shape} once")
    return spelled, output.replace("...", dots)


def _aligned(x: Tensor, labels: str, order: list[str]) -> Tensor:
    """The tensor with its dimensions in `order`, of size 1 for labels that it lacks."""
    position = {label: i for i, label in enumerate(labels)}
    for label in order:
        if label not in position:
            position[label] = x.ndim
            x = unsqueeze(x, -1)
    return permute(x, tuple(position[label] for label in order))


def _contracted(left: Tensor, right: Tensor, sums: list[int]) -> Tensor:
    """One batched product: shared dimensions are its batch, summed ones its inner dimension (sumproduct_pair)."""
    rest = [i for i in range(left.ndim) if i not in sums]
    shared = [i for i in rest if not same(left.shape[i], 1) and not same(right.shape[i], 1)]
    of_left = [i for i in rest if i not in shared and not same(left.shape[i], 1)]
    of_right = [i for i in rest if i not in shared and i not in of_left]
    batch = _size(left, shared)
    a = reshape(permute(left, (*shared, *of_left, *sums, *of_right)), batch, _size(left, of_left), _size(left, sums))
    b = reshape(
        permute(right, (*shared, *sums, *of_right, *of_left)), batch, _size(right, sums), _size(right, of_right)
    )
    out = Bmm.apply(a, b)
    shape = [*(left.shape[i] for i in (*shared, *of_left)), *(1 for _ in sums), *(right.shape[i] for i in of_right)]
    order = [*shared, *of_left, *sums, *of_right]
    result = permute(view(out, *shape), tuple(order.index(i) for i in range(left.ndim)))
    for i in reversed(sums):
        result = squeeze(result, i)
    return result


def _size(x: Tensor, dims: list[int]) -> Dim:
    return merged(x.shape[i] for i in dims)
