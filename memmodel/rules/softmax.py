"""Softmax: one kernel forward, two backward on CUDA.

Sources: aten/src/ATen/native/SoftMax.cpp, native/cuda/SoftMax.cu (host_softmax, softmax_backward_cuda_out).
"""

from typing import Any

from memmodel.base.dtypes import DType, float16, float32
from memmodel.rules.dispatch import aten
from memmodel.rules.operator import RESULTS, Call, Spec, Steps, contiguous, kernel, makes, rule, scratch_like
from memmodel.sizes.dims import Dim, product
from memmodel.tensors.autograd import Op
from memmodel.tensors.layout import Strided, axis
from memmodel.tensors.tensor import Tensor, method


@rule("_softmax", "_log_softmax", "softmax", "log_softmax")
def softmax_kernels(call: Call) -> Steps:
    """Read and write each element once, with four FLOP and one exponential."""
    x, dim = call.args[:2]
    yield RESULTS
    source = yield from contiguous(x)
    n = x.numel()
    # Four FLOP: the maximum, the subtraction, the sum, the division.
    yield kernel(
        "softmax", [source], [call.out], x.dtype, vector=4 * n, exp=n, kind="softmax", sizes=_rows(x, dim)
    )  # fmt: skip


@rule("_softmax_backward_data", "_log_softmax_backward_data")
def softmax_backward_kernels(call: Call) -> Steps:
    """(grad - sum(grad * result)) * result; on CUDA softmax, not log_softmax, first materialises grad * result."""
    grad, result, dim = call.args[:3]
    yield RESULTS
    n, vector = result.numel(), 4
    if call.op == "_softmax_backward_data" and call.device.softmax_backward_scratch:
        product_of_both = Strided(result.shape, grad.dtype)
        yield scratch_like(grad, name="mul")
        yield kernel("mul", [grad, result], [product_of_both], grad.dtype, vector=n, gradient=True)
        source, vector = product_of_both, 3
    else:
        source = yield from contiguous(grad)
        result = (yield from contiguous(result)) if call.op.startswith("_log") else result
    yield kernel(
        "softmax_backward", [source, result], [call.out], result.dtype, vector=vector * n, kind="softmax_backward",
        sizes=_rows(result, dim), gradient=True,
    )  # fmt: skip


def _rows(x: Strided, dim: int) -> tuple[Dim, Dim]:
    """The number of rows, and the elements of each."""
    if not x.shape:
        return 1, 1
    d = dim % len(x.shape)
    return product((*x.shape[:d], *x.shape[d + 1 :])), x.shape[d]


makes("softmax")(lambda x, dim: Spec(x.shape, x.dtype))
makes("_softmax", "_log_softmax")(lambda x, dim, half_to_float: Spec(x.shape, float32 if half_to_float else x.dtype))
makes("_softmax_backward_data", "_log_softmax_backward_data")(
    lambda grad, result, dim, dtype: Spec(result.shape, dtype)
)


class Softmax(Op):
    """exp(x - max) / sum over one dimension; saves its result."""

    operator = "_softmax"

    def forward(self, x: Tensor, dim: int, dtype: DType) -> Tensor:
        """One kernel."""
        self.dtype, self.dim = x.dtype, dim
        out = aten(self.operator, x, dim, dtype is not x.dtype)
        self.save(result=out)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """One kernel; on CUDA a product before it."""
        return (aten(f"{self.operator}_backward_data", grad, self.unpack("result"), self.dim, self.dtype),)


class LogSoftmax(Softmax):
    """x - max - log(sum of exponentials) over one dimension; saves its result."""

    operator = "_log_softmax"


class SafeSoftmax(Softmax):
    """Softmax whose rows without a finite score are 0: three more operators, which see the whole input."""

    def forward(self, x: Tensor, dim: int, dtype: DType) -> Tensor:
        """_safe_softmax in SoftMax.cpp."""
        self.dtype, self.dim = x.dtype, dim
        out = aten("softmax", x, dim)
        empty = aten("isneginf", x)
        rows = aten("all", empty, dim=dim, keepdim=True)
        aten("masked_fill_", out, rows, 0.0, into=out)
        self.save(result=out)
        return out


def safe_softmax(x: Tensor, dim: int) -> Any:
    """`softmax`, 0 in rows of -inf."""
    return SafeSoftmax.apply(x, dim=axis(dim, x.ndim), dtype=x.dtype)


@method
def softmax(self: Tensor, dim: int, dtype: DType | None = None) -> Any:
    """Softmax over `dim`, in `dtype` if given: from an upcast copy, except for fp16 on CUDA, which the kernel casts."""
    return _over(Softmax, self, dim, dtype)


@method
def log_softmax(self: Tensor, dim: int, dtype: DType | None = None) -> Any:
    """The logarithm of softmax over `dim`, in `dtype` as `softmax`."""
    return _over(LogSoftmax, self, dim, dtype)


def _over(op: type[Op], x: Tensor, dim: int, dtype: DType | None) -> Any:
    a = axis(dim, x.ndim)
    if dtype is None or dtype is x.dtype:
        return op.apply(x, dim=a, dtype=x.dtype)
    reads_half = x.storage.tape.device.softmax_reads_half and x.dtype is float16 and dtype is float32
    return op.apply(x if reads_half else x.to(dtype), dim=a, dtype=dtype)
