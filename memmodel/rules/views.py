"""Views: other shapes on the same storage. `reshape` alone copies, where strides cannot express the shape.

Sources: aten/src/ATen/native/TensorShape.cpp, TensorUtils.cpp (computeStride); tools/autograd/derivatives.yaml.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from memmodel.base.dtypes import int64
from memmodel.base.errors import UsageError
from memmodel.rules.copies import listed_sizes
from memmodel.rules.dispatch import aten
from memmodel.rules.joins import cat
from memmodel.rules.operator import RESULTS, Call, Spec, Steps, makes, moves, rule
from memmodel.sizes.dims import Dim, Shape, ceil_div, hint, merged, minimum, same, same_shape
from memmodel.tensors.autograd import Op
from memmodel.tensors.layout import axis, expand_strides, resolve, view_strides
from memmodel.tensors.tensor import Tensor, method, methods


@rule("slice_backward", "select_backward", "diagonal_backward")
def written_into_zeros(call: Call) -> Steps:
    """Write zeros of the input's size, then copy the gradient in (TensorShape.cpp)."""
    grad = call.args[0]
    yield RESULTS
    yield moves("zero", [], [call.out])
    yield moves("copy", [grad], [grad], in_place=True)


makes("slice_backward", "select_backward")(lambda grad, shape: Spec(shape, grad.dtype))


class Permute(Op):
    """Dimensions in another order."""

    is_view = True

    def forward(self, x: Tensor, order: tuple[int, ...]) -> Tensor:
        """See `permute`."""
        self.order = order
        shape, strides = x.shape, x.strides
        return x.viewed(tuple([shape[i] for i in order]), tuple([strides[i] for i in order]))

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The inverse order."""
        return (Permute.apply(grad, order=tuple([self.order.index(i) for i in range(len(self.order))])),)


class View(Op):
    """The same elements under another shape (`view`, and `reshape` where no copy is needed)."""

    is_view = True

    def forward(self, x: Tensor, shape: Shape) -> Tensor:
        """See `view`."""
        self.shape = x.shape
        strides = None if x.is_contiguous() else view_strides(x.shape, x.strides, shape)
        if strides is None and not x.is_contiguous():
            raise UsageError(f"view of shape {shape} on {x.shape} with strides {x.strides}: use reshape, which copies")
        # _unsafe_view shares the storage, but autograd lets its result be written in place as one without a base.
        return x.viewed(shape, strides) if self.is_view else Tensor(x.storage, shape, strides, x.dtype, offset=x.offset)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """Reshape to the input's shape."""
        return (reshape(grad, self.shape),)


class UnsafeView(View):
    """A view of a fresh result (a matrix product's) that autograd does not treat as one (`_unsafe_view`)."""

    is_view = False


class Expand(Op):
    """Dimensions of one repeated without a copy (stride 0)."""

    is_view = True

    def forward(self, x: Tensor, shape: Shape) -> Tensor:
        """See `expand`."""
        self.shape = x.shape
        return x.viewed(shape, expand_strides(x.shape, x.strides, shape))

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """Sum over the repeated dimensions."""
        return (grad.sum_to(self.shape),)


class Slice(Op):
    """A range of one dimension."""

    is_view = True

    def forward(self, x: Tensor, dim: int, start: Dim, length: Dim, step: int = 1) -> Tensor:
        """See `narrow`; `step` takes each so many-th index."""
        self.shape = x.shape
        shape = (*x.shape[:dim], length, *x.shape[dim + 1 :])
        strides = x.strides
        if step != 1:
            strides = (*strides[:dim], strides[dim] * step, *strides[dim + 1 :])
        return x.viewed(shape, strides, x.offset + start * x.strides[dim])

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """Zeros of the input's size, with the gradient copied in."""
        return (aten("slice_backward", grad, self.shape),)


class Alias(Op):
    """A view of the whole tensor, which indexing with full slices returns."""

    is_view = True

    def forward(self, x: Tensor) -> Tensor:
        """A view of all of it."""
        return x.viewed(x.shape, None if x.is_contiguous() else x.strides)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient itself."""
        return (grad,)


class Select(Op):
    """One index of a dimension, which is dropped."""

    is_view = True

    def forward(self, x: Tensor, dim: int, index: Dim) -> Tensor:
        """See `select`."""
        self.shape = x.shape
        keep = [i for i in range(x.ndim) if i != dim]
        start = x.offset + (index if hint(index) >= 0 else x.shape[dim] + index) * x.strides[dim]
        return x.viewed(tuple(x.shape[i] for i in keep), tuple(x.strides[i] for i in keep), start)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """Zeros of the input's size, with the gradient copied in."""
        return (aten("select_backward", grad, self.shape),)


class Split(Op):
    """Consecutive pieces of one dimension, all views."""

    is_view = True

    def forward(self, x: Tensor, dim: int, sizes: tuple[Dim, ...]) -> tuple[Tensor, ...]:
        """See `split`."""
        self.shapes = [(*x.shape[:dim], size, *x.shape[dim + 1 :]) for size in sizes]
        self.dim = dim
        starts = accumulate(sizes[:-1], initial=0)
        return tuple(
            x.viewed(shape, x.strides, x.offset + start * x.strides[dim])
            for shape, start in zip(self.shapes, starts, strict=True)
        )

    def backward(self, *grads: Tensor | None) -> tuple[Any, ...]:
        """The pieces joined; zeros for those without a gradient (split_backward)."""
        # split_backward joins whole pieces: one without a gradient costs zeros of its size.
        given = next(grad for grad in grads if grad is not None)
        pieces = [
            given.new_zeros(shape, dtype=given.dtype) if grad is None else grad
            for grad, shape in zip(grads, self.shapes, strict=True)
        ]
        return (cat(pieces, self.dim),)


@method
def permute(self: Tensor, *dims: Any) -> Tensor:
    """Reorder the dimensions, without a copy. Raises UsageError unless each is named once."""
    order = tuple(axis(d, self.ndim) for d in listed_sizes(dims))
    if sorted(order) != list(range(self.ndim)):
        raise UsageError(f"permute{order} of a tensor with {self.ndim} dimensions: name each dimension once")
    result: Tensor = Permute.apply(self, order=order)
    return result


@method
def transpose(self: Tensor, dim0: int, dim1: int) -> Tensor:
    """Swap two dimensions, without a copy."""
    order = list(range(self.ndim))
    a, b = axis(dim0, self.ndim), axis(dim1, self.ndim)
    order[a], order[b] = order[b], order[a]
    result: Tensor = Permute.apply(self, order=tuple(order))
    return result


def _last_two_swapped(self: Tensor) -> Tensor:
    return transpose(self, -2, -1)


Tensor.mT = property(_last_two_swapped)  # type: ignore[attr-defined]
Tensor.T = property(lambda self: permute(self, tuple(reversed(range(self.ndim)))))  # type: ignore[attr-defined]
method("swapaxes")(transpose)


@method
def t(self: Tensor) -> Tensor:
    """The transpose of a matrix."""
    return transpose(self, 0, 1)


@method
def view(self: Tensor, *shape: Any) -> Tensor:
    """The same elements under another shape. Raises UsageError if that needs a copy."""
    result: Tensor = View.apply(self, shape=resolve(self.shape, listed_sizes(shape)))
    return result


@method
def reshape(self: Tensor, *shape: Any) -> Tensor:
    """The same elements under another shape: a view if strides allow it, else a contiguous copy."""
    wanted = resolve(self.shape, listed_sizes(shape))
    if not self.is_contiguous() and view_strides(self.shape, self.strides, wanted) is None:
        # at::reshape views its clone by _unsafe_view: nobody else holds the clone.
        copied: Tensor = UnsafeView.apply(self.clone_contiguous(), shape=wanted)
        return copied
    if same_shape(wanted, self.shape):
        return self
    result: Tensor = View.apply(self, shape=wanted)
    return result


@method
def flatten(self: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Merge the dimensions from `start_dim` to `end_dim`."""
    a, b = axis(start_dim, self.ndim), axis(end_dim, self.ndim)
    return reshape(self, *self.shape[:a], merged(self.shape[a : b + 1]), *self.shape[b + 1 :])


@method
def unflatten(self: Tensor, dim: int, sizes: Sequence[Dim]) -> Tensor:
    """Split one dimension into several."""
    a = axis(dim, self.ndim)
    return view(self, *self.shape[:a], *resolve((self.shape[a],), sizes), *self.shape[a + 1 :])


@method
def expand(self: Tensor, *sizes: Any) -> Tensor:
    """Repeat dimensions of size 1 to the sizes given (-1 keeps a size), without a copy."""
    wanted = listed_sizes(sizes)
    lead = len(wanted) - self.ndim
    shape = tuple(self.shape[i - lead] if isinstance(s, int) and s == -1 else s for i, s in enumerate(wanted))
    result: Tensor = Expand.apply(self, shape=shape)
    return result


@method
def unsqueeze(self: Tensor, dim: int) -> Tensor:
    """Insert a dimension of size 1 before `dim`."""
    a = axis(dim, self.ndim + 1)
    result: Tensor = View.apply(self, shape=(*self.shape[:a], 1, *self.shape[a:]))
    return result


@method
def squeeze(self: Tensor, dim: int) -> Tensor:
    """Remove a dimension of size 1."""
    a = axis(dim, self.ndim)
    if not same(self.shape[a], 1):
        return self
    result: Tensor = View.apply(self, shape=(*self.shape[:a], *self.shape[a + 1 :]))
    return result


@method
def narrow(self: Tensor, dim: int, start: Dim, length: Dim) -> Tensor:
    """`length` indices of a dimension, from `start`, without a copy."""
    a = axis(dim, self.ndim)
    if hint(start) + hint(length) > hint(self.shape[a]):
        raise UsageError(f"narrow from {start} by {length} leaves dimension {dim} of size {self.shape[a]}")
    result: Tensor = Slice.apply(self, dim=a, start=start, length=length)
    return result


@method
def select(self: Tensor, dim: int, index: int) -> Tensor:
    """One index of a dimension, which is dropped, without a copy."""
    result: Tensor = Select.apply(self, dim=axis(dim, self.ndim), index=index)
    return result


@method
def split(self: Tensor, split_size: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces of `split_size` along `dim` (the last may be smaller), or of the sizes in a list."""
    a = axis(dim, self.ndim)
    size = self.shape[a]
    if isinstance(split_size, list | tuple):
        sizes = tuple(split_size)
    else:
        count = ceil_div(size, split_size)
        if not hasattr(count, "__index__"):
            raise UsageError(
                f"split of a dimension {size} by {split_size}: the number of pieces must be a plain number"
            )
        whole = int(count) - 1
        sizes = (*(split_size,) * whole, size - whole * split_size)
    result: tuple[Tensor, ...] = Split.apply(self, dim=a, sizes=sizes)
    return result


@method
def chunk(self: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` equal pieces along `dim`."""
    return split(self, ceil_div(self.shape[axis(dim, self.ndim)], chunks), dim)


@method("__getitem__")
def getitem(self: Tensor, index: Any) -> Tensor:
    """Basic indexing: slices, ints, None and `...`; or one tensor of indices."""
    items = list(index) if isinstance(index, tuple) else [index]
    # `in` compares by ==, which a tensor answers with a tensor.
    if Ellipsis in [i for i in items if not isinstance(i, Tensor)]:
        at = items.index(Ellipsis)
        given = sum(1 for i in items if i is not None and i is not Ellipsis)
        items[at : at + 1] = [slice(None)] * (self.ndim - given)
    result, dim = self, 0
    for item in items:
        if item is None:
            result = unsqueeze(result, dim)
            dim += 1
        elif isinstance(item, slice):
            result = _ranged(result, dim, item)
            dim += 1
        elif isinstance(item, int):
            result = select(result, dim, item)
        elif isinstance(item, Tensor) and len(items) == 1 and item.dtype is int64:
            result = methods["index"](self, item)
        else:
            raise UsageError(
                f"indexing with {item!r}: recording tensors take slices, ints, None, ... and one tensor of indices"
            )
    # x[:] is a new tensor also where nothing was selected (python_variable_indexing.cpp, alias).
    return Alias.apply(self) if result is self else result


def _ranged(x: Tensor, dim: int, item: slice) -> Tensor:
    if item == slice(None):
        return x
    size = x.shape[dim]
    if item.step not in (None, 1):
        if item.stop is not None:
            raise UsageError(f"a slice to {item.stop} with step {item.step}: recording tensors take such to the end")
        start = item.start or 0
        every: Tensor = Slice.apply(x, dim=dim, start=start, length=ceil_div(size - start, item.step), step=item.step)
        return every
    start = 0 if item.start is None else item.start
    stop = size if item.stop is None else item.stop
    if isinstance(start, int) and start < 0:
        start = start + size
    if isinstance(stop, int) and stop < 0:
        stop = stop + size
    end = minimum(stop, size)
    if same(start, 0) and same(end, size):
        return x  # torch's indexing skips a slice of everything
    return narrow(x, dim, start, end - start)


@method
def detach(self: Tensor) -> Tensor:
    """The same storage, without history."""
    return self.alias()
