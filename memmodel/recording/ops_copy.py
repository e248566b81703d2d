"""Copies: other dtypes, other layouts, and writes into a tensor that is there."""

from typing import Any

from memmodel import dtypes
from memmodel.dtypes import DType
from memmodel.errors import UsageError
from memmodel.recording.autograd import Op
from memmodel.recording.elementwise import copied
from memmodel.recording.layout import contiguous_strides, is_dense
from memmodel.recording.tensor import Tensor, method
from memmodel.work import Work


class ToCopy(Op):
    """A copy in another dtype."""

    def forward(self, x: Tensor, dtype: DType) -> Tensor:
        """See `to`."""
        self.dtype = x.dtype
        return copied(x, "to", dtype)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient in the input's dtype."""
        return (copied(grad, "to", self.dtype) if grad.dtype is not self.dtype else grad,)


class Clone(Op):
    """A copy."""

    def forward(self, x: Tensor, contiguous: bool) -> Tensor:
        """Row-major, or in the layout of `x`."""
        return copied(x, "clone", strides=contiguous_strides(x.shape) if contiguous else None)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient itself."""
        return (grad,)


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


@method("float")
def to_float(self: Tensor) -> Any:
    """In float32."""
    return to(self, dtypes.float32)


@method("half")
def to_half(self: Tensor) -> Any:
    """In float16."""
    return to(self, dtypes.float16)


@method("bfloat16")
def to_bfloat16(self: Tensor) -> Any:
    """In bfloat16."""
    return to(self, dtypes.bfloat16)


@method
def clone(self: Tensor) -> Any:
    """A copy in the same layout."""
    return Clone.apply(self, contiguous=False)


@method
def clone_contiguous(self: Tensor) -> Any:
    """A row-major copy."""
    return Clone.apply(self, contiguous=True)


@method
def clone_like(self: Tensor, other: Tensor) -> Tensor:
    """A copy in the strides of `other`, of the same shape (clone_obey_contract)."""
    strides = other.strides if is_dense(other.shape, other.strides) else contiguous_strides(other.shape)
    return copied(self, "clone", strides=strides)


@method
def copy_(self: Tensor, source: Tensor) -> Tensor:
    """The elements of `source`, written into this tensor."""
    if self.storage.tape.grad_enabled and (self.requires_grad or source.requires_grad):
        raise UsageError("copy_ into a tensor under autograd is not modelled: use cat or stack, or no_grad()")
    work = Work(read=source.bytes_read, written=self.bytes_read)
    self.storage.tape.launch("copy", work, self.dtype, parallel=self.numel())
    self.storage.version += 1
    return self


@method
def zero_(self: Tensor) -> Tensor:
    """Zeros, written into this tensor."""
    self.storage.tape.launch("zero", Work(written=self.bytes_read), self.dtype, parallel=self.numel())
    self.storage.version += 1
    return self
