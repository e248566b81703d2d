"""Fused attention as scaled_dot_product_attention runs it on CUDA: work of the pairs that count, and scratch.

Sources: aten/src/ATen/native/transformers/cuda/attention.cu and attention_backward.cu; of flash, flash_attn/
flash_api.cpp; of efficient, mem_eff_attention/kernel_forward.h and kernel_backward.h; of cuDNN, native/cudnn/MHA.cpp.
Read, not measured. Products: two forward; five backward, which computes the scores again (Dao, "FlashAttention-2",
algorithm 2).
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from memmodel.dims import Dim, ceil_div, minimum, product, same
from memmodel.dtypes import float32, uint8
from memmodel.program import Launch
from memmodel.rules.libraries import left_out
from memmodel.rules.operator import FREED, RESULTS, Call, Result, Scratch, Step, Steps, kernel, rule, scratch_like
from memmodel.tensors.layout import Strided, contiguous_strides

_FLASH, _EFFICIENT, _CUDNN = (f"_scaled_dot_product_{name}_attention" for name in ("flash", "efficient", "cudnn"))
_KERNELS = {_FLASH: "flash_attention", _EFFICIENT: "efficient_attention", _CUDNN: "cudnn_attention"}

_CUDNN_WORKSPACE = "the workspace of cuDNN's attention"


@rule(_FLASH)
def flash(call: Call) -> Steps:
    """The output and its log-sum-exp; in between, those of each split of the keys, in fp32."""
    yield RESULTS
    q, k = call.args[:2]
    parts = _splits(call, q, k)
    if parts > 1:
        rows = (parts, *q.shape[:3])
        yield Scratch(product(rows) * 4, rows, float32)
        yield Scratch(product(rows) * _flash_width(q) * 4, (*rows, _flash_width(q)), float32)
    yield _forward(call)


@rule(_EFFICIENT)
def efficient(call: Call) -> Steps:
    """The output and, for training, its log-sum-exp; head dims above 128 in half precision sum into an fp32 output."""
    yield RESULTS
    q, v = call.args[0], call.args[2]
    if q.dtype.itemsize == 2 and not (q.at_most(128, -1) and v.at_most(128, -1)):
        yield scratch_like(call.out, float32)  # kNeedsOutputAccumulatorBuffer
    yield _forward(call)


@rule(_CUDNN)
def cudnn(call: Call) -> Steps:
    """The output, states of the random generator and, for training, the log-sum-exp (run_cudnn_SDP_fprop)."""
    trains = call.args[4]
    yield from (Result(i) for i in range(len(call.results)) if trains or i != 1)
    yield left_out(_CUDNN_WORKSPACE)
    yield _forward(call)


def _forward(call: Call) -> Launch:
    q, k, v = call.args[:3]
    pairs = _pairs(call, q, k)
    matmul = 2 * pairs * (q.shape[-1] + v.shape[-1])
    written = call.results[:2] if call.op == _FLASH or call.args[4] else call.results[:1]
    name = _KERNELS[call.op]
    return kernel(name, call.tensors(), written, q.dtype, matmul=matmul, exp=pairs, kind="fused")


@rule(*(f"{name}_backward" for name in _KERNELS))
def attention_backward(call: Call) -> Steps:
    """dQ, dK and dV; the scratch of each backend."""
    forward = call.op.removesuffix("_backward")
    q, k, v = call.args[1:4]
    if forward == _EFFICIENT and not heads_inside(call.args[0]):
        yield scratch_like(call.args[0])
    yield RESULTS
    if forward == _FLASH:
        yield from _flash_scratch(call)
    elif forward == _EFFICIENT:
        yield from _efficient_scratch(call)
    else:
        yield left_out(_CUDNN_WORKSPACE)
    pairs = _pairs(call, q, k)
    matmul = 2 * pairs * (3 * q.shape[-1] + 2 * v.shape[-1])
    yield kernel(
        f"{_KERNELS[forward]}_backward", call.tensors(), call.results, q.dtype, matmul=matmul, exp=pairs, kind="fused",
        gradient=True,
    )  # fmt: skip


def _pairs(call: Call, q: Strided, k: Strided) -> Dim:
    """Score pairs that count, over batch and heads: all, or those up to the diagonal from the upper left corner."""
    b, h, n, _ = q.shape
    m = k.shape[-2]
    if not call.named.get("is_causal", False):
        return b * h * n * m
    seen = n if same(n, m) else minimum(n, m)
    below = seen * (seen + 1) // 2 if not hasattr(seen, "free_symbols") else seen * (seen + 1) / 2
    return b * h * (below + (0 if same(n, m) else (n - seen) * m))


def _splits(call: Call, q: Strided, k: Strided) -> int:
    """In how many parts the keys are read (num_splits_heuristic): as many as make the SMs busy, where rows do not.

    Closed forms leave it out: it depends on all sizes, and on the GPU.
    """
    if call.named.get("dropout_p") or not _plain(q, k):
        return 1
    b, h, n, d = q.shape
    groups, m = k.shape[1:3]
    if n == 1 and h > groups:  # the heads of a group are the rows of one tile (seqlenq_ngroups_swapped)
        h, n = groups, h // groups
    columns = 256 if d <= 64 else 128 if d <= 128 else 64
    return splits(b * h * ceil_div(n, 64), 2 * call.device.sms, ceil_div(m, columns))


def _plain(*tensors: Strided) -> bool:
    """Whether the sizes are numbers."""
    return all(isinstance(n, int) for x in tensors for n in x.shape)


def splits(tiles: int, slots: int, blocks: int) -> int:
    """The fewest parts that fill the last wave of `slots` thread blocks to 85 % of the best.

    Args:
        tiles: thread blocks of one part: batch, heads and blocks of rows.
        slots: thread blocks at once, two an SM.
        blocks: blocks of keys, of which each part takes as many as the others or one more.
    """
    if tiles >= 0.8 * slots:
        return 1
    parts = range(1, min(128, slots, blocks) + 1)
    waves = {s: tiles * s / slots for s in parts if s == 1 or ceil_div(blocks, s) != ceil_div(blocks, s - 1)}
    filled = {s: wave / math.ceil(wave) for s, wave in waves.items()}
    return next((s for s in filled if filled[s] >= 0.85 * max(filled.values())), 1)


def _flash_width(q: Strided) -> Dim:
    """The head dim that accumulators have: up to a multiple of 32, above 128 of 64."""
    return _up(q.shape[-1], 32 if q.at_most(128, -1) else 64)


def _flash_scratch(call: Call) -> Iterator[Scratch]:
    """Row dots (b, h, n up to 128s) and an fp32 sum of dQ (b, n up to 128s, h, d up to 32s or 64s).

    The copies bring dO and O into (b, n, h, d) order where they are not; with shared heads, dK and dV are made per
    query head first. Deterministic, each group of thread blocks that share an SM has a sum of dQ of its own.
    """
    dout, q, k, v, out = call.args[:5]
    b, h, n, d = q.shape
    rows, columns = _up(n, 128), _flash_width(q)
    yield from (scratch_like(x) for x in (dout, out) if not heads_inside(x))
    yield Scratch(b * h * rows * 4, (b, h, rows), float32)
    sums = ceil_div(call.device.sms, b * h) if call.device.deterministic else 1
    yield Scratch(sums * b * rows * h * columns * 4, (sums, b, rows, h, columns), float32)
    if not same(h, k.shape[1]):
        for x in (k, v):
            m = x.shape[2]
            yield Scratch(b * m * h * d * q.dtype.itemsize, (b, m, h, d), q.dtype)


class Tile(NamedTuple):
    """The block of queries and keys of efficient attention's backward, and whether dK and dV stay in registers."""

    rows: int
    keys: int
    in_registers: bool


def efficient_tile(capability: int, half: bool, head_dim: int, dropout: bool) -> Tile:
    """The first kernel of cutlassB.h that holds the head dim, and whose shared memory the GPU has.

    Args:
        capability: compute capability, 80 for 8.0.
        half: whether in 16 bits.
        head_dim: the larger one of keys and values.
        dropout: the kernel for 96 columns has none.
    """
    roomy = capability in (80, 87, 90, 100, 103)  # more than 99 KiB of shared memory a thread block
    if head_dim <= 64:
        return Tile(64, 64, half)
    if not half or capability < 70:
        return Tile(128 if roomy else 64, 64, False)
    if head_dim > 128:
        return Tile(128, 64, False)
    if roomy or capability < 80:
        return Tile(128, 128 if roomy else 64, True)
    return Tile(128, 64, True) if head_dim <= 96 and capability in (86, 89) and not dropout else Tile(64, 64, False)


def _efficient_scratch(call: Call) -> Iterator[Step]:
    """Row dots (b, h, n) in fp32; sums of dQ by tile, and of dK and dV where registers do not hold them."""
    dout, q, _, v = call.args[:4]
    b, h, n, d = q.shape
    half, capability = q.dtype.itemsize == 2, call.device.capability
    head_dim = next((x for x in (64, 96, 128) if q.at_most(x, -1) and v.at_most(x, -1)), 65536)
    tile = efficient_tile(capability, half, head_dim, bool(call.named.get("dropout_p")))
    if not half or (capability == 70 and not tile.in_registers):
        yield from _row_dots(dout)
    yield Scratch(b * h * n * 4, (b, h, n), float32)
    sums = 0
    if half and not tile.in_registers:
        sums += _key_splits(call, tile) * tile.keys * (_up(d, tile.rows) + _up(v.shape[-1], tile.rows))
    if half or capability >= 70:
        sums += ceil_div(n, tile.rows) * ceil_div(d, tile.keys) * (4 + tile.rows * tile.keys)
    size = b * h * _up(sums, 4) * 4
    yield Scratch(size, (size,), uint8)


def _row_dots(dout: Strided) -> Iterator[Step]:
    """The same by operators: dO and O as fp32 where they are not, their product, and its sum by row."""
    b, h, n, _ = dout.shape
    wide = 1 if dout.dtype is float32 else 3
    yield from (scratch_like(dout, float32) for _ in range(wide))
    yield Scratch(b * h * n * 4, (b, n, h), float32)
    yield from (FREED for _ in range(wide + 1))


def _key_splits(call: Call, tile: Tile) -> int:
    """In how many parts the keys are read (num_splits_key); closed forms leave all but one out."""
    q, k = call.args[1:3]
    if call.device.deterministic or call.device.capability < 70 or not _plain(q, k):
        return 1
    heads, m = int(q.shape[0] * q.shape[1]), k.shape[2]
    parts: int = 1 if heads >= 256 and m <= 2 * tile.keys else ceil_div(m, tile.keys)
    return max(1, min(parts, 200 // heads))


def heads_inside(x: Strided) -> bool:
    """Whether a (b, h, n, d) tensor lies in (b, n, h, d) order, row-major."""
    (b, h, n, d), strides, _ = x.numbers()
    rows = contiguous_strides((b, n, h, d))
    wanted = rows[0], rows[2], rows[1], rows[3]
    return all(size == 1 or a == w for size, a, w in zip((b, h, n, d), strides, wanted, strict=True))


def _up(size: Dim, multiple: int) -> Dim:
    return ceil_div(size, multiple) * multiple
