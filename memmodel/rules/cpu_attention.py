"""Fused attention on the CPU: its buffers, one for each thread.

Source: aten/src/ATen/native/cpu/FlashAttentionKernel.cpp (cpu_flash_attention and its backward). Blocks of 512 keys,
and of 32 queries, 64 from 192 queries on, 256 from 768 on.
"""

from memmodel.base.dtypes import float32
from memmodel.events.program import Launch
from memmodel.rules.attention import heads_inside
from memmodel.rules.operator import RESULTS, Call, Scratch, Steps, kernel, rule, scratch_like
from memmodel.sizes.dims import Dim, minimum
from memmodel.tensors.layout import Strided

_FORWARD = "_scaled_dot_product_flash_attention_for_cpu"
_KEYS = 512  # kvSplitSize


@rule(_FORWARD)
def flash_forward(call: Call) -> Steps:
    """The output and its log-sum-exp; each thread has scores, row maxima and sums, and rows of the result."""
    q, k = call.args[:2]
    rows, keys = _block(q, k)
    yield RESULTS
    yield _buffer(call, rows * keys + 2 * rows + rows * q.shape[-1])
    if q.dtype.itemsize == 2:  # probabilities in half precision, the left operand of the second product
        yield Scratch((call.device.threads, rows, keys), q.dtype)
    yield _launch(call, q, k, products=2)


@rule(f"{_FORWARD}_backward")
def flash_backward(call: Call) -> Steps:
    """dQ, dK and dV; each thread has scores and their gradients, and row dots."""
    q, k = call.args[1:3]
    rows, keys = _block(q, k)
    yield RESULTS
    if not heads_inside(call.args[0]):
        yield scratch_like(call.args[0], name="copy")
    yield _buffer(call, 2 * rows * keys)
    if q.dtype.itemsize == 2:
        yield Scratch((call.device.threads, 2, rows, keys), q.dtype)
    # Made inside of the parallel loop, so that a profile on the calling thread has them once.
    yield Scratch((rows,), float32)
    yield _launch(call, q, k, products=5)


def _block(q: Strided, k: Strided) -> tuple[Dim, Dim]:
    """Queries and keys of a block (qSplitSize, kvSplitSize)."""
    rows = 32 if q.at_most(191, -2) else 64 if q.at_most(767, -2) else 256
    return minimum(rows, q.shape[-2]), minimum(_KEYS, k.shape[-2])


def _buffer(call: Call, elements: Dim) -> Scratch:
    return Scratch((call.device.threads, elements), float32)


def _launch(call: Call, q: Strided, k: Strided, products: int) -> Launch:
    b, h, n, d = q.shape
    pairs = b * h * n * k.shape[-2]
    return kernel(
        call.op, call.tensors(), call.results, q.dtype, matmul=2 * products * pairs * d, exp=pairs, kind="fused"
    )
