"""The dK/dV half of the backward, which also yields dQ when it is asked to.

    P = exp(scale S - LSE)    dV = P^T dO    dP = dO V^T    dS = P * (dP - delta)
    dK = scale dS^T Q    dQ = scale dS K

A program holds one key block and streams the queries past it: four matrix products (S, dP, dV, dK), five with
dQ. Scores are computed transposed, because that is what dK and dV need: transposing an accumulator for the next
product has been miscompiled on Hopper (triton issue 6124).
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr; only constexpr is annotated.

import triton
import triton.language as tl

from memmodel_kernels.triton_flash.blocks import existing, load_block, row_pointers, store_block
from memmodel_kernels.triton_flash.delta import load_rows
from memmodel_kernels.triton_flash.schedule import place, reach, visible


@triton.jit
def add_dq(
    dq_sum,
    strides,
    i_b,
    i_h,
    start,
    n,
    b_dq,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TMA: tl.constexpr,
):
    """Add b_dq, transposed (BLOCK_D, ROWS), to rows start.. of the fp32 sum: by the copy engine or by atomics."""
    if TMA:
        dq_sum.atomic_add([i_b, i_h, start, 0], b_dq.T.reshape(1, 1, ROWS, BLOCK_D))
    else:
        p_dq = row_pointers(dq_sum, strides, i_b, i_h, start, ROWS, BLOCK_D)
        m_dq = existing(start, n, D, ROWS, BLOCK_D)
        tl.atomic_add(p_dq.T, b_dq, mask=m_dq.T, sem="relaxed")


@triton.jit
def write_dk_dv(
    i_program,
    q,
    k,
    v,
    do,
    dk,
    dv,
    dq_sum,
    lse,
    delta,
    stride_q,
    stride_k,
    stride_v,
    stride_do,
    stride_dk,
    stride_dv,
    stride_dq_sum,
    scale,
    scale_log2,
    batch_groups,
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
    FUSED: tl.constexpr,
):
    """One key block of one key/value head: b_k, b_v, b_dk, b_dv are (COLS, BLOCK_D).

    The query heads that share it are summed here, so grouped heads need no atomics. One flat loop over heads
    and query blocks keeps the pipeline full and the registers few; every block is masked, at one comparison per
    score. FUSED adds this block's share of dQ to dq_sum; without it, padded keys need no mask of their own: their
    rows, which may be infinite, are never stored.
    """
    i_bg, i_m = place(i_program, batch_groups, tl.cdiv(m, COLS), section)
    i_b = i_bg // (heads // group)
    i_g = i_bg % (heads // group)
    start_m = i_m * COLS
    o_j = start_m + tl.arange(0, COLS)
    b_k = load_block(k, stride_k, i_b, i_g, start_m, m, D, COLS, BLOCK_D, True, False)
    b_v = load_block(v, stride_v, i_b, i_g, start_m, m, D, COLS, BLOCK_D, True, False)
    b_dk = tl.zeros((COLS, BLOCK_D), tl.float32)
    b_dv = tl.zeros((COLS, BLOCK_D), tl.float32)

    # Key j is met by the queries j - last .. j - first: the same band, seen from the other side.
    begin, seen = reach(start_m, m, n, -last, -first, COLS, ROWS, RIGHT, LEFT)
    blocks = tl.cdiv(tl.maximum(seen - begin, 0), ROWS)
    for i in tl.range(0, group * blocks):
        i_h = i_g * group + i // blocks
        start_n = begin + i % blocks * ROWS
        o_i = start_n + tl.arange(0, ROWS)
        b_q = load_block(q, stride_q, i_b, i_h, start_n, n, D, ROWS, BLOCK_D, True, TMA)
        b_do = load_block(do, stride_do, i_b, i_h, start_n, n, D, ROWS, BLOCK_D, True, TMA)
        b_lse, b_delta = load_rows(lse, delta, i_b * heads + i_h, o_i, n)
        b_s = tl.dot(b_k, b_q.T, input_precision=PRECISION)
        b_s = b_s * scale_log2 - b_lse[None, :]
        if LEFT or RIGHT or FUSED:
            m_s = visible(o_i[None, :], o_j[:, None], m, first, last, LEFT, RIGHT)
            b_s = tl.where(m_s, b_s, float("-inf"))
        b_p = tl.math.exp2(b_s)
        b_dv = tl.dot(b_p.to(b_do.dtype), b_do, b_dv, input_precision=PRECISION)
        b_dp = tl.dot(b_v, b_do.T, input_precision=PRECISION)
        b_ds = b_p * (b_dp - b_delta[None, :])
        b_ds = b_ds.to(b_q.dtype)
        b_dk = tl.dot(b_ds, b_q, b_dk, input_precision=PRECISION)
        if FUSED:
            b_dq = tl.dot(b_k.T, b_ds, input_precision=PRECISION) * scale
            add_dq(dq_sum, stride_dq_sum, i_b, i_h, start_n, n, b_dq, D, ROWS, BLOCK_D, TMA)
    store_block(dk, stride_dk, i_b, i_g, start_m, m, b_dk * scale, D, COLS, BLOCK_D)
    store_block(dv, stride_dv, i_b, i_g, start_m, m, b_dv, D, COLS, BLOCK_D)
