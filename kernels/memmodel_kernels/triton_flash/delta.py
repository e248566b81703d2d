"""The backward's preprocess: delta = rowsum(dO * O) - dLSE, one number per query row.

It is what the softmax's normalisation takes back: dS = P * (dP - delta). A gradient that arrives at the LSE
enters here and nowhere else, because dLSE/dS = P.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr; only constexpr is annotated.

import triton
import triton.language as tl

from memmodel_kernels.triton_flash.blocks import load_block

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def delta_kernel(
    o,
    do,
    dlse,
    delta,
    stride_o,
    stride_do,
    stride_dlse,
    heads,
    n,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_DLSE: tl.constexpr,
):
    """Write delta (b, h, n) from o, do (b, h, n, d) and, with HAS_DLSE, dlse (b, h, n) of any strides."""
    blocks = tl.cdiv(n, ROWS)
    i_bh = tl.program_id(0) // blocks
    start = tl.program_id(0) % blocks * ROWS
    i_b = i_bh // heads
    i_h = i_bh % heads
    o_i = start + tl.arange(0, ROWS)
    b_o = load_block(o, stride_o, i_b, i_h, start, n, D, ROWS, BLOCK_D, True, False)
    b_do = load_block(do, stride_do, i_b, i_h, start, n, D, ROWS, BLOCK_D, True, False)
    b_delta = tl.sum(b_o.to(tl.float32) * b_do.to(tl.float32), 1)
    if HAS_DLSE:
        p_head = dlse + tl.cast(i_b, tl.int64) * stride_dlse[0] + tl.cast(i_h, tl.int64) * stride_dlse[1]
        b_delta -= tl.load(p_head + o_i.to(tl.int64) * stride_dlse[2], mask=o_i < n, other=0.0)
    tl.store(delta + tl.cast(i_bh, tl.int64) * n + o_i, b_delta, mask=o_i < n)


@triton.jit
def load_rows(lse, delta, i_bh, o_i, n):
    """Load (LSE to base 2, delta) of the query rows o_i; rows past n get +inf, so that P = exp2(S - LSE) is 0 there.

    Rows that see no key have LSE -inf: all their scores are masked, after this subtraction. The LSE is converted here,
    one multiplication per row of a block: a converted copy would be one more allocation.
    """
    p_row = tl.cast(i_bh, tl.int64) * n + o_i
    b_lse = tl.load(lse + p_row, mask=o_i < n, other=float("inf")) * LOG2E
    b_delta = tl.load(delta + p_row, mask=o_i < n, other=0.0)
    return b_lse, b_delta
