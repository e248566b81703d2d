"""FlashAttention-2 backward, deterministic: one program writes each gradient element, without atomics.

One launch, two roles, as in PyTorch's FlexAttention: seven matrix products for the five that count (S and dP
are computed twice), in exchange for gradients that repeat bit for bit.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr; only constexpr is annotated.

import triton
import triton.language as tl

from memmodel_kernels.triton_flash.dkdv import write_dk_dv
from memmodel_kernels.triton_flash.dq import write_dq


@triton.jit
def split_kernel(
    q,
    k,
    v,
    do,
    q_stream,
    k_stream,
    v_stream,
    do_stream,
    dq,
    dk,
    dv,
    lse,
    delta,
    stride_q,
    stride_k,
    stride_v,
    stride_do,
    stride_dq,
    stride_dk,
    stride_dv,
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
    DKDV_ROWS: tl.constexpr,
    DKDV_COLS: tl.constexpr,
    DQ_ROWS: tl.constexpr,
    DQ_COLS: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    TMA: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The first batch_heads / group * ceil(m / DKDV_COLS) programs write dK and dV, the others dQ.

    x_stream is x as a loop reads it: a TMA descriptor where TMA, the same pointer where not.
    """
    batch_groups = batch_heads // group
    dkdv_programs = batch_groups * tl.cdiv(m, DKDV_COLS)
    i_program = tl.program_id(0)
    if i_program < dkdv_programs:
        write_dk_dv(
            i_program, q_stream, k, v, do_stream, dk, dv, dq, lse, delta,
            stride_q, stride_k, stride_v, stride_do, stride_dk, stride_dv, stride_dq, scale, scale_log2,
            batch_groups, heads, group, n, m, first, last, section,
            D, BLOCK_D, DKDV_ROWS, DKDV_COLS, LEFT, RIGHT, TMA, PRECISION, False,
        )  # fmt: skip
    else:
        write_dq(
            i_program - dkdv_programs, q, k_stream, v_stream, do, dq, lse, delta,
            stride_q, stride_k, stride_v, stride_do, stride_dq, scale, scale_log2,
            batch_heads, heads, group, n, m, first, last, section,
            D, BLOCK_D, DQ_ROWS, DQ_COLS, LEFT, RIGHT, TMA, PRECISION,
        )  # fmt: skip
