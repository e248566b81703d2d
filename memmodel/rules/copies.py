"""Copies, casts and fills; factory functions; writes into an existing tensor.

A fill or copy in place is mostly the first write to fresh memory (`empty(...).copy_(x)`), so that its launch is not
marked in-place: on a CPU it pays for the page faults.

Sources: aten/src/ATen/native/Copy.cpp, TensorFactories.cpp, Fill.cpp, TriangularOps.cpp and
tools/autograd/derivatives.yaml.
"""

from collections.abc import Callable, Sequence
from typing import Any

from memmodel.base import dtypes
from memmodel.base.dtypes import DType, float32, int32, int64
from memmodel.base.errors import UsageError
from memmodel.rules.dispatch import aten
from memmodel.rules.operator import RESULTS, Call, Spec, Steps, kernel, makes, moves, rule
from memmodel.rules.pointwise import kept_strides
from memmodel.sizes.dims import Dim
from memmodel.tensors.autograd import Op
from memmodel.tensors.layout import Strided, contiguous_strides, is_dense
from memmodel.tensors.tape import Tape
from memmodel.tensors.tensor import Tensor, method, new

_UNSET = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "resize", "set")
_ZEROS = ("zeros", "new_zeros", "zeros_like", "zero")
_FILLED = ("ones", "new_ones", "ones_like", "full", "new_full", "full_like", "fill", "eye", "arange", "linspace")
_REARRANGED = ("constant_pad_nd", "repeat", "flip", "roll", "repeat_interleave", "as_strided_scatter", "slice_scatter",
               "select_scatter", "split_with_sizes_copy", "one_hot")  # fmt: skip
_DRAWN = ("randn", "rand", "randn_like", "rand_like", "randint", "uniform", "normal", "random", "bernoulli")


@rule("clone", "_to_copy", "copy", "lift_fresh_copy", "_reshape_copy")
def copied(call: Call) -> Steps:
    """One read, one write; a number of the host is read from there."""
    yield RESULTS
    # copy_(self, source): its first operand is the one written.
    source = call.args[1 if call.op == "copy_" else 0]
    yield moves("copy", [source] if isinstance(source, Strided) else [], [call.out])


@rule(
    *_UNSET, "_unsafe_view", "detach", "alias", "lift_fresh", "scalar_tensor", "_local_scalar_dense", "_reshape_alias"
)
def nothing_runs(call: Call) -> Steps:
    """Launches no kernel: it allocates at most."""
    yield RESULTS


@rule(*_REARRANGED)
def rearranged(call: Call) -> Steps:
    """Each operand read once, each result written once."""
    yield RESULTS
    yield moves(call.op, call.tensors(), call.written(), in_place=call.in_place)


@rule(*_ZEROS)
def zeroed(call: Call) -> Steps:
    """A fill with zeros."""
    yield RESULTS
    yield moves("zero", [], [call.out])


@rule(*_FILLED)
def filled(call: Call) -> Steps:
    """Written once."""
    yield RESULTS
    yield moves("fill", [], [call.out])


@rule(*_DRAWN)
def drawn(call: Call) -> Steps:
    """Random numbers, written once. Bernoulli draws have their own rate on the CPU, measured with its operand read."""
    yield RESULTS
    base = call.op.rstrip("_")
    if base == "bernoulli":
        n = call.out.numel()
        yield kernel(base, call.tensors()[:1], [call.out], call.out.dtype, vector=n, kind="bernoulli")
    else:
        yield moves(base, [], [call.out])


@rule("tril", "triu")
def triangle(call: Call) -> Steps:
    """A copy, partly zeroed."""
    yield RESULTS
    yield moves(call.op.rstrip("_"), call.args[:1], [call.out], kind="triangle", in_place=call.in_place)


makes("clone")(lambda x, contiguous: Spec(x.shape, x.dtype, None if contiguous else kept_strides(x)))
makes("_to_copy")(lambda x, dtype: Spec(x.shape, dtype, kept_strides(x)))
makes("tril", "triu")(lambda x, *_: Spec(x.shape, x.dtype, kept_strides(x)))
makes("empty", "zeros", "ones", "randn", "randint", "full", "arange", "eye")(
    lambda size, *_, dtype: Spec(tuple(size), dtype)
)
makes("constant_pad_nd")(lambda x, pad: Spec((*x.shape[:-1], x.shape[-1] + pad[1]), x.dtype))
makes("new_empty_strided")(lambda x, size, strides: Spec(size, x.dtype, strides))
makes("empty_like")(lambda x: Spec(x.shape, x.dtype, kept_strides(x)))
makes("zeros_like")(lambda x, dtype: Spec(x.shape, dtype, kept_strides(x)))


class ToCopy(Op):
    """A copy in another dtype."""

    def forward(self, x: Tensor, dtype: DType) -> Tensor:
        """See `to`."""
        self.dtype = x.dtype
        return aten("_to_copy", x, dtype=dtype, label="to")

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient in the input's dtype."""
        return (grad if grad.dtype is self.dtype else aten("_to_copy", grad, dtype=self.dtype, label="to"),)


class Clone(Op):
    """A copy."""

    def forward(self, x: Tensor, contiguous: bool) -> Tensor:
        """Row-major, or in the layout of `x`."""
        return aten("clone", x, contiguous=contiguous)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient itself."""
        return (grad,)


class ConstantPadNd(Op):
    """The last dimension longer by some columns of zeros; its gradient is without them, a copy."""

    def forward(self, x: Tensor, columns: int) -> Tensor:
        """One operator."""
        self.columns = columns
        return aten("constant_pad_nd", x, (0, columns))

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The same operator with negative padding, which cuts the columns."""
        return (aten("constant_pad_nd", grad, (0, -self.columns)),)


class Triangle(Op):
    """The lower or upper triangle, zeros elsewhere."""

    def forward(self, x: Tensor, name: str) -> Tensor:
        """A copy, partly zeroed."""
        self.part = name
        return aten(name, x)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The same triangle of the gradient."""
        return (aten(self.part, grad),)


@method
def to(self: Tensor, dtype: Any) -> Any:
    """In another dtype; itself where it has it. A device's name changes nothing."""
    if isinstance(dtype, str) or dtype is self.dtype:
        return self
    return ToCopy.apply(self, dtype=dtype)


@method
def type_as(self: Tensor, other: Tensor) -> Any:
    """In the dtype of `other`."""
    return to(self, other.dtype)


def _conversion(name: str, dtype: DType) -> None:
    def convert(self: Tensor) -> Any:
        return to(self, dtype)

    convert.__doc__ = f"In {dtype}."
    method(name)(convert)


for _name, _dtype in {"float": float32, "half": dtypes.float16, "int": int32, "bfloat16": dtypes.bfloat16}.items():
    _conversion(_name, _dtype)


@method
def clone(self: Tensor) -> Any:
    """A copy in the same layout."""
    return Clone.apply(self, contiguous=False)


@method
def contiguous(self: Tensor) -> Any:
    """Row-major: itself where it is, else a copy."""
    return self if self.is_contiguous() else clone_contiguous(self)


@method
def clone_contiguous(self: Tensor) -> Any:
    """A row-major copy."""
    return Clone.apply(self, contiguous=True)


@method
def clone_like(self: Tensor, other: Tensor) -> Tensor:
    """A copy in the strides of `other`, of the same shape (torch/csrc/autograd/utils/grad_layout_contract.h)."""
    # AccumulateGrad gives a gradient the layout of its parameter where that is dense, else row-major.
    strides = other.strides if is_dense(other.shape, other.strides) else contiguous_strides(other.shape)
    return copy_(aten("new_empty_strided", self, self.shape, strides, label="clone"), self)


@method
def copy_(self: Tensor, source: Tensor) -> Tensor:
    """Write the elements of `source` into this tensor. Raises UsageError under autograd, which is not modelled."""
    if self.storage.tape.grad_enabled and (self.requires_grad or source.requires_grad):
        raise UsageError("copy_ into a tensor under autograd is not modelled: use cat or stack, or no_grad()")
    return aten("copy_", self, source, into=self)


@method
def zero_(self: Tensor) -> Tensor:
    """Write zeros into this tensor."""
    return aten("zero_", self, into=self)


def listed_sizes(sizes: Sequence[Any]) -> tuple[Any, ...]:
    """Sizes given one by one or as one sequence."""
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else tuple(sizes)


def _made(op: str, sizes: Sequence[Any], dtype: DType, requires_grad: bool = False, tape: Tape | None = None) -> Tensor:
    out: Tensor = aten(op, listed_sizes(sizes), dtype=dtype, tape=tape)
    return out.requires_grad_() if requires_grad else out


def empty(*size: Any, dtype: DType = float32, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of the shape given, contents unset."""
    return _made("empty", size, dtype, requires_grad)


def zeros(*size: Any, dtype: DType = float32, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros."""
    return _made("zeros", size, dtype, requires_grad)


def ones(*size: Any, dtype: DType = float32, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones."""
    return _made("ones", size, dtype, requires_grad)


def randn(*size: Any, dtype: DType = float32, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of normal random numbers."""
    return _made("randn", size, dtype, requires_grad)


def randint(high: int, size: Sequence[Dim], device: Any = None) -> Tensor:
    """A tensor of whole random numbers."""
    return _made("randint", size, int64)


def full(size: Sequence[Dim], fill_value: Any, dtype: DType = float32, device: Any = None) -> Tensor:
    """A tensor of one value."""
    return _made("full", size, dtype)


def eye(n: Dim, dtype: DType = float32, device: Any = None) -> Tensor:
    """The identity matrix (n, n)."""
    return _made("eye", (n, n), dtype)


def arange(start: Dim, end: Dim | None = None, dtype: DType = int64, device: Any = None) -> Tensor:
    """start, start + 1, ..., end - 1; from 0 on where one number is given."""
    return _made("arange", (start if end is None else end - start,), dtype)


def _new(op: str, doc: str) -> Callable[..., Tensor]:
    def made(self: Tensor, *size: Any, dtype: DType | None = None) -> Tensor:
        return _made(op, size, dtype or self.dtype, tape=self.storage.tape)

    made.__doc__ = f"A tensor {doc}, of this one's dtype unless another is given."
    return method(f"new_{op}")(made)


new_empty, new_zeros, new_ones = (
    _new("empty", "with unset contents"),
    _new("zeros", "of zeros"),
    _new("ones", "of ones"),
)


@method
def ones_like(self: Tensor) -> Tensor:
    """Ones in this tensor's shape."""
    return new_ones(self, self.shape)


@method
def zeros_like(self: Tensor, dtype: DType | None = None) -> Tensor:
    """Zeros in this tensor's shape and memory order, of its dtype unless another is given."""
    return aten("zeros_like", self, dtype=dtype or self.dtype)


@method
def host_copy(self: Tensor) -> Callable[[], Tensor]:
    """A copy in the host's memory, which is not recorded; call it for a tensor of the same layout on the device."""
    tape, spec = self.storage.tape, Spec(self.shape, self.dtype, kept_strides(self))
    return lambda: new(tape, spec, "copy of the host")


@method
def empty_like(self: Tensor) -> Tensor:
    """An unset tensor in this tensor's shape and memory order."""
    return aten("empty_like", self)


@method
def padded(self: Tensor, columns: int) -> Any:
    """With that many more columns: torch.nn.functional.pad(self, (0, columns))."""
    return ConstantPadNd.apply(self, columns=columns)


@method
def tril(self: Tensor, diagonal: Dim = 0) -> Any:
    """The lower triangle up to `diagonal`."""
    return Triangle.apply(self, name="tril")


@method
def triu(self: Tensor, diagonal: Dim = 0) -> Any:
    """The upper triangle from `diagonal`."""
    return Triangle.apply(self, name="triu")
