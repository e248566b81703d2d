"""The CUDA backends of scaled_dot_product_attention (flash, efficient, cuDNN): work of unmasked pairs, and scratch.

Sources: aten/src/ATen/native/transformers/cuda/attention.cu and attention_backward.cu; of flash, flash_attn/
flash_api.cpp; of efficient, mem_eff_attention/kernel_forward.h and kernel_backward.h; of cuDNN, native/cudnn/MHA.cpp.
Scratch is read from this source, not measured. Matrix products: two in forward, five in backward, which recomputes the
scores (Dao, "FlashAttention-2", arXiv 2307.08691, algorithm 2).
"""

from collections.abc import Iterator
from typing import NamedTuple

from memmodel.attention.masks import triangle
from memmodel.base.dtypes import float32, uint8
from memmodel.events.program import Launch
from memmodel.rules.flash_buffers import (
    LARGE_SHARED_MEMORY,
    Sizes,
    gradient_sums,
    grid,
    rounded,
    row_dots,
    split_outputs,
    summed_heads,
    width_of,
)
from memmodel.rules.libraries import left_out
from memmodel.rules.operator import FREED, RESULTS, Call, Result, Scratch, Step, Steps, kernel, rule, scratch_like
from memmodel.sizes.dims import Dim, ceil_div, each, minimum, same, symbolic
from memmodel.tensors.layout import Strided, contiguous_strides

FLASH_OP, EFFICIENT_OP, CUDNN_OP = (f"_scaled_dot_product_{name}_attention" for name in ("flash", "efficient", "cudnn"))
_KERNELS = {FLASH_OP: "flash_attention", EFFICIENT_OP: "efficient_attention", CUDNN_OP: "cudnn_attention"}

_CUDNN_WORKSPACE = "the workspace of cuDNN's attention"
_SHARED_GRADIENTS = "dK and dV per query head, before those that share a key head are summed"  # from torch 2.14 on


@rule(FLASH_OP)
def flash(call: Call) -> Steps:
    """Allocate the output and its log-sum-exp, then fp32 partial results if the keys are split."""
    yield RESULTS
    if not call.named.get("dropout_p"):  # set_params_splitkv never splits under dropout
        yield from split_outputs(_sizes(*call.args[:2]).decoding, call.device)
    yield _forward(call)


@rule(EFFICIENT_OP)
def efficient(call: Call) -> Steps:
    """Allocate the output and, if a gradient is needed, its log-sum-exp.

    Half precision with a head dim above 128 accumulates into an fp32 copy of the output.
    """
    yield RESULTS
    q, v = call.args[0], call.args[2]
    if q.dtype.itemsize == 2 and not (q.at_most(128, -1) and v.at_most(128, -1)):
        yield scratch_like(call.out, float32, "output in fp32")  # kNeedsOutputAccumulatorBuffer
    yield _forward(call)


@rule(CUDNN_OP)
def cudnn(call: Call) -> Steps:
    """Allocate the output, RNG state and, if a gradient is needed, the log-sum-exp (run_cudnn_SDP_fprop)."""
    trains = call.args[4]  # compute_log_sumexp, which SDPA sets where a gradient is needed
    yield from (Result(i) for i in range(len(call.results)) if trains or i != 1)
    yield left_out(_CUDNN_WORKSPACE)
    yield _forward(call)


def _forward(call: Call) -> Launch:
    q, k, v = call.args[:3]
    pairs = _pairs(call, q, k)
    matmul = 2 * pairs * (q.shape[-1] + v.shape[-1])
    # Flash writes its log-sum-exp also in inference; the others, where a gradient needs it.
    written = call.results[:2] if call.op == FLASH_OP or call.args[4] else call.results[:1]
    name = _KERNELS[call.op]
    sizes = grid(q.shape[0] * q.shape[1], q.shape[2], k.shape[2], q.shape[-1], pairs)
    return kernel(name, call.tensors(), written, q.dtype, matmul=matmul, exp=pairs, kind="fused", sizes=sizes)


@rule(*(f"{name}_backward" for name in _KERNELS))
def attention_backward(call: Call) -> Steps:
    """Allocate dQ, dK, dV and the gradient of the bias, then the scratch of the backend."""
    forward = call.op.removesuffix("_backward")
    q, k, v = call.args[1:4]
    # attention_backward.cu makes dO contiguous as (b, n, h, d), before it allocates anything else.
    if forward == EFFICIENT_OP and not heads_inside(call.args[0]):
        yield scratch_like(call.args[0], name="copy of dO")
    yield from (Result(i) for i in range(3))
    for bias in call.results[3:]:  # its rows are padded: attention_backward.cu
        yield Result(3, bias.shape[0] * bias.strides[0] * bias.dtype.itemsize)
    if forward == FLASH_OP:
        yield from _flash_scratch(call)
    elif forward == EFFICIENT_OP:
        if not same(q.shape[1], k.shape[1]):
            yield left_out(_SHARED_GRADIENTS)
        yield from _efficient_scratch(call)
    else:
        yield left_out(_CUDNN_WORKSPACE)
    pairs = _pairs(call, q, k)
    # Q K^T, dQ and dK run over the keys' head dim, dP and dV over the values'.
    matmul = 2 * pairs * (3 * q.shape[-1] + 2 * v.shape[-1])
    sizes = grid(q.shape[0] * q.shape[1], k.shape[2], q.shape[2], q.shape[-1], pairs)
    yield kernel(
        f"{_KERNELS[forward]}_backward", call.tensors(), call.results, q.dtype, matmul=matmul, exp=pairs, kind="fused",
        gradient=True, sizes=sizes,
    )  # fmt: skip
    if forward == FLASH_OP:
        yield from summed_heads(_sizes(q, k), q.dtype)


def _pairs(call: Call, q: Strided, k: Strided) -> Dim:
    """Unmasked score pairs over batch and heads; is_causal aligns the diagonal with the upper left corner."""
    b, h, n, _ = q.shape
    m = k.shape[-2]
    if not call.named.get("is_causal", False):
        return b * h * n * m
    if same(n, m):
        return b * h * triangle(n)
    square = minimum(n, m)  # the queries that do not see all keys
    return b * h * (triangle(square) + (n - square) * m)


def _sizes(q: Strided, k: Strided) -> Sizes:
    b, h, n, d = q.shape
    return Sizes(b, h, k.shape[1], n, k.shape[2], d, width_of(q))


def _flash_scratch(call: Call) -> Iterator[Step]:
    """Copies of dO and O that are not in (b, n, h, d) order, row dots, and fp32 accumulators of gradients."""
    dout, q, k, _, out = call.args[:5]
    yield from (
        scratch_like(x, name=f"copy of {name}") for x, name in ((dout, "dO"), (out, "O")) if not heads_inside(x)
    )
    yield Scratch(row_dots(*q.shape[:3]), float32, "row dots")
    yield from gradient_sums(_sizes(q, k), q.dtype, call.device, call.device.deterministic)


class Tile(NamedTuple):
    """The tile of efficient attention's backward: queries, keys, and whether dK and dV stay in registers."""

    rows: int
    keys: int
    in_registers: bool


def efficient_tile(capability: int, half: bool, head_dim: int, dropout: bool) -> Tile:
    """The first kernel in cutlassB.h that covers the head dim and fits into the GPU's shared memory.

    Args:
        capability: compute capability, 80 for 8.0.
        half: whether the dtype has 16 bits.
        head_dim: the larger head dim of keys and values.
        dropout: whether there is dropout, which the kernel for 96 columns lacks.
    """
    roomy = capability in LARGE_SHARED_MEMORY
    if head_dim <= 64:
        return Tile(64, 64, half)
    if not half or capability < 70:  # a 128 x 64 tile of fp32 takes 119 KiB
        return Tile(128 if roomy else 64, 64, False)
    if head_dim > 128:
        return Tile(128, 64, False)
    # 128 x 128 takes 131 KiB or more; cutlassB.h has none before 8.0, and one for 96 columns on 8.6 and 8.9 alone.
    if roomy or capability < 80:
        return Tile(128, 128 if roomy else 64, True)
    return Tile(128, 64, True) if head_dim <= 96 and capability in (86, 89) and not dropout else Tile(64, 64, False)


def _efficient_scratch(call: Call) -> Iterator[Step]:
    """Row dots (b, h, n) in fp32; accumulators of dQ by tile, and of dK and dV unless they stay in registers."""
    dout, q, _, v = call.args[:4]
    b, h, n, d = q.shape
    half, capability = q.dtype.itemsize == 2, call.device.capability
    # kMaxK of the kernels; the one for any head dim has 65536.
    head_dim = next((x for x in (64, 96, 128) if q.at_most(x, -1) and v.at_most(x, -1)), 65536)
    tile = efficient_tile(capability, half, head_dim, bool(call.named.get("dropout_p")))
    if not half or (capability == 70 and not tile.in_registers):  # not kKernelComputesDelta
        yield from _row_dots(dout)
    yield Scratch((b, h, n), float32, "row dots")
    sums = 0
    if half and not tile.in_registers:
        sums += _key_splits(call, tile) * tile.keys * (rounded(d, tile.rows) + rounded(v.shape[-1], tile.rows))
    if half or capability >= 70:  # a tile of dQ, and 16 bytes before it (GradQTempStorage: lock, counter, padding)
        sums += ceil_div(n, tile.rows) * ceil_div(d, tile.keys) * (4 + tile.rows * tile.keys)
    yield Scratch((b * h * rounded(sums, 4) * 4,), uint8, "workspace")


def _row_dots(dout: Strided) -> Iterator[Step]:
    """Row dots computed by ATen operators: fp32 copies of dO and O, their product, and its sum over a row."""
    b, h, n, _ = dout.shape
    wide = 1 if dout.dtype is float32 else 3
    yield from (scratch_like(dout, float32, "dO * O") for _ in range(wide))
    yield Scratch((b, n, h), float32, "row dots")
    yield from (FREED for _ in range(wide + 1))


def _key_splits(call: Call, tile: Tile) -> Dim:
    """Into how many parts the keys are split (num_splits_key); closed forms assume one."""
    q, k = call.args[1:3]
    if call.device.deterministic or call.device.capability < 70 or symbolic(*q.shape, *k.shape):
        return 1
    return each(lambda heads, m: key_splits(heads, m, tile.keys), q.shape[0] * q.shape[1], k.shape[2])


def key_splits(heads: int, m: int, keys: int) -> int:
    """The splits for `heads` heads over all batches, m keys and blocks of `keys` keys."""
    parts: int = 1 if heads >= 256 and m <= 2 * keys else ceil_div(m, keys)
    return max(1, min(parts, 200 // heads))


def heads_inside(x: Strided) -> bool:
    """Whether a (b, h, n, d) tensor lies in (b, n, h, d) order, row-major."""
    (b, h, n, d), strides, _ = x.numbers()
    rows = contiguous_strides((b, n, h, d))
    wanted = rows[0], rows[2], rows[1], rows[3]
    return all(size == 1 or a == w for size, a, w in zip((b, h, n, d), strides, wanted, strict=True))
