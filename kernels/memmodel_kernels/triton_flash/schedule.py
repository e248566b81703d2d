"""Which block a program works on, and which blocks it meets on the other axis.

Query i and key j meet when i + first <= j <= i + last (the band). Causal attention aligned at the bottom right has
last = m - n; a sliding window sets first too. The flags LEFT and RIGHT say which of the two bounds exist, so that an
unmasked kernel is compiled without either.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr, and only constexpr is annotated.

import triton
import triton.language as tl


@triton.jit
def place(i_program, heads, blocks, section):
    """(head, block) of a program: `section` heads at a time go through their blocks side by side.

    The K and V of one section fit in L2, and blocks of equal work start together, so the longest come first.
    """
    first = i_program // (section * blocks) * section
    width = tl.minimum(section, heads - first)
    local = i_program - first * blocks
    return first + local % width, local // width


@triton.jit
def span(
    start, n, m, first, last, ROWS: tl.constexpr, COLS: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr
):
    """What rows start..start+ROWS (of n) meet among m columns, in blocks of COLS.

    Returns (begin, left, full, end, right): `left` partly visible blocks from `begin`, then the blocks full..end that
    every row sees whole, then `right` partly visible blocks from `end`.
    """
    stop = tl.minimum(start + ROWS, n)
    begin = 0
    full = 0
    seen = m
    end = m // COLS * COLS
    if LEFT:
        begin = tl.maximum(start + first, 0) // COLS * COLS
        full = tl.cdiv(tl.maximum(stop - 1 + first, 0), COLS) * COLS
    if RIGHT:
        seen = tl.minimum(tl.maximum(stop + last, 0), m)
        end = tl.minimum(tl.maximum(start + last + 1, 0), m) // COLS * COLS
    if LEFT:
        end = tl.maximum(end, full)
    left = tl.cdiv(tl.maximum(tl.minimum(full, seen) - begin, 0), COLS)
    right = tl.cdiv(tl.maximum(seen - end, 0), COLS)
    return begin, left, full, end, right


@triton.jit
def partial_block(i, begin, left, end, COLS: tl.constexpr):
    """Start of the i-th partly visible block: first the `left` ones from `begin`, then those from `end`."""
    return tl.where(i < left, begin + i * COLS, end + (i - left) * COLS)


@triton.jit
def visible(o_i, o_j, first, last, LEFT: tl.constexpr, RIGHT: tl.constexpr):
    """Mask of the pairs inside the band; o_i and o_j are broadcastable query and key positions."""
    m_s = (o_i >= 0) & (o_j >= 0)
    if LEFT:
        m_s = m_s & (o_j >= o_i + first)
    if RIGHT:
        m_s = m_s & (o_j <= o_i + last)
    return m_s
