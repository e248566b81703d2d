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

from memmodel_kernels.triton_flash.blocks import load_bias, load_block, store_block
from memmodel_kernels.triton_flash.dropout import keeps, seeded
from memmodel_kernels.triton_flash.schedule import partial_block, phases, query_block, visible
from memmodel_kernels.triton_flash.scores import LN2, biased, capped, weights_so_far
from memmodel_kernels.triton_flash.sequences import own_band, rows_from


@triton.jit
def attend(
    b_o, b_max, b_sum, b_q, k, v, bias, i_b, i_h, i_g, i_bh, o_i, first, start, band, scores, dropout,
    MASKED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One step of the online softmax: fold the keys start..start+cols into (b_o, b_max, b_sum) of the queries first...

    b_q, b_o: (rows, padded_d); b_max, b_sum: (rows,). b_max is in units of T, or of X (`scores.py`).
    """
    b_k = load_block(k, i_b, i_g, start, band.m, TILE.cols, TILE, MASKED, TILE.tma)
    FP32: tl.constexpr = b_q.dtype == tl.float32
    b_s = capped(tl.dot(b_q, b_k.T, input_precision=TILE.precision), scores, FP32)
    b_s = biased(b_s, load_bias(bias, i_b, i_h, first, start, band, TILE, MASKED), scores)
    if MASKED:
        o_j = start + tl.arange(0, TILE.cols)
        b_s = tl.where(visible(o_i[:, None], o_j[None, :], band), b_s, float("-inf"))
    b_new = tl.maximum(b_max, tl.max(b_s, 1))
    b_ref = b_new
    if MASKED or bias is not None:
        # A row that has seen no key yet, or -inf of the bias alone, has maximum -inf: measured from 0, its exp2(-inf)
        # is 0 and never NaN.
        b_ref = tl.where(b_new == float("-inf"), 0.0, b_new)
    b_p = weights_so_far(b_s, b_ref, scores, FP32)
    b_decay = tl.math.exp2((b_max - b_ref) * scores.unit_log2)
    b_v = load_block(v, i_b, i_g, start, band.m, TILE.cols, TILE, MASKED, TILE.tma)
    b_w = b_p
    if dropout is not None:
        m_kept = keeps(dropout, i_bh, o_i[:, None], (start + tl.arange(0, TILE.cols))[None, :])
        b_w = tl.where(m_kept, b_p, 0.0)
    b_o = tl.dot(b_w.to(b_v.dtype), b_v, b_o * b_decay[:, None], input_precision=TILE.precision)
    b_sum = b_sum * b_decay + tl.sum(b_p, 1)
    return b_o, b_new, b_sum


@triton.jit
def forward_kernel(
    q, k, v, bias, o, lse, counts, band, sequences, scores, dropout, FLIP: tl.constexpr, TILE: tl.constexpr
):
    """Write o (b, h, n, d) and lse (b, h, n), natural log, from q (b, h, n, d) and k, v (b, h / group, m, d).

    What is loaded once (q) goes by pointer, what streams (k, v) by TMA descriptor where TILE.tma.
    Packed `sequences` are those of q (1, h, rows, d) and lse (1, h, rows), k and v; else None.
    FLIP says that the scale is negative, since a running maximum needs a positive one; scores.unit is then its size.
    """
    i_b, i_h, i_g, start = query_block(tl.program_id(0), counts, band, TILE.rows)
    i_bh = i_b * counts.heads + i_h
    if dropout is not None:
        dropout = seeded(dropout)
    if sequences is not None:
        first_n, first_m, band = own_band(band, sequences.queries, sequences.keys, i_b, start)
        q, o, k, v = rows_from(q, first_n), rows_from(o, first_n), rows_from(k, first_m), rows_from(v, first_m)
        lse += first_n
        i_b = 0
    b_q = load_block(q, i_b, i_h, start, band.n, TILE.rows, TILE)
    if FLIP:
        b_q = -b_q
    o_i = start + tl.arange(0, TILE.rows)
    b_o = tl.zeros((TILE.rows, TILE.padded_d), tl.float32)
    b_max = tl.full((TILE.rows,), float("-inf"), tl.float32)
    b_sum = tl.zeros((TILE.rows,), tl.float32)

    begin, left, full, end, right = phases(start, band, TILE.rows, TILE.cols)
    for j in tl.range(full, end, TILE.cols):
        b_o, b_max, b_sum = attend(
            b_o, b_max, b_sum, b_q, k, v, bias, i_b, i_h, i_g, i_bh, o_i, start, j, band, scores, dropout, False, TILE
        )
    for i in tl.range(0, left + right):
        j = partial_block(i, begin, left, end, TILE.cols)
        b_o, b_max, b_sum = attend(
            b_o, b_max, b_sum, b_q, k, v, bias, i_b, i_h, i_g, i_bh, o_i, start, j, band, scores, dropout, True, TILE
        )

    # A row without any key has sum 0: divided by 1 instead, its output is 0, and its LSE is -inf.
    m_dead = b_sum == 0.0
    b_div = tl.where(m_dead, 1.0, b_sum)
    b_lse = tl.where(m_dead, float("-inf"), b_max * scores.unit + tl.math.log2(b_div) * LN2)
    if dropout is not None:
        b_div /= dropout.factor
    p_lse = lse + tl.cast(i_b * counts.heads + i_h, tl.int64) * counts.rows + o_i
    tl.store(p_lse, b_lse, mask=o_i < band.n)
    store_block(o, i_b, i_h, start, band.n, b_o / b_div[:, None], TILE.rows, TILE)
