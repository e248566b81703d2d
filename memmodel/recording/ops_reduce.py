"""Reductions and softmax: they read every element and write one per row (softmax: one per element)."""

from collections.abc import Sequence
from typing import Any

from memmodel.dims import Shape, product, same, same_shape
from memmodel.dtypes import DType, bool_, float16, float32, int64, uint8
from memmodel.recording.autograd import Op
from memmodel.recording.elementwise import copied, elementwise
from memmodel.recording.layout import axis
from memmodel.recording.ops_copy import to
from memmodel.recording.ops_view import expand, unsqueeze, view
from memmodel.recording.reduce_scratch import reduce_scratch
from memmodel.recording.tensor import Tensor, method, new
from memmodel.work import Work


def _axes(dim: Any, ndim: int) -> tuple[int, ...]:
    """Dimensions as a sorted tuple; None or () is all of them."""
    if dim is None or dim == () or dim == []:
        return tuple(range(ndim))
    return tuple(sorted(axis(d, ndim) for d in ([dim] if isinstance(dim, int) else dim)))


def _reduced(shape: Shape, axes: Sequence[int], keepdim: bool) -> Shape:
    if keepdim:
        return tuple(1 if i in axes else size for i, size in enumerate(shape))
    return tuple(size for i, size in enumerate(shape) if i not in axes)


def reduction(
    name: str,
    x: Tensor,
    axes: Sequence[int],
    keepdim: bool,
    dtypes: Sequence[DType],
    vector: int = 1,
    cast: DType | None = None,
) -> list[Tensor]:
    """Launch a reduction of `x` over `axes`: one result per entry of `dtypes`, `vector` FLOP per element read.

    With `cast` it reads a copy of that type (ATen/native/ReduceOpsUtils.h, make_reduction).
    """
    tape = x.storage.tape
    shape = _reduced(x.shape, axes, keepdim)
    results = [new(tape, shape, kind, name if i == 0 else f"{name} indices") for i, kind in enumerate(dtypes)]
    source = copied(x, "cast", cast) if cast else x
    work = Work(
        vector=vector * x.numel(),
        read=source.bytes_read,
        written=sum((out.bytes_read for out in results), start=0),
    )
    scratch = _scratch(x) if len(axes) == x.ndim else []
    rows = product(shape)
    kind = "argmax" if len(dtypes) > 1 else "reduction"
    tape.launch(name, work, x.dtype, parallel=rows, kind=kind, sizes=(rows, product(x.shape[a] for a in axes)))
    while scratch:
        scratch.pop()
    del source
    return results


def _scratch(x: Tensor) -> list[Tensor]:
    """The buffers of a sum of everything that many thread blocks share. Closed forms leave these KiB out."""
    tape, count = x.storage.tape, x.numel()
    if not tape.device.resident_threads or hasattr(count, "free_symbols") or not x.is_contiguous():
        return []
    sizes = reduce_scratch(count, tape.device.resident_threads)
    if isinstance(count, int) and not any(sizes):
        return []
    return [new(tape, (n,), uint8, "sum scratch", role="temporary") for n in sizes]


def _restored(grad: Tensor, axes: Sequence[int], keepdim: bool) -> Tensor:
    """A reduced tensor with its reduced dimensions back as ones."""
    if not keepdim:
        for a in axes:
            grad = unsqueeze(grad, a)
    return grad


class Sum(Op):
    """The sum over dimensions; keeps nothing."""

    def forward(self, x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
        """One pass; integers and bools are summed as int64, from a copy of that type."""
        self.shape, self.axes, self.keepdim = x.shape, axes, keepdim
        kind = x.dtype if x.dtype.floating else int64
        return reduction("sum", x, axes, keepdim, [kind], cast=None if kind is x.dtype else kind)[0]

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient, expanded without a copy."""
        return (expand(_restored(grad, self.axes, self.keepdim), self.shape),)


class Mean(Sum):
    """The mean over dimensions; keeps nothing."""

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient, expanded and divided by the number of elements."""
        count = product(self.shape[a] for a in self.axes)
        return (elementwise("div", expand(_restored(grad, self.axes, self.keepdim), self.shape), count),)


class MaxDim(Op):
    """The largest value and its int64 index along one dimension; keeps the indices."""

    def forward(self, x: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
        """One pass."""
        self.shape, self.dim, self.keepdim = x.shape, dim, keepdim
        values, indices = reduction("max", x, (dim,), keepdim, [x.dtype, int64])
        self.save(indices=indices)
        return values, indices

    def backward(self, grad: Tensor, _: Any) -> tuple[Any, ...]:
        """Zeros of the input's size, the gradient scattered to the indices (value_selecting_reduction_backward)."""
        indices = self.unpack("indices")
        whole: Tensor = grad.new_zeros(self.shape, dtype=grad.dtype)
        work = Work(read=grad.bytes_read + indices.bytes_read, written=grad.bytes_read)
        grad.storage.tape.launch("scatter", work, grad.dtype, parallel=grad.numel())
        return (whole,)


class Amax(Op):
    """The largest value over dimensions; keeps its input and its result."""

    def forward(self, x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
        """One pass."""
        self.axes, self.keepdim = axes, keepdim
        self.save(self=x)
        (out,) = reduction("amax", x, axes, keepdim, [x.dtype])
        self.save(result=out)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient shared out among equal maxima (scale_grad_by_count): mask, count, divide, multiply."""
        x, result = self.unpack("self"), self.unpack("result")
        mask = elementwise("eq", _restored(result, self.axes, self.keepdim), x, dtype=bool_, role="temporary")
        share = _restored(grad, self.axes, self.keepdim)
        count = Sum.apply(mask, axes=self.axes, keepdim=True)
        scaled = elementwise("div", share, count, role="temporary")
        out = elementwise("mul", scaled, mask)
        del scaled, count, mask
        return (out,)


class Logsumexp(Op):
    """log(sum(exp(x))) over dimensions; keeps its input and its result."""

    def forward(self, x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
        """ATen's composition: the maximum, exp of the difference, its sum, log, plus the maximum."""
        self.axes, self.keepdim = axes, keepdim
        self.save(self=x)
        (maxes,) = reduction("amax", x, axes, True, [x.dtype])
        row = maxes if keepdim else view(maxes, _reduced(x.shape, axes, False))
        _replace_infinite(row)
        shifted = elementwise("sub", x, maxes, role="temporary")
        elementwise("exp", shifted, out=shifted, exp=True)
        (out,) = reduction("sum", shifted, axes, keepdim, [x.dtype])
        del shifted
        elementwise("log", out, out=out, exp=True)
        elementwise("add", row, out=out)
        self.save(result=out)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """grad * exp(x - result)."""
        x, result = self.unpack("self"), self.unpack("result")
        shifted = elementwise("sub", x, _restored(result, self.axes, self.keepdim), role="temporary")
        powers = elementwise("exp", shifted, exp=True, role="temporary")
        out = elementwise("mul", _restored(grad, self.axes, self.keepdim), powers)
        del powers, shifted
        return (out,)


def _replace_infinite(x: Tensor) -> None:
    """Infinite maxima become 0, so that inf - inf does not come up."""
    magnitude = elementwise("abs", x, role="temporary")
    mask = elementwise("eq", magnitude, dtype=bool_, role="temporary")
    elementwise("masked_fill", mask, out=x, vector=0)
    del mask, magnitude


class Softmax(Op):
    """exp(x - max) / sum over one dimension, one kernel; keeps its result."""

    def forward(self, x: Tensor, dim: int, dtype: DType) -> Tensor:
        """Reads and writes each element once; five FLOP and one exponential an element."""
        self.dtype = x.dtype
        out = new(x.storage.tape, x.shape, dtype, "softmax")
        source = x.contiguous()
        work = Work(vector=4 * x.numel(), exp=x.numel(), read=source.bytes_read, written=out.bytes_read)
        rows = product(x.shape[:dim]) * product(x.shape[dim + 1 :])
        sizes = rows, x.shape[dim]
        x.storage.tape.launch("softmax", work, x.dtype, parallel=rows, kind="softmax", sizes=sizes)
        self.save(result=out)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """(grad - sum(grad * result)) * result: the row sum is why softmax's gradient is not elementwise."""
        result = self.unpack("result")
        tape = grad.storage.tape
        out = new(tape, result.shape, self.dtype, "softmax_backward")
        source, vector = grad, 4
        if tape.device.softmax_backward_scratch:
            source, vector = elementwise("mul", grad, result, role="temporary"), 3
        packed = source.contiguous()
        work = Work(vector=vector * result.numel(), read=packed.bytes_read + result.bytes_read, written=out.bytes_read)
        sizes = product(result.shape[:-1]), result.shape[-1]
        tape.launch("softmax_backward", work, result.dtype, sizes[0], kind="softmax_backward", sizes=sizes)
        del packed, source
        return (out,)


@method("sum")
def sum_(self: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The sum over dimensions, or of everything to a scalar."""
    return Sum.apply(self, axes=_axes(dim, self.ndim), keepdim=keepdim)


@method
def mean(self: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The mean over dimensions, or of everything."""
    return Mean.apply(self, axes=_axes(dim, self.ndim), keepdim=keepdim)


@method
def amax(self: Tensor, dim: Any = (), keepdim: bool = False) -> Any:
    """The largest value over dimensions."""
    return Amax.apply(self, axes=_axes(dim, self.ndim), keepdim=keepdim)


class MaxResult(tuple[Tensor, Tensor]):
    """What `max(dim)` returns: values and indices."""

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
def softmax(self: Tensor, dim: int, dtype: DType | None = None) -> Any:
    """Softmax over `dim`; with `dtype`, computed and returned in it (from an upcast copy, except half on CUDA)."""
    a = axis(dim, self.ndim)
    if dtype is None or dtype is self.dtype:
        return Softmax.apply(self, dim=a, dtype=self.dtype)
    device = self.storage.tape.device
    if device.softmax_reads_half and self.dtype is float16 and dtype is float32:
        return Softmax.apply(self, dim=a, dtype=float32)
    upcast = to(self, dtype)
    return Softmax.apply(upcast, dim=a, dtype=dtype)


@method
def sum_to(self: Tensor, shape: Shape) -> Tensor:
    """Summed over broadcast dimensions down to `shape` (at::sum_to)."""
    if same_shape(self.shape, shape):
        return self
    lead = self.ndim - len(shape)
    axes = [*range(lead)]
    axes += [i for i in range(lead, self.ndim) if same(shape[i - lead], 1) and not same(self.shape[i], 1)]
    result: Tensor = Sum.apply(self, axes=tuple(axes), keepdim=True) if axes else self
    return view(result, shape) if lead else result
