"""FlashAttention-2 backward in five matrix products: key blocks add up dQ in fp32, in no fixed order.

The same dK/dV program, with dQ on the way. The order of the additions, and so the last bits of dQ, change from
run to run.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr; only constexpr is annotated.

import triton
import triton.language as tl

from memmodel_kernels.triton_flash.dkdv import write_dk_dv


@triton.jit
def fused_kernel(
    k,
    v,
    q_stream,
    do_stream,
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
    """One key block of one key/value head per program. dq_sum (b, h, n, d) is fp32 and zero at the start.

    x_stream and dq_sum are TMA descriptors where TMA, pointers where not.
    """
    write_dk_dv(
        tl.program_id(0), q_stream, k, v, do_stream, dk, dv, dq_sum, lse, delta,
        stride_q, stride_k, stride_v, stride_do, stride_dk, stride_dv, stride_dq_sum, scale, scale_log2,
        batch_heads // group, heads, group, n, m, first, last, section,
        D, BLOCK_D, ROWS, COLS, LEFT, RIGHT, TMA, PRECISION, True,
    )  # fmt: skip
