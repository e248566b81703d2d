"""Moving blocks between device memory and a program: rows of one head of a (b, h, n, d) tensor.

A tensor is read either through a TMA descriptor (the copy engine of sm_90 and newer: no address registers,
zeros outside the tensor) or through pointers (any architecture, any stride). The host decides which; a
kernel sees the constexpr TMA. Offsets are 64-bit before they meet a stride; inside one block 32 bits are
enough, which the host checks.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr; only constexpr is annotated.

import triton
import triton.language as tl


@triton.jit
def row_pointers(x, strides, i_b, i_h, start, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Pointers (ROWS, BLOCK_D) to rows start, start + 1, ... of head i_h of batch i_b."""
    p_head = x + tl.cast(i_b, tl.int64) * strides[0] + tl.cast(i_h, tl.int64) * strides[1]
    p_row = p_head + tl.cast(start, tl.int64) * strides[2]
    o_n = tl.arange(0, ROWS)
    o_d = tl.arange(0, BLOCK_D)
    return p_row + (o_n[:, None] * strides[2] + o_d[None, :] * strides[3])


@triton.jit
def existing(start, n, D: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Mask (ROWS, BLOCK_D) of the elements that belong to the tensor: rows below n, columns below D."""
    m_n = start + tl.arange(0, ROWS) < n
    m_d = tl.arange(0, BLOCK_D) < D
    return m_n[:, None] & m_d[None, :]


@triton.jit
def load_block(
    x,
    strides,
    i_b,
    i_h,
    start,
    n,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    EDGE: tl.constexpr,
    TMA: tl.constexpr,
):
    """Rows start..start+ROWS of head (i_b, i_h): (ROWS, BLOCK_D), zeros for what lies outside the tensor.

    Without EDGE all the rows exist, and the pointer path checks none.
    """
    if TMA:
        b_x = x.load([i_b, i_h, start, 0]).reshape(ROWS, BLOCK_D)
    else:
        p_x = row_pointers(x, strides, i_b, i_h, start, ROWS, BLOCK_D)
        if EDGE:
            b_x = tl.load(p_x, mask=existing(start, n, D, ROWS, BLOCK_D), other=0.0)
        elif BLOCK_D != D:
            b_x = tl.load(p_x, mask=(tl.arange(0, BLOCK_D) < D)[None, :], other=0.0)
        else:
            b_x = tl.load(p_x)
    return b_x


@triton.jit
def store_block(x, strides, i_b, i_h, start, n, b_x, D: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Write the rows of b_x (ROWS, BLOCK_D) that exist, in the tensor's dtype.

    Always by pointer: a TMA store rounds the end of a row up to 16 bytes and may write past it.
    """
    p_x = row_pointers(x, strides, i_b, i_h, start, ROWS, BLOCK_D)
    tl.store(p_x, b_x.to(x.dtype.element_ty), mask=existing(start, n, D, ROWS, BLOCK_D))
