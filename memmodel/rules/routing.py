"""Operators of a mixture's router and of its grouped products, on recording tensors: gradients and saved tensors.

Their kernels are in `indexing`, `reductions` and `products`. Sources: tools/autograd/derivatives.yaml, torch/csrc/
autograd/FunctionsManual.cpp (value_selecting_reduction_backward, index_backward, gather_backward, clamp_backward,
_grouped_mm_mat1_backward), aten/src/ATen/native/GroupedMMUtils.h (rows of a product up to 16 bytes).
"""

from typing import Any

from memmodel.base.dtypes import DType, float32, int64
from memmodel.rules.dispatch import aten, several
from memmodel.rules.operator import RESULTS, Call, Spec, Steps, makes, moves, rule
from memmodel.sizes.dims import Dim, Shape, ceil_div
from memmodel.tensors.autograd import Op
from memmodel.tensors.layout import Strided, axis
from memmodel.tensors.tensor import Tensor, method

_ALIGNED = 16  # bytes


@rule("histc")
def counted(call: Call) -> Steps:
    """Counts of values."""
    yield RESULTS
    yield moves("histc", call.args[:1], [call.out])


@makes("topk")
def _best(x: Strided, k: Dim, dim: int) -> list[Spec]:
    shape = (*x.shape[:dim], k, *x.shape[dim + 1 :])
    return [Spec(shape, x.dtype), Spec(shape, int64)]


@makes("_grouped_mm")
def _grouped(a: Strided, b: Strided, offs: Strided) -> Spec:
    """Rows that are padded to 16 bytes."""
    sizes: Shape = (a.shape[0], b.shape[-1]) if len(b.shape) == 3 else (offs.shape[0], a.shape[0], b.shape[1])
    # Hopper's kernels write by TMA, whose strides are multiples of 16 bytes.
    step = _ALIGNED // a.dtype.itemsize
    row = ceil_div(sizes[-1], step) * step
    return Spec(sizes, a.dtype, (row, 1) if len(sizes) == 2 else (sizes[1] * row, row, 1))


makes("sort")(lambda x: [Spec(x.shape, x.dtype), Spec(x.shape, int64)])
makes("index")(lambda x, indices: Spec((*indices[0].shape, *x.shape[1:]), x.dtype))
makes("gather")(lambda x, dim, index: Spec(index.shape, x.dtype))
makes("index_select")(lambda x, dim, index: Spec((*x.shape[:dim], index.shape[0], *x.shape[dim + 1 :]), x.dtype))
makes("scatter", "index_add")(lambda x, dim, index, values: Spec(x.shape, x.dtype))
makes("histc")(lambda x, bins: Spec((bins,), x.dtype))
makes("cumsum")(lambda x, dim, dtype: Spec(x.shape, dtype))


class TopK(Op):
    """The largest values along a dimension and their indices; saves the indices."""

    def forward(self, x: Tensor, k: Dim, dim: int) -> tuple[Tensor, ...]:
        """One operator."""
        self.shape, self.dim = x.shape, dim
        values, indices = several("topk", x, k, dim, label=("topk", "topk indices"))
        self.save(indices=indices)
        return values, indices

    def backward(self, grad: Tensor, _: Any) -> tuple[Any, ...]:
        """Zeros of the input's size, the gradient scattered to the indices."""
        whole: Tensor = grad.new_zeros(self.shape)
        aten("scatter_", whole, self.dim, self.unpack("indices"), grad, into=whole)
        return (whole,)


class Index(Op):
    """Rows by their indices; saves these."""

    def forward(self, x: Tensor, indices: Tensor) -> Tensor:
        """One gather."""
        self.shape = x.shape
        self.save(indices=indices)
        return aten("index", x, [indices])

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """Zeros of the input's size, to which rows are added."""
        whole: Tensor = grad.new_zeros(self.shape)
        # accumulate, and unsafe: the indices were checked in forward.
        aten("_index_put_impl_", whole, [self.unpack("indices")], grad, True, True, into=whole)
        return whole, None


class Gather(Op):
    """Elements by their indices along a dimension; saves these."""

    def forward(self, x: Tensor, index: Tensor, dim: int) -> Tensor:
        """One gather."""
        self.shape, self.dim = x.shape, dim
        self.save(index=index)
        return aten("gather", x, dim, index)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """Zeros of the input's size, to which elements are added."""
        whole: Tensor = grad.new_zeros(self.shape)
        aten("scatter_add_", whole, self.dim, self.unpack("index"), grad, into=whole)
        return whole, None


class Scatter(Op):
    """A constant with `values` at `index` along a dimension; saves the indices."""

    def forward(self, x: Tensor, index: Tensor, values: Tensor, dim: int) -> Tensor:
        """A copy, and one scatter into it."""
        self.dim = dim
        self.save(index=index)
        return aten("scatter", x, dim, index, values)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient at the indices."""
        return None, None, aten("gather", grad, self.dim, self.unpack("index"))


class IndexAdd(Op):
    """A constant to whose rows along a dimension others are added; saves these and their indices."""

    def forward(self, x: Tensor, index: Tensor, values: Tensor, dim: int) -> Tensor:
        """A copy, and sums into it."""
        self.dim = dim
        self.save(index=index, source=values)
        return aten("index_add", x, dim, index, values)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient's rows at the indices, of the shape of what was added, which is asked for that alone."""
        self.unpack("source")
        return None, None, aten("index_select", grad, self.dim, self.unpack("index"))


class Clamp(Op):
    """x within bounds; saves x."""

    def forward(self, x: Tensor, low: float | None, high: float | None) -> Tensor:
        """One kernel."""
        self.bounds = low, high
        self.save(self=x)
        return aten("clamp", x)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient where x lies within the bounds, else 0."""
        x, (low, high) = self.unpack("self"), self.bounds
        # where((x >= low).logical_and_(x <= high), grad, 0); the 0.0 stand for bounds, whose values change nothing.
        within = aten("le" if low is None else "ge", x, 0.0)
        below = None
        if low is not None and high is not None:
            below = aten("le", x, 0.0, temporary=True)
            aten("logical_and_", within, below, into=within)
        out = aten("where", within, grad, 0.0)
        del below, within
        return (out,)


class GroupedMm(Op):
    """Products of groups of rows with their matrices; saves both and the ends of the groups."""

    def forward(self, x: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
        """One operator."""
        if self.needs[0]:
            self.save(mat2=weight)
        self.save(offs=offs)
        if self.needs[1]:
            self.save(self=x)
        return aten("_grouped_mm", x, weight, offs)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient of the matrices, which are column-major, then that of the rows."""
        offs, weight, x = self.unpack("offs"), None, None
        if self.needs[1]:
            weight = aten("_grouped_mm", grad.transpose(-2, -1), self.unpack("self"), offs).transpose(-2, -1)
        if self.needs[0]:
            x = aten("_grouped_mm", grad, self.unpack("mat2").transpose(-2, -1), offs)
        return x, weight, None


@method
def topk(self: Tensor, k: Dim, dim: int = -1) -> Any:
    """The k largest values along `dim`, and their int64 indices."""
    return TopK.apply(self, k=k, dim=axis(dim, self.ndim))


@method
def sort(self: Tensor) -> Any:
    """The values in order, and where they were; not under autograd."""
    return several("sort", self, label=("sort", "sort indices"))


@method
def index(self: Tensor, indices: Tensor) -> Any:
    """The rows at `indices`; what x[indices] calls."""
    return Index.apply(self, indices)


@method
def gather(self: Tensor, dim: int, index: Tensor) -> Any:
    """The elements at `index` along `dim`."""
    return Gather.apply(self, index, dim=axis(dim, self.ndim))


@method
def scatter(self: Tensor, dim: int, index: Tensor, values: Tensor) -> Any:
    """The tensor, which does not learn, with `values` at `index` along `dim`."""
    return Scatter.apply(self, index, values, dim=axis(dim, self.ndim))


@method
def index_add(self: Tensor, dim: int, index: Tensor, values: Tensor) -> Any:
    """The tensor, which does not learn, with rows added at `index` along `dim`."""
    return IndexAdd.apply(self, index, values, dim=axis(dim, self.ndim))


@method
def scatter_(self: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """Write `value` at `index` along `dim`; not under autograd."""
    return aten("scatter_", self, axis(dim, self.ndim), index, value, into=self)


@method
def clamp(self: Tensor, min: float | None = None, max: float | None = None) -> Any:
    """Elementwise, no smaller than `min` and no larger than `max`."""
    return Clamp.apply(self, low=min, high=max)


@method
def histc(self: Tensor, bins: Dim, min: Any = 0, max: Any = 0) -> Tensor:
    """The number of values in each of `bins` intervals."""
    return aten("histc", self, bins)


@method
def cumsum(self: Tensor, dim: int, dtype: DType = float32) -> Tensor:
    """Sums up to each element; not under autograd."""
    return aten("cumsum", self, dim, dtype=dtype)


@method
def index_put_(self: Tensor, indices: tuple[Tensor, ...], values: Tensor) -> Tensor:
    """Write rows at indices, into the tensor itself; not under autograd."""
    return aten("index_put_", self, list(indices), values, into=self)


@method("__floordiv__")
def floor_divide(self: Tensor, other: int) -> Tensor:
    """Elementwise, rounded down."""
    return aten("floor_divide", self, other)


def grouped_mm(mat_a: Tensor, mat_b: Tensor, *, offs: Tensor) -> Any:
    """Rows (S, k), in groups that end at `offs`, times the matrices (g, k, n) of their groups."""
    return GroupedMm.apply(mat_a, mat_b, offs)
