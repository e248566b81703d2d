"""FlashAttention-2 backward, from the LSE that the forward kept.

    P = exp(scale S - LSE)    dV = P^T dO    dP = dO V^T    dS = P * (dP - delta)
    dK = scale dS^T Q    dQ = scale dS K    delta = rowsum(dO * O) - dLSE

Two forms. `split_kernel` is deterministic: one program writes each gradient element, without atomics, in seven matrix
products for the five that count (S and dP are computed twice). One launch has two roles, as in PyTorch's
FlexAttention: programs that hold a key block and write dK and dV, and programs that hold a query block and write dQ.
`fused_kernel` computes five products: the key blocks also add up dQ in fp32, in no fixed order, so its last bits change
from run to run.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr; only constexpr is annotated.

import triton
import triton.language as tl

from memmodel_kernels.triton_flash.blocks import existing, load_bias, load_block, row_pointers, store_block
from memmodel_kernels.triton_flash.dropout import keeps, seeded
from memmodel_kernels.triton_flash.schedule import (
    partial_block,
    phases,
    place,
    query_block,
    quotient,
    reach,
    visible,
)
from memmodel_kernels.triton_flash.scores import LOG2E, biased, capped, exponents, slope
from memmodel_kernels.triton_flash.sequences import mirrored, own_band, rows_from


@triton.jit
def delta_kernel(o, do, dlse, delta, counts, n, TILE: tl.constexpr):
    """Write delta (b, h, n) from o, do (b, h, n, d) and dlse (b, h, n), which is None if nothing uses the LSE.

    delta is what the softmax's normalisation takes back: dS = P * (dP - delta). A gradient that arrives at the LSE
    enters here and nowhere else, because dLSE/dS = P.
    """
    blocks = tl.cdiv(n, TILE.rows)
    i_bh = tl.program_id(0) // blocks
    start = tl.program_id(0) % blocks * TILE.rows
    i_b = i_bh // counts.heads
    i_h = i_bh % counts.heads
    o_i = start + tl.arange(0, TILE.rows)
    b_o = load_block(o, i_b, i_h, start, n, TILE.rows, TILE)
    b_do = load_block(do, i_b, i_h, start, n, TILE.rows, TILE)
    # fp32 is summed in fp64: dP, of the same numbers in another order, is subtracted, and is all the rounding there is.
    WIDE: tl.constexpr = tl.float64 if b_o.dtype == tl.float32 else tl.float32
    b_delta = tl.sum(b_o.to(WIDE) * b_do.to(WIDE), 1).to(tl.float32)
    if dlse is not None:
        p_head = dlse.pointer + tl.cast(i_b, tl.int64) * dlse.strides[0] + tl.cast(i_h, tl.int64) * dlse.strides[1]
        b_delta -= tl.load(p_head + o_i.to(tl.int64) * dlse.strides[2], mask=o_i < n, other=0.0)
    tl.store(delta + tl.cast(i_bh, tl.int64) * n + o_i, b_delta, mask=o_i < n)


@triton.jit
def load_rows(lse, delta, i_bh, rows, o_i, n, scores, FP32: tl.constexpr):
    """(LSE, delta) of the rows o_i, of `rows` a head; past n the LSE is +inf, so that P = exp(unit T - LSE) is 0 there.

    Rows that see no key have LSE -inf: all their scores are masked, after this subtraction. With a bias, whose numbers
    may be -inf, theirs is +inf too. Unless FP32, the LSE is to base 2, converted here, one multiplication per row of a
    block: a converted copy would be one more allocation.
    """
    p_row = tl.cast(i_bh, tl.int64) * rows + o_i
    b_lse = tl.load(lse + p_row, mask=o_i < n, other=float("inf"))
    if scores.stretch is not None:
        b_lse = tl.where(b_lse == float("-inf"), float("inf"), b_lse)
    if not FP32:
        b_lse *= LOG2E
    b_delta = tl.load(delta + p_row, mask=o_i < n, other=0.0)
    return b_lse, b_delta


@triton.jit
def add_dq(dq_sum, i_b, i_h, start, n, b_dq, TILE: tl.constexpr):
    """Add b_dq, transposed (padded_d, rows), to rows start.. of the fp32 sum: by the copy engine or by atomics."""
    if TILE.tma:
        dq_sum.atomic_add([i_b, i_h, start, 0], b_dq.T.reshape(1, 1, TILE.rows, TILE.padded_d))
    else:
        p_dq = row_pointers(dq_sum, i_b, i_h, start, TILE.rows, TILE)
        tl.atomic_add(p_dq.T, b_dq, mask=existing(start, n, TILE.rows, TILE).T, sem="relaxed")


@triton.jit
def write_dk_dv(
    i_program, q, k, v, bias, do, dk, dv, dq_sum, lse, delta, counts, band, mirror, sequences, scale, scores, dropout,
    TILE: tl.constexpr,
):  # fmt: skip
    """One key block of one key/value head: b_k, b_v, b_dk, b_dv are (cols, padded_d). q and do stream past it.

    The query heads that share it are summed here, so grouped heads need no atomics. One flat loop over heads and query
    blocks keeps the pipeline full and the registers few. Blocks that all its keys see whole skip the mask by a branch,
    but where dQ is added up too by pointers: there the branch spills on sm_80.
    The head of a step is a quotient by multiplication: a division in the loop takes instructions and registers.
    Scores are computed transposed, because that is what dK and dV need: transposing an accumulator for the next
    product has been miscompiled on Hopper (triton issue 6124). `mirror` is the band seen from the keys.

    This block's share of dQ is added to dq_sum, unless that is None; then padded keys need no mask of their own: their
    rows, which may be infinite, are never stored.
    """
    groups = counts.heads // counts.group
    # batch * heads // group, not batch * groups: with the latter, exact fp32 at head dim 256 spills on sm_100.
    i_bg, i_m = place(
        i_program, counts.batch * counts.heads // counts.group, tl.cdiv(band.m, TILE.cols), counts.section
    )
    i_b = i_bg // groups
    i_g = i_bg % groups
    i_bh = i_b * counts.heads + i_g * counts.group  # the first head of the group
    start_m = i_m * TILE.cols
    if dropout is not None:
        dropout = seeded(dropout)
    if sequences is not None:
        first_m, first_n, mirror = own_band(mirror, sequences.keys, sequences.queries, i_b, start_m)
        band = mirrored(mirror)
        k, v, dk, dv = rows_from(k, first_m), rows_from(v, first_m), rows_from(dk, first_m), rows_from(dv, first_m)
        q, do = rows_from(q, first_n), rows_from(do, first_n)
        if dq_sum is not None:
            dq_sum = rows_from(dq_sum, first_n)
        lse += first_n
        delta += first_n
        i_b = 0
    o_j = start_m + tl.arange(0, TILE.cols)
    b_k = load_block(k, i_b, i_g, start_m, band.m, TILE.cols, TILE)
    b_v = load_block(v, i_b, i_g, start_m, band.m, TILE.cols, TILE)
    FP32: tl.constexpr = b_k.dtype == tl.float32
    b_dk = tl.zeros((TILE.cols, TILE.padded_d), tl.float32)
    b_dv = tl.zeros((TILE.cols, TILE.padded_d), tl.float32)

    begin, seen = reach(start_m, mirror, TILE.cols, TILE.rows)
    _, _, full, end, _ = phases(start_m, mirror, TILE.cols, TILE.rows)
    blocks = tl.cdiv(tl.maximum(seen - begin, 0), TILE.rows)
    inverse = 1.0 / tl.maximum(blocks, 1)
    m_edge = False
    if dq_sum is not None:
        # Padded keys are masked for dQ: their score is 0, exp2(0 - LSE) may be infinite, and infinity times 0 is NaN.
        m_edge = start_m + TILE.cols > band.m
    for i in tl.range(0, counts.group * blocks):
        i_r = quotient(i, inverse)  # the head in its group
        i_h = i_g * counts.group + i_r
        start_n = begin + (i - i_r * blocks) * TILE.rows
        o_i = start_n + tl.arange(0, TILE.rows)
        b_q = load_block(q, i_b, i_h, start_n, band.n, TILE.rows, TILE, True, TILE.tma)
        b_do = load_block(do, i_b, i_h, start_n, band.n, TILE.rows, TILE, True, TILE.tma)
        b_lse, b_delta = load_rows(lse, delta, i_b * counts.heads + i_h, counts.rows, o_i, band.n, scores, FP32)
        b_t = capped(tl.dot(b_k, b_q.T, input_precision=TILE.precision), scores, FP32)
        b_x = biased(b_t, load_bias(bias, i_b, i_h, start_n, start_m, band, TILE, True, True), scores)
        b_s = exponents(b_x, b_lse[None, :], scores, FP32)
        if dq_sum is not None and not TILE.tma:
            b_s = tl.where(visible(o_i[None, :], o_j[:, None], band), b_s, float("-inf"))
        elif dq_sum is not None or band.first is not None or band.last is not None:  # noqa: SIM102  (by the compiler)
            if (start_n < full) | (start_n >= end) | m_edge:
                b_s = tl.where(visible(o_i[None, :], o_j[:, None], band), b_s, float("-inf"))
        b_p = tl.math.exp2(b_s)
        b_w = slope(b_p, b_t, scores)
        if dropout is None:
            b_dv = tl.dot(b_p.to(b_do.dtype), b_do, b_dv, input_precision=TILE.precision)
        b_dp = tl.dot(b_v, b_do.T, input_precision=TILE.precision)
        if dropout is not None:
            m_kept = keeps(dropout, i_bh + i_r, o_i[None, :], o_j[:, None])
            b_dp = tl.where(m_kept, b_dp * dropout.factor, 0.0)
            b_kept = tl.where(m_kept, b_p, 0.0)
            b_dv = tl.dot(b_kept.to(b_do.dtype), b_do, b_dv, input_precision=TILE.precision)
        b_ds = (b_w * (b_dp - b_delta[None, :])).to(b_q.dtype)
        b_dk = tl.dot(b_ds, b_q, b_dk, input_precision=TILE.precision)
        if dq_sum is not None:
            b_dq = tl.dot(b_k.T, b_ds, input_precision=TILE.precision) * scale
            add_dq(dq_sum, i_b, i_h, start_n, band.n, b_dq, TILE)
    if dropout is not None:
        b_dv *= dropout.factor
    store_block(dk, i_b, i_g, start_m, band.m, b_dk * scale, TILE.cols, TILE)
    store_block(dv, i_b, i_g, start_m, band.m, b_dv, TILE.cols, TILE)


@triton.jit
def add_keys(
    b_dq, b_q, b_do, b_lse, b_delta, k, v, bias, i_b, i_h, i_g, i_bh, o_i, first, start, band, scores, dropout,
    MASKED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Add the keys start..start+cols to b_dq (rows, padded_d) of the queries first..."""
    b_k = load_block(k, i_b, i_g, start, band.m, TILE.cols, TILE, MASKED, TILE.tma)
    b_v = load_block(v, i_b, i_g, start, band.m, TILE.cols, TILE, MASKED, TILE.tma)
    FP32: tl.constexpr = b_q.dtype == tl.float32
    b_t = capped(tl.dot(b_q, b_k.T, input_precision=TILE.precision), scores, FP32)
    b_x = biased(b_t, load_bias(bias, i_b, i_h, first, start, band, TILE, MASKED), scores)
    b_s = exponents(b_x, b_lse[:, None], scores, FP32)
    if MASKED:
        # Padded keys too: their score is 0, exp2(0 - LSE) may be infinite, and infinity times a zero of K is NaN.
        o_j = start + tl.arange(0, TILE.cols)
        b_s = tl.where(visible(o_i[:, None], o_j[None, :], band), b_s, float("-inf"))
    b_w = slope(tl.math.exp2(b_s), b_t, scores)
    b_dp = tl.dot(b_do, b_v.T, input_precision=TILE.precision)
    if dropout is not None:
        m_kept = keeps(dropout, i_bh, o_i[:, None], (start + tl.arange(0, TILE.cols))[None, :])
        b_dp = tl.where(m_kept, b_dp * dropout.factor, 0.0)
    b_ds = b_w * (b_dp - b_delta[:, None])
    return tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=TILE.precision)


@triton.jit
def write_dq(
    i_program, q, k, v, bias, do, dq, lse, delta, counts, band, sequences, scale, scores, dropout, TILE: tl.constexpr
):
    """One query block of one query head: b_q, b_do, b_dq are (rows, padded_d). Two phases, as in the forward."""
    i_b, i_h, i_g, start = query_block(i_program, counts, band, TILE.rows)
    i_bh = i_b * counts.heads + i_h
    if dropout is not None:
        dropout = seeded(dropout)
    if sequences is not None:
        first_n, first_m, band = own_band(band, sequences.queries, sequences.keys, i_b, start)
        q, do, dq = rows_from(q, first_n), rows_from(do, first_n), rows_from(dq, first_n)
        k, v = rows_from(k, first_m), rows_from(v, first_m)
        lse += first_n
        delta += first_n
        i_b = 0
    o_i = start + tl.arange(0, TILE.rows)
    b_q = load_block(q, i_b, i_h, start, band.n, TILE.rows, TILE)
    b_do = load_block(do, i_b, i_h, start, band.n, TILE.rows, TILE)
    FP32: tl.constexpr = b_q.dtype == tl.float32
    b_lse, b_delta = load_rows(lse, delta, i_b * counts.heads + i_h, counts.rows, o_i, band.n, scores, FP32)
    b_dq = tl.zeros((TILE.rows, TILE.padded_d), tl.float32)

    begin, left, full, end, right = phases(start, band, TILE.rows, TILE.cols)
    for j in tl.range(full, end, TILE.cols):
        b_dq = add_keys(
            b_dq, b_q, b_do, b_lse, b_delta, k, v, bias, i_b, i_h, i_g, i_bh, o_i, start, j, band, scores, dropout,
            False, TILE,
        )  # fmt: skip
    for i in tl.range(0, left + right):
        j = partial_block(i, begin, left, end, TILE.cols)
        b_dq = add_keys(
            b_dq, b_q, b_do, b_lse, b_delta, k, v, bias, i_b, i_h, i_g, i_bh, o_i, start, j, band, scores, dropout,
            True, TILE,
        )  # fmt: skip
    store_block(dq, i_b, i_h, start, band.n, b_dq * scale, TILE.rows, TILE)


@triton.jit
def split_kernel(
    q, k, v, bias, do, q_stream, k_stream, v_stream, do_stream, dq, dk, dv, lse, delta, counts, band, mirror,
    sequences, scale, scores, dropout, DKDV: tl.constexpr, DQ: tl.constexpr,
):  # fmt: skip
    """The first batch * heads / group * ceil(m / DKDV.cols) programs write dK and dV, the others dQ.

    x_stream is x as a loop reads it: a TMA descriptor where the tiling says tma, the same as x where not.
    """
    dkdv_programs = counts.batch * (counts.heads // counts.group) * tl.cdiv(band.m, DKDV.cols)
    i_program = tl.program_id(0)
    if i_program < dkdv_programs:
        write_dk_dv(
            i_program, q_stream, k, v, bias, do_stream, dk, dv, None, lse, delta, counts, band, mirror, sequences,
            scale, scores, dropout, DKDV,
        )  # fmt: skip
    else:
        write_dq(
            i_program - dkdv_programs, q, k_stream, v_stream, bias, do, dq, lse, delta, counts, band, sequences, scale,
            scores, dropout, DQ,
        )  # fmt: skip


@triton.jit
def fused_kernel(
    q_stream, k, v, bias, do_stream, dk, dv, dq_sum, lse, delta, counts, band, mirror, sequences, scale, scores,
    dropout, TILE: tl.constexpr,
):  # fmt: skip
    """One key block of one key/value head per program. dq_sum (b, h, n, d) is fp32 and zero at the start.

    x_stream and dq_sum are TMA descriptors where TILE.tma.
    """
    write_dk_dv(
        tl.program_id(0), q_stream, k, v, bias, do_stream, dk, dv, dq_sum, lse, delta, counts, band, mirror, sequences,
        scale, scores, dropout, TILE,
    )  # fmt: skip
