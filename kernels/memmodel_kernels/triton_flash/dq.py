"""The dQ half of the deterministic backward.

    P = exp(scale S - LSE)    dP = dO V^T    dS = P * (dP - delta)    dQ = scale dS K

A program holds one query block and streams the keys past it: three matrix products (S, dP, dQ).
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr; only constexpr is annotated.

import triton
import triton.language as tl

from memmodel_kernels.triton_flash.blocks import load_block, store_block
from memmodel_kernels.triton_flash.delta import load_rows
from memmodel_kernels.triton_flash.schedule import partial_block, phases, place, visible


@triton.jit
def add_keys(
    b_dq,
    b_q,
    b_do,
    b_lse,
    b_delta,
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
    """Add the keys start..start+COLS to b_dq (ROWS, BLOCK_D)."""
    b_k = load_block(k, stride_k, i_b, i_g, start, m, D, COLS, BLOCK_D, MASKED, TMA)
    b_v = load_block(v, stride_v, i_b, i_g, start, m, D, COLS, BLOCK_D, MASKED, TMA)
    b_s = tl.dot(b_q, b_k.T, input_precision=PRECISION)
    b_s = b_s * scale_log2 - b_lse[:, None]
    if MASKED:
        # Padded keys too: their score is 0, exp2(0 - LSE) may be infinite, and infinity times a zero of K is NaN.
        o_j = start + tl.arange(0, COLS)
        b_s = tl.where(visible(o_i[:, None], o_j[None, :], m, first, last, LEFT, RIGHT), b_s, float("-inf"))
    b_p = tl.math.exp2(b_s)
    b_dp = tl.dot(b_do, b_v.T, input_precision=PRECISION)
    b_ds = b_p * (b_dp - b_delta[:, None])
    return tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)


@triton.jit
def write_dq(
    i_program,
    q,
    k,
    v,
    do,
    dq,
    lse,
    delta,
    stride_q,
    stride_k,
    stride_v,
    stride_do,
    stride_dq,
    scale,
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
    TMA: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One query block of one query head: b_q, b_do, b_dq are (ROWS, BLOCK_D). Two phases, as in the forward."""
    blocks = tl.cdiv(n, ROWS)
    i_bh, i_n = place(i_program, batch_heads, blocks, section)
    if RIGHT:
        i_n = blocks - 1 - i_n  # the last rows see the most keys
    i_b = i_bh // heads
    i_h = i_bh % heads
    i_g = i_h // group
    start = i_n * ROWS
    o_i = start + tl.arange(0, ROWS)
    b_q = load_block(q, stride_q, i_b, i_h, start, n, D, ROWS, BLOCK_D, True, False)
    b_do = load_block(do, stride_do, i_b, i_h, start, n, D, ROWS, BLOCK_D, True, False)
    b_lse, b_delta = load_rows(lse, delta, i_bh, o_i, n)
    b_dq = tl.zeros((ROWS, BLOCK_D), tl.float32)

    begin, left, full, end, right = phases(start, n, m, first, last, ROWS, COLS, LEFT, RIGHT)
    for j in tl.range(full, end, COLS):
        b_dq = add_keys(
            b_dq, b_q, b_do, b_lse, b_delta, k, v, stride_k, stride_v, i_b, i_g, o_i, j,
            m, first, last, scale_log2, D, COLS, BLOCK_D, False, LEFT, RIGHT, TMA, PRECISION,
        )  # fmt: skip
    for i in tl.range(0, left + right):
        j = partial_block(i, begin, left, end, COLS)
        b_dq = add_keys(
            b_dq, b_q, b_do, b_lse, b_delta, k, v, stride_k, stride_v, i_b, i_g, o_i, j,
            m, first, last, scale_log2, D, COLS, BLOCK_D, True, LEFT, RIGHT, TMA, PRECISION,
        )  # fmt: skip
    store_block(dq, stride_dq, i_b, i_h, start, n, b_dq * scale, D, ROWS, BLOCK_D)
