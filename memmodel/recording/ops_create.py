"""Tensors made from nothing or joined from others: factories, cat, tril, dropout masks."""

from collections.abc import Sequence
from typing import Any

from memmodel.dims import Dim
from memmodel.dtypes import DType, bool_, float32, int64
from memmodel.recording.autograd import Op
from memmodel.recording.elementwise import elementwise, kept_strides
from memmodel.recording.layout import axis
from memmodel.recording.ops_pointwise import Mul
from memmodel.recording.ops_view import expand, flatten, listed_sizes, unsqueeze
from memmodel.recording.tape import Tape, current
from memmodel.recording.tensor import Tensor, method, new
from memmodel.work import Work


def _made(name: str, sizes: Sequence[Any], dtype: DType, requires_grad: bool, fill: bool, tape: Tape | None) -> Tensor:
    where = tape or current()
    out = new(where, listed_sizes(sizes), dtype, name)
    if fill:
        where.launch(name, Work(written=out.bytes_read), dtype, parallel=out.numel())
    return out.requires_grad_() if requires_grad else out


def empty(*size: Any, dtype: DType = float32, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of the shape given, contents unset."""
    return _made("empty", size, dtype, requires_grad, False, None)


def zeros(*size: Any, dtype: DType = float32, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros."""
    return _made("zeros", size, dtype, requires_grad, True, None)


def ones(*size: Any, dtype: DType = float32, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones."""
    return _made("ones", size, dtype, requires_grad, True, None)


def randn(*size: Any, dtype: DType = float32, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of normal random numbers."""
    return _made("randn", size, dtype, requires_grad, True, None)


def full(size: Sequence[Dim], fill_value: Any, dtype: DType = float32, device: Any = None) -> Tensor:
    """A tensor of one value."""
    return _made("full", size, dtype, False, True, None)


def arange(end: Dim, dtype: DType = int64, device: Any = None) -> Tensor:
    """0, 1, ..., end - 1."""
    return _made("arange", (end,), dtype, False, True, None)


@method
def new_empty(self: Tensor, *size: Any, dtype: DType | None = None) -> Tensor:
    """An unset tensor, of this one's dtype unless another is given."""
    return _made("empty", size, dtype or self.dtype, False, False, self.storage.tape)


@method
def new_zeros(self: Tensor, *size: Any, dtype: DType | None = None) -> Tensor:
    """A tensor of zeros, of this one's dtype unless another is given."""
    return _made("zeros", size, dtype or self.dtype, False, True, self.storage.tape)


@method
def new_ones(self: Tensor, *size: Any, dtype: DType | None = None) -> Tensor:
    """A tensor of ones, of this one's dtype unless another is given."""
    return _made("ones", size, dtype or self.dtype, False, True, self.storage.tape)


@method
def ones_like(self: Tensor) -> Tensor:
    """Ones in this tensor's shape."""
    return new_ones(self, self.shape)


@method
def zeros_like(self: Tensor, dtype: DType | None = None) -> Tensor:
    """Zeros in this tensor's shape, of its dtype unless another is given."""
    return new_zeros(self, self.shape, dtype=dtype)


@method
def empty_like(self: Tensor) -> Tensor:
    """An unset tensor in this tensor's shape and memory order."""
    return new(self.storage.tape, self.shape, self.dtype, "empty", kept_strides(self))


class Triangle(Op):
    """The lower or upper triangle, zeros elsewhere."""

    def forward(self, x: Tensor, name: str) -> Tensor:
        """A copy, partly zeroed."""
        self.part = name
        return elementwise(name, x, vector=0)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The same triangle of the gradient."""
        return (elementwise(self.part, grad, vector=0),)


@method
def tril(self: Tensor, diagonal: Dim = 0) -> Any:
    """The lower triangle up to `diagonal`."""
    return Triangle.apply(self, name="tril")


@method
def triu(self: Tensor, diagonal: Dim = 0) -> Any:
    """The upper triangle from `diagonal`."""
    return Triangle.apply(self, name="triu")


@method
def repeat_interleave(self: Tensor, repeats: int, dim: int) -> Any:
    """Each index of `dim` repeated: a copy of an expanded view."""
    a = axis(dim, self.ndim)
    wide = expand(unsqueeze(self, a + 1), (*self.shape[: a + 1], repeats, *self.shape[a + 1 :]))
    return flatten(wide.clone_contiguous(), a, a + 1)


class NativeDropout(Op):
    """Dropout in one kernel, which keeps its bool mask."""

    def forward(self, x: Tensor, p: float) -> Tensor:
        """Result first, then the mask (fused_dropout in native/cuda/Dropout.cu)."""
        out = new(x.storage.tape, x.shape, x.dtype, "dropout")
        mask = new(x.storage.tape, x.shape, bool_, "dropout mask")
        work = Work(vector=2 * x.numel(), read=x.bytes_read, written=out.bytes_read + mask.bytes_read)
        x.storage.tape.launch("dropout", work, x.dtype, parallel=x.numel())
        self.save(result1=mask)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """grad * mask / (1 - p), one kernel."""
        return (elementwise("dropout_backward", grad, self.unpack("result1"), dtype=grad.dtype),)


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Any:
    """Elements zeroed with probability p and the rest scaled; nothing where p is 0 or not training."""
    if p == 0 or not training:
        return input
    if input.storage.tape.device.fused_dropout:
        return NativeDropout.apply(input, p=p)
    noise = new(input.storage.tape, input.shape, input.dtype, "dropout noise")
    elementwise("bernoulli", noise, out=noise)
    elementwise("div", noise, out=noise)
    return Mul.apply(input, noise)
