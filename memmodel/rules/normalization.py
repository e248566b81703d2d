"""Layer norm, RMS norm, group and batch norm: one kernel, which saves one or two numbers per row.

Sources: aten/src/ATen/native/layer_norm.cpp, cuda/layer_norm_kernel.cu (statistics in acc_type: fp32 for half
precision), cpu/layer_norm_kernel.cpp (LayerNormBackwardKernelImplInternal).
"""

from memmodel.dims import Dim, hint, product
from memmodel.rules.libraries import left_out
from memmodel.rules.operator import RESULTS, Call, Result, Scratch, Steps, contiguous, kernel, rule
from memmodel.tensors.layout import Strided

_MANY_ROWS = 65536  # above this the backward sums rows in two passes
_FLOP = {"_fused_rms_norm": 4, "_fused_rms_norm_backward": 10, "native_group_norm": 6, "native_batch_norm": 6}


@rule("native_layer_norm")
def layer_norm(call: Call) -> Steps:
    """A strided operand is copied first; mean and reciprocal deviation are fp32 on CUDA."""
    x = yield from contiguous(call.args[0])
    if call.device.name == "cuda":
        yield Result(0)
        for i in (1, 2):
            rows = call.results[i]
            yield Result(i, rows.numel() * max(4, rows.dtype.itemsize))
    yield RESULTS
    yield kernel("layer_norm", call.tensors(), call.results, x.dtype, vector=6 * x.numel())


@rule("native_layer_norm_backward")
def layer_norm_backward(call: Call) -> Steps:
    """Gradients of input, weight and bias; each CPU thread sums those of weight and bias in its own buffer."""
    grad, x, normalized = call.args[:3]
    x = yield from contiguous(x)
    yield RESULTS
    yield from contiguous(grad)
    wanted = call.args[7]
    if call.device.name == "cpu" and (wanted[1] or wanted[2]):
        yield _sums_by_thread(x, product(normalized), call.device.threads)
    rows = hint(x.numel()) // max(1, hint(product(normalized)))
    if call.device.name == "cuda" and rows > _MANY_ROWS:
        yield left_out("partial sums over more than 65,536 rows, some MiB")
    yield kernel("layer_norm_backward", call.tensors(), call.written(), x.dtype, vector=12 * x.numel(), gradient=True)


def _sums_by_thread(x: Strided, columns: Dim, threads: int) -> Scratch:
    return Scratch(2 * threads * columns * x.dtype.itemsize, (2, threads, columns), x.dtype)


@rule(*_FLOP)
def normalized(call: Call) -> Steps:
    """One kernel reads the operands and writes the results."""
    yield RESULTS
    largest = call.args[1] if call.op.endswith("backward") else call.args[0]
    yield kernel(
        call.op.strip("_"), call.tensors(), call.written(), largest.dtype, vector=_FLOP[call.op] * largest.numel(),
        gradient=call.op.endswith("backward"),
    )  # fmt: skip
