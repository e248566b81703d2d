"""FlashAttention-2 forward: one program holds one query block and streams K and V past it.

    S = Q K^T        P = exp(scale S - max)        O = P V / sum(P)        LSE = max + log(sum(P))

Scores and probabilities live in registers only. Two phases: blocks that every row sees whole, then blocks that
need a mask (the diagonal, the window's edge, the last keys). Source: Dao, "FlashAttention-2" (arXiv 2307.08691),
algorithm 1.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr; only constexpr is annotated.

import triton
import triton.language as tl

from memmodel_kernels.triton_flash.blocks import load_block, store_block
from memmodel_kernels.triton_flash.schedule import partial_block, phases, place, visible

LN2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def attend(
    b_o,
    b_max,
    b_sum,
    b_q,
    k,
    v,
    stride_k,
    stride_v,
    i_b,
    i_g,
    o_i,
    start,
    m,
    first,
    last,
    scale_log2,
    D: tl.constexpr,
    COLS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MASKED: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    TMA: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One step of the online softmax: fold the keys start..start+COLS into (b_o, b_max, b_sum).

    b_q, b_o: (ROWS, BLOCK_D); b_max, b_sum: (ROWS,). b_max is in unscaled scores: scaling and subtracting it
    are then one FFMA per score.
    """
    b_k = load_block(k, stride_k, i_b, i_g, start, m, D, COLS, BLOCK_D, MASKED, TMA)
    b_s = tl.dot(b_q, b_k.T, input_precision=PRECISION)
    if MASKED:
        o_j = start + tl.arange(0, COLS)
        m_s = visible(o_i[:, None], o_j[None, :], m, first, last, LEFT, RIGHT)
        b_s = tl.where(m_s, b_s, float("-inf"))
    b_new = tl.maximum(b_max, tl.max(b_s, 1))
    b_ref = b_new
    if MASKED:
        # A row that has seen no key yet has maximum -inf: measured from 0, its exp2(-inf) is 0 and never NaN.
        b_ref = tl.where(b_new == float("-inf"), 0.0, b_new)
    b_p = tl.math.exp2(b_s * scale_log2 - (b_ref * scale_log2)[:, None])
    b_decay = tl.math.exp2((b_max - b_ref) * scale_log2)
    b_v = load_block(v, stride_v, i_b, i_g, start, m, D, COLS, BLOCK_D, MASKED, TMA)
    b_o = tl.dot(b_p.to(b_v.dtype), b_v, b_o * b_decay[:, None], input_precision=PRECISION)
    b_sum = b_sum * b_decay + tl.sum(b_p, 1)
    return b_o, b_new, b_sum


@triton.jit
def forward_kernel(
    q,
    k,
    v,
    o,
    lse,
    stride_q,
    stride_k,
    stride_v,
    stride_o,
    scale_log2,
    batch_heads,
    heads,
    group,
    n,
    m,
    first,
    last,
    section,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    FLIP: tl.constexpr,
    TMA: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write o (b, h, n, d) and lse (b, h, n), natural log, from q (b, h, n, d) and k, v (b, h / group, m, d).

    What is loaded once (q) goes by pointer, what streams (k, v) by TMA descriptor where TMA.
    scale_log2 = |scale| log2(e); FLIP says that the scale is negative, since a running maximum needs a
    positive one.
    """
    blocks = tl.cdiv(n, ROWS)
    i_bh, i_n = place(tl.program_id(0), batch_heads, blocks, section)
    if RIGHT:
        i_n = blocks - 1 - i_n  # the last rows see the most keys
    i_b = i_bh // heads
    i_h = i_bh % heads
    i_g = i_h // group
    start = i_n * ROWS

    b_q = load_block(q, stride_q, i_b, i_h, start, n, D, ROWS, BLOCK_D, True, False)
    if FLIP:
        b_q = -b_q
    o_i = start + tl.arange(0, ROWS)
    b_o = tl.zeros((ROWS, BLOCK_D), tl.float32)
    b_max = tl.full((ROWS,), float("-inf"), tl.float32)
    b_sum = tl.zeros((ROWS,), tl.float32)

    begin, left, full, end, right = phases(start, n, m, first, last, ROWS, COLS, LEFT, RIGHT)
    for j in tl.range(full, end, COLS):
        b_o, b_max, b_sum = attend(
            b_o, b_max, b_sum, b_q, k, v, stride_k, stride_v, i_b, i_g, o_i, j, m, first, last, scale_log2,
            D, COLS, BLOCK_D, False, LEFT, RIGHT, TMA, PRECISION,
        )  # fmt: skip
    for i in tl.range(0, left + right):
        j = partial_block(i, begin, left, end, COLS)
        b_o, b_max, b_sum = attend(
            b_o, b_max, b_sum, b_q, k, v, stride_k, stride_v, i_b, i_g, o_i, j, m, first, last, scale_log2,
            D, COLS, BLOCK_D, True, LEFT, RIGHT, TMA, PRECISION,
        )  # fmt: skip

    # A row without any key has sum 0: divided by 1 instead, its output is 0, and its LSE is -inf.
    m_dead = b_sum == 0.0
    b_div = tl.where(m_dead, 1.0, b_sum)
    b_lse = tl.where(m_dead, float("-inf"), (b_max * scale_log2 + tl.math.log2(b_div)) * LN2)
    tl.store(lse + tl.cast(i_bh, tl.int64) * n + o_i, b_lse, mask=o_i < n)
    store_block(o, stride_o, i_b, i_h, start, n, b_o / b_div[:, None], D, ROWS, BLOCK_D)
