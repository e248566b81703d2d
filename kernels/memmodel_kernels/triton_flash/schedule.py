"""Which block a program works on, and which blocks it meets on the other axis.

Query i and key j meet when i + first <= j <= i + last (the band). Causal attention aligned at the bottom
right has last = m - n; a sliding window sets first too. The flags LEFT and RIGHT say which of the two bounds
exist, so that an unmasked kernel is compiled without either.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr; only constexpr is annotated.

import triton
import triton.language as tl


@triton.jit
def place(i_program, heads, blocks, section):
    """Give a program its (head, block): `section` heads at a time go through their blocks side by side.

    The K and V of one section fit in L2, and blocks of equal work start together, so that the longest can
    come first.
    """
    first = i_program // (section * blocks) * section
    width = tl.minimum(section, heads - first)
    local = i_program - first * blocks
    return first + local % width, local // width


@triton.jit
def reach(
    start,
    n,
    m,
    first,
    last,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
):
    """Range [begin, seen) of the m columns that rows start..start+ROWS (of n) meet; begin is a block's start."""
    begin = 0
    seen = m
    if LEFT:
        begin = tl.maximum(start + first, 0) // COLS * COLS
    if RIGHT:
        seen = tl.minimum(tl.maximum(tl.minimum(start + ROWS, n) + last, 0), m)
    return begin, seen


@triton.jit
def phases(
    start,
    n,
    m,
    first,
    last,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
):
    """Split what rows start..start+ROWS meet into whole and partial blocks of COLS columns.

    Returns (begin, left, full, end, right): `left` partial blocks from `begin`, then the blocks full..end that
    every row sees whole, then `right` partial blocks from `end`.
    """
    begin, seen = reach(start, n, m, first, last, ROWS, COLS, LEFT, RIGHT)
    full = 0
    end = m // COLS * COLS
    if RIGHT:
        end = tl.minimum(tl.maximum(start + last + 1, 0), m) // COLS * COLS
    if LEFT:
        full = tl.cdiv(tl.maximum(tl.minimum(start + ROWS, n) - 1 + first, 0), COLS) * COLS
        end = tl.maximum(end, full)
    left = tl.cdiv(tl.maximum(tl.minimum(full, seen) - begin, 0), COLS)
    right = tl.cdiv(tl.maximum(seen - end, 0), COLS)
    return begin, left, full, end, right


@triton.jit
def partial_block(i, begin, left, end, COLS: tl.constexpr):
    """Start of the i-th partial block: first the `left` ones from `begin`, then those from `end`."""
    return tl.where(i < left, begin + i * COLS, end + (i - left) * COLS)


@triton.jit
def visible(o_i, o_j, m, first, last, LEFT: tl.constexpr, RIGHT: tl.constexpr):
    """Mask of the pairs in the band whose key exists. o_i, o_j: positions, broadcastable against each other.

    The last visible key is bounded per row, so that it costs one comparison per score.
    """
    m_s = o_j < m
    if RIGHT:
        m_s = o_j <= tl.minimum(o_i + last, m - 1)
    if LEFT:
        m_s = m_s & (o_j >= o_i + first)
    return m_s
