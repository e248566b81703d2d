"""Moving blocks between device memory and a program: rows of one head of a (b, h, n, d) tensor.

A tensor is read either through a TMA descriptor (the copy engine of sm_90 and newer: no address registers, zeros outside
the tensor) or through pointers (any architecture, any stride). The host decides which; a kernel sees the constexpr TMA.
Offsets are 64-bit before they meet a stride; inside one block 32 bits are enough, which the host checks.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr, and only constexpr is annotated.

import triton
import triton.language as tl


@triton.jit
def head_base(x, strides, i_b, i_h):
    """Pointer to element (0, 0) of head i_h of batch i_b."""
    return x + tl.cast(i_b, tl.int64) * strides[0] + tl.cast(i_h, tl.int64) * strides[1]


@triton.jit
def row_pointers(x, strides, i_b, i_h, start, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Pointers (ROWS, BLOCK_D) to rows start, start + 1, ... of head (i_b, i_h)."""
    p_first = head_base(x, strides, i_b, i_h) + tl.cast(start, tl.int64) * strides[2]
    o_n = tl.arange(0, ROWS)
    o_d = tl.arange(0, BLOCK_D)
    return p_first + (o_n[:, None] * strides[2] + o_d[None, :] * strides[3])


@triton.jit
def inside(start, n, D: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, EDGE: tl.constexpr):
    """Mask (ROWS, BLOCK_D) of what belongs to the tensor; without EDGE all rows do, and only padded columns do not."""
    m_d = (tl.arange(0, BLOCK_D) < D)[None, :]
    if EDGE:
        m_x = (start + tl.arange(0, ROWS) < n)[:, None] & m_d
    else:
        m_x = tl.broadcast_to(m_d, (ROWS, BLOCK_D))
    return m_x


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
    """Rows start..start+ROWS of head (i_b, i_h): (ROWS, BLOCK_D), with zeros for what lies outside the tensor."""
    if TMA:
        b_x = x.load([i_b, i_h, start, 0]).reshape(ROWS, BLOCK_D)
    else:
        p_x = row_pointers(x, strides, i_b, i_h, start, ROWS, BLOCK_D)
        if EDGE or D != BLOCK_D:
            b_x = tl.load(p_x, mask=inside(start, n, D, ROWS, BLOCK_D, EDGE), other=0.0)
        else:
            b_x = tl.load(p_x)
    return b_x


@triton.jit
def store_block(
    x, strides, i_b, i_h, start, n, b_x, D: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Write the rows of b_x (ROWS, BLOCK_D) that exist, cast to the tensor's dtype.

    Always by pointer: a TMA store rounds the row's end up to 16 bytes and may write past it.
    """
    p_x = row_pointers(x, strides, i_b, i_h, start, ROWS, BLOCK_D)
    tl.store(p_x, b_x.to(x.dtype.element_ty), mask=inside(start, n, D, ROWS, BLOCK_D, True))
