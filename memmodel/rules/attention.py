"""Fused attention as scaled_dot_product_attention runs it on CUDA: work of the pairs that count, and scratch.

Sources: aten/src/ATen/native/transformers/cuda/attention.cu, attention_backward.cu, flash_attn/flash_api.cpp. Read, not
measured. Products: two forward; five backward, which computes the scores again (Dao, "FlashAttention-2", algorithm 2).
"""

from collections.abc import Iterator

from memmodel.dims import Dim, ceil_div, minimum, same
from memmodel.dtypes import float32
from memmodel.rules.operator import RESULTS, Call, Scratch, Steps, kernel, rule, scratch_like
from memmodel.tensors.layout import Strided, contiguous_strides

_FLASH, _EFFICIENT, _CUDNN = (f"_scaled_dot_product_{name}_attention" for name in ("flash", "efficient", "cudnn"))
_KERNELS = {_FLASH: "flash_attention", _EFFICIENT: "efficient_attention", _CUDNN: "cudnn_attention"}


@rule(_FLASH, _EFFICIENT, _CUDNN)
def attention(call: Call) -> Steps:
    """The output and its log-sum-exp."""
    q, k, v = call.args[:3]
    yield RESULTS
    pairs = _pairs(call, q, k, place={_FLASH: 4}.get(call.op, 6))
    matmul = 2 * pairs * (q.shape[-1] + v.shape[-1])
    yield kernel(
        _KERNELS[call.op],
        call.tensors(),
        call.results[:2],
        q.dtype,
        matmul=matmul,
        exp=pairs,
        kind="fused",
    )


@rule(*(f"{name}_backward" for name in _KERNELS))
def attention_backward(call: Call) -> Steps:
    """dQ, dK and dV; the scratch of each backend."""
    forward = call.op.removesuffix("_backward")
    q, k, v = call.args[1:4]
    yield RESULTS
    if forward == _FLASH:
        yield from _flash_scratch(call)
    elif forward == _EFFICIENT:
        yield from _efficient_scratch(call)
    pairs = _pairs(call, q, k, place={_FLASH: 11, _EFFICIENT: 11}.get(forward, 9))
    matmul = 2 * pairs * (3 * q.shape[-1] + 2 * v.shape[-1])
    yield kernel(
        f"{_KERNELS[forward]}_backward", call.tensors(), call.results, q.dtype, matmul=matmul, exp=pairs, kind="fused",
        gradient=True,
    )  # fmt: skip


def _pairs(call: Call, q: Strided, k: Strided, place: int) -> Dim:
    """Score pairs that count, over batch and heads: all, or those up to the diagonal from the upper left corner."""
    b, h, n, _ = q.shape
    m = k.shape[-2]
    causal = call.named.get("is_causal", call.args[place] if len(call.args) > place else False)
    if not causal:
        return b * h * n * m
    seen = n if same(n, m) else minimum(n, m)
    below = seen * (seen + 1) // 2 if not hasattr(seen, "free_symbols") else seen * (seen + 1) / 2
    return b * h * (below + (0 if same(n, m) else (n - seen) * m))


def _flash_scratch(call: Call) -> Iterator[Scratch]:
    """Row dots (b, h, n up to 128s) and an fp32 sum of dQ (b, n up to 128s, h, d up to 32s); copies of dO and O.

    The copies bring both into (b, n, h, d) order where they are not; with shared heads, dK and dV are made per query
    head first.
    """
    dout, q, k, v, out = call.args[:5]
    b, h, n, d = q.shape
    rows, columns = _up(n, 128), _up(d, 32)
    yield from (scratch_like(x) for x in (dout, out) if not _heads_inside(x))
    yield Scratch(b * h * rows * 4, (b, h, rows), float32)
    yield Scratch(b * rows * h * columns * 4, (b, rows, h, columns), float32)
    if not same(h, k.shape[1]):
        for x in (k, v):
            m = x.shape[2]
            yield Scratch(b * m * h * d * q.dtype.itemsize, (b, m, h, d), q.dtype)


def _efficient_scratch(call: Call) -> Iterator[Scratch]:
    """Row dots (b, h, n) in fp32, and a copy of dO where it is not in (b, n, h, d) order."""
    dout, q = call.args[:2]
    if not _heads_inside(dout):
        yield scratch_like(dout)
    b, h, n, _ = q.shape
    yield Scratch(b * h * n * 4, (b, h, n), float32)


def _heads_inside(x: Strided) -> bool:
    """Whether a (b, h, n, d) tensor lies in (b, n, h, d) order, row-major."""
    (b, h, n, d), strides, _ = x.numbers()
    rows = contiguous_strides((b, n, h, d))
    wanted = rows[0], rows[2], rows[1], rows[3]
    return all(size == 1 or a == w for size, a, w in zip((b, h, n, d), strides, wanted, strict=True))


def _up(size: Dim, multiple: int) -> Dim:
    return ceil_div(size, multiple) * multiple
