"""Reductions: read every element, write one result per row.

Sources: aten/src/ATen/native/ReduceOps.cpp, ReduceOpsUtils.h (make_reduction: the types that are summed from a copy),
native/cuda/Reduce.cuh (scratch, see `reduce_scratch`), tools/autograd/FunctionsManual.cpp.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from memmodel.base.dtypes import DType, bool_, float32, float64, int64, uint8
from memmodel.rules.dispatch import aten, several
from memmodel.rules.libraries import left_out
from memmodel.rules.operator import RESULTS, Call, Scratch, Spec, Steps, copy_of, kernel, makes, rule
from memmodel.rules.reduce_scratch import reduction_scratch
from memmodel.rules.views import expand, unsqueeze, view
from memmodel.sizes.dims import Dim, Shape, exact_div, maximum, product, same, same_shape, symbolic
from memmodel.tensors.autograd import Op
from memmodel.tensors.layout import Strided, axis
from memmodel.tensors.tensor import Tensor, method

_SUMS = ("sum", "mean", "prod", "nansum")
_EXTREMES = ("amax", "amin", "any", "all", "argmax", "argmin", "max", "min")
_MOMENTS = ("var", "std", "var_mean", "std_mean")
_VECTOR = {**dict.fromkeys(_MOMENTS, 4), "linalg_vector_norm": 2}  # FLOP per element, where not one
_PARTIAL = {  # bytes of a thread block's partial result, unless it is the result's (at least 4, as sums are fp32)
    **dict.fromkeys(("any", "all"), 1),
    **dict.fromkeys(("argmax", "argmin"), 16),  # a value and its int64 index
    **dict.fromkeys(_MOMENTS, 16),  # mean, sum of squares and two counts
}


@rule(*_SUMS, *_EXTREMES, *_MOMENTS, "linalg_vector_norm")
def reduction(call: Call) -> Steps:
    """One pass over the operand, or over its copy in the summed dtype; on CUDA, scratch that thread blocks share."""
    x, out = call.args[0], call.out
    yield RESULTS
    source = (yield from copy_of(x, out.dtype)) if _sums_a_copy(call) else x
    yield from _shared(call)
    rows, n = out.numel(), x.numel()
    finds_places = call.op.startswith("arg") or (call.op in ("max", "min") and len(call.results) > 1)
    # An int64 index beside each value makes it slower than memory on GPUs with few SMs: it has a rate of its own.
    kind = "argmax" if finds_places else "reduction"
    sizes = rows, exact_div(n, rows)
    yield kernel(call.op, [source], call.results, x.dtype, vector=_VECTOR.get(call.op, 1) * n, kind=kind, sizes=sizes)


def _sums_a_copy(call: Call) -> bool:
    """Whether a sum first casts its operand to its own dtype; CUDA casts half precision to fp32 in the kernel."""
    x, wanted = call.args[0], call.out.dtype
    in_kernel = call.device.casts_in_kernels and x.dtype.floating and wanted is float32
    return call.op in _SUMS and x.dtype is not wanted and not in_kernel


def _shared(call: Call) -> Iterator[Scratch]:
    """Partial results and counters of thread blocks that share outputs; left out of closed forms, as too irregular."""
    x = call.args[0]
    if not (call.device.resident_threads and x.shape) or symbolic(*x.shape, *x.strides):
        return
    given = call.named.get("dim")
    dims = () if given is None else (given,) if isinstance(given, int) else tuple(given)
    for n in reduction_scratch(x, dims, _partial_bytes(call), call.device.resident_threads):
        yield Scratch((n,), uint8, role="partial")


def _partial_bytes(call: Call) -> Dim:
    op, x = call.op, call.args[0]
    if op in ("max", "min"):
        return _PARTIAL["argmax"] if len(call.results) > 1 else x.dtype.itemsize
    if op in ("amax", "amin"):
        return x.dtype.itemsize
    if op in _PARTIAL:
        return _PARTIAL[op] * (2 if x.dtype is float64 and op in _MOMENTS else 1)
    return maximum(4, call.out.dtype.itemsize)


@rule("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin")
def cumulative(call: Call) -> Steps:
    """A scan; one in another dtype casts its operand first (ReduceOps.cpp, impl_func_cum_ops)."""
    x, out = call.args[0], call.out
    yield RESULTS
    converts = call.op in ("cumsum", "cumprod", "logcumsumexp") and x.dtype is not out.dtype
    source = (yield from copy_of(x, out.dtype)) if converts else x
    if call.device.name == "cuda" and len(x.shape) == 1:
        yield left_out("the look-back of a scan of one row, some KiB")
    yield kernel(call.op, [source], call.results, out.dtype, vector=x.numel())


def reduced(shape: Shape, axes: Sequence[int], keepdim: bool) -> Shape:
    """The shape without the dimensions `axes`, or with ones in their place."""
    if keepdim:
        return tuple(1 if i in axes else size for i, size in enumerate(shape))
    return tuple(size for i, size in enumerate(shape) if i not in axes)


def _row(x: Strided, dim: Sequence[int], keepdim: bool = False, dtype: DType | None = None) -> Spec:
    return Spec(reduced(x.shape, dim, keepdim), dtype or x.dtype)


makes("sum", "mean", "amax", "linalg_vector_norm")(_row)
makes("all")(lambda x, dim, keepdim: _row(x, (dim,), keepdim, bool_))
makes("max")(lambda x, dim, keepdim: [_row(x, (dim,), keepdim), _row(x, (dim,), keepdim, int64)])


def _axes(dim: Any, ndim: int) -> tuple[int, ...]:
    """Dimensions as a sorted tuple; None or () is all of them."""
    if dim is None or dim == () or dim == []:
        return tuple(range(ndim))
    return tuple(sorted(axis(d, ndim) for d in ([dim] if isinstance(dim, int) else dim)))


def _restored(grad: Tensor, axes: Sequence[int], keepdim: bool) -> Tensor:
    """A reduced tensor with its reduced dimensions back as ones."""
    if not keepdim:
        for a in axes:
            grad = unsqueeze(grad, a)
    return grad


class Sum(Op):
    """The sum over dimensions; saves nothing."""

    operator = "sum"

    def forward(self, x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
        """One pass; integers and bools are summed as int64."""
        self.shape, self.axes, self.keepdim = x.shape, axes, keepdim
        return aten(self.operator, x, dim=axes, keepdim=keepdim, dtype=x.dtype if x.dtype.floating else int64)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient, expanded without a copy."""
        # Strides of 0, for which cuBLAS has no layout: a product that reads it copies it first (`gemm_packs_operands`).
        return (expand(_restored(grad, self.axes, self.keepdim), self.shape),)


class Mean(Sum):
    """The mean over dimensions; saves nothing."""

    operator = "mean"

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient, expanded and divided by the number of elements."""
        (wide,) = super().backward(grad)
        return (aten("div", wide, product(self.shape[a] for a in self.axes)),)


class MaxDim(Op):
    """The largest value and its int64 index along one dimension; saves the indices."""

    def forward(self, x: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, ...]:
        """One pass."""
        self.shape, self.dim = x.shape, dim
        values, indices = several("max", x, dim=dim, keepdim=keepdim, label=("max", "max indices"))
        self.save(indices=indices)
        return values, indices

    def backward(self, grad: Tensor, _: Any) -> tuple[Any, ...]:
        """Zeros of the input's size, the gradient scattered to the indices (value_selecting_reduction_backward)."""
        indices = self.unpack("indices")
        # In place on plain tensors; on fake ones PyTorch scatters out of place (areAnyTensorSubclassLike).
        whole: Tensor = grad.new_zeros(self.shape, dtype=grad.dtype)
        aten("scatter_", whole, self.dim, indices, grad, into=whole)
        return (whole,)


class Amax(Op):
    """The largest value over dimensions; saves its input and its result."""

    def forward(self, x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
        """One pass."""
        self.axes, self.keepdim = axes, keepdim
        self.save(self=x)
        out = aten("amax", x, dim=axes, keepdim=keepdim)
        self.save(result=out)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient shared out among equal maxima (scale_grad_by_count): mask, count, divide, multiply."""
        x, result = self.unpack("self"), self.unpack("result")
        mask = aten("eq", _restored(result, self.axes, self.keepdim), x, temporary=True)
        share = _restored(grad, self.axes, self.keepdim)
        count = sum_(mask, self.axes, keepdim=True)
        scaled = aten("div", share, count, temporary=True)
        out = aten("mul", scaled, mask)
        del scaled, count, mask
        return (out,)


class Logsumexp(Op):
    """log(sum(exp(x))) over dimensions; saves its input and its result."""

    def forward(self, x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
        """ATen's composition."""
        self.axes, self.keepdim = axes, keepdim
        self.save(self=x)
        out: Tensor = composed_logsumexp(x, axes, keepdim)
        self.save(result=out)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """grad * exp(x - result)."""
        x, result = self.unpack("self"), self.unpack("result")
        shifted = aten("sub", x, _restored(result, self.axes, self.keepdim), temporary=True)
        powers = aten("exp", shifted, temporary=True)
        out = aten("mul", _restored(grad, self.axes, self.keepdim), powers)
        del powers, shifted
        return (out,)


def composed_logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    """logsumexp as ATen composes it, on recording or torch tensors (ReduceOps.cpp, logsumexp_out_impl).

    log(sum(exp(x - max))) + max, with infinite maxima set to 0, since inf - inf is NaN.
    """
    maxes = x.amax(dim, True)
    rows = (
        maxes if keepdim else maxes.view([size for i, size in enumerate(x.shape) if i not in _axes(dim, len(x.shape))])
    )
    magnitude = rows.abs()
    infinite = magnitude.eq(float("inf"))
    rows.masked_fill_(infinite, 0)
    del infinite, magnitude
    shifted = x.sub(maxes)
    shifted.exp_()
    out = shifted.sum(dim, keepdim)
    del shifted
    return out.log_().add_(rows)


@method("sum")
def sum_(self: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The sum over dimensions, or of everything to a scalar."""
    return Sum.apply(self, axes=_axes(dim, self.ndim), keepdim=keepdim)


@method
def mean(self: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The mean over dimensions, or of everything."""
    return Mean.apply(self, axes=_axes(dim, self.ndim), keepdim=keepdim)


@method
def norm(self: Tensor, p: float = 2, dim: Any = None, keepdim: bool = False) -> Any:
    """The Euclidean norm over dimensions, or of everything; not under autograd."""
    return aten("linalg_vector_norm", self, dim=_axes(dim, self.ndim), keepdim=keepdim)


@method
def amax(self: Tensor, dim: Any = (), keepdim: bool = False) -> Any:
    """The largest value over dimensions."""
    return Amax.apply(self, axes=_axes(dim, self.ndim), keepdim=keepdim)


class MaxResult(tuple[Tensor, Tensor]):
    """The result of `max(dim)`: values and indices."""

    @property
    def values(self) -> Tensor:
        """The largest values."""
        return self[0]

    @property
    def indices(self) -> Tensor:
        """Their int64 indices."""
        return self[1]


@method("max")
def max_(self: Tensor, dim: int, keepdim: bool = False) -> MaxResult:
    """Values and indices of the maxima along `dim`."""
    return MaxResult(MaxDim.apply(self, dim=axis(dim, self.ndim), keepdim=keepdim))


@method
def logsumexp(self: Tensor, dim: Any, keepdim: bool = False) -> Any:
    """log(sum(exp(x))) over dimensions."""
    return Logsumexp.apply(self, axes=_axes(dim, self.ndim), keepdim=keepdim)


@method
def sum_to(self: Tensor, shape: Shape) -> Tensor:
    """Sum over broadcast dimensions down to `shape` (at::sum_to)."""
    if same_shape(self.shape, shape):
        return self
    lead = self.ndim - len(shape)
    axes = [*range(lead)]
    axes += [i for i in range(lead, self.ndim) if same(shape[i - lead], 1) and not same(self.shape[i], 1)]
    result: Tensor = Sum.apply(self, axes=tuple(axes), keepdim=True) if axes else self
    return view(result, shape) if lead else result
