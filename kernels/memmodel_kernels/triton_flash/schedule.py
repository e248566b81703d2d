"""Which block a program works on, and which blocks it meets on the other axis.

Query i and key j meet when i + first <= j <= i + last (the band). Causal attention aligned at the bottom right has
last = m - n; a sliding window sets first too. Seen from the keys, the band is mirrored: n and m change places, and the
bounds are -last and -first.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr; only constexpr is annotated.

import triton
import triton.language as tl


@triton.jit
def place(i_program, heads, blocks, section):
    """Give a program its (head, block): `section` heads at a time go through their blocks side by side.

    The K and V of one section fit in L2, and blocks of equal work start together, so that the longest can come first.
    """
    first = i_program // (section * blocks) * section
    width = tl.minimum(section, heads - first)
    local = i_program - first * blocks
    return first + local % width, local // width


@triton.jit
def quotient(i, inverse):
    """i // x, of the fp32 reciprocal of x: exact for i below 2^20, as the compiler's division errs by 2 ulp at most.

    Half a step is the distance from the next whole number, relative to which the roundings are 3 / 2^23 of i / x.
    """
    return ((i + 0.5) * inverse).to(tl.int32)


@triton.jit
def query_block(i_program, counts, band, ROWS: tl.constexpr):
    """(batch, query head, key/value head, first query) of a program that holds ROWS queries."""
    blocks = tl.cdiv(band.n, ROWS)
    i_bh, i_n = place(i_program, counts.batch * counts.heads, blocks, counts.section)
    if band.last is not None:
        i_n = blocks - 1 - i_n  # the last rows see the most keys
    i_h = i_bh % counts.heads
    return i_bh // counts.heads, i_h, i_h // counts.group, i_n * ROWS


@triton.jit
def reach(start, band, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Range [begin, seen) of the columns that rows start..start+ROWS meet; begin is a block's start."""
    begin = 0
    seen = band.m
    if band.first is not None:
        begin = tl.maximum(start + band.first, 0) // COLS * COLS
    if band.last is not None:
        seen = tl.minimum(tl.maximum(tl.minimum(start + ROWS, band.n) + band.last, 0), band.m)
    return begin, seen


@triton.jit
def phases(start, band, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Split what rows start..start+ROWS meet into whole and partial blocks of COLS columns.

    Returns (begin, left, full, end, right): `left` partial blocks from `begin`, then the blocks full..end that every
    row sees whole, then `right` partial blocks from `end`.
    """
    begin, seen = reach(start, band, ROWS, COLS)
    full = 0
    end = band.m // COLS * COLS
    if band.last is not None:
        end = tl.minimum(tl.maximum(start + band.last + 1, 0), band.m) // COLS * COLS
    if band.first is not None:
        full = tl.cdiv(tl.maximum(tl.minimum(start + ROWS, band.n) - 1 + band.first, 0), COLS) * COLS
        end = tl.maximum(end, full)
    left = tl.cdiv(tl.maximum(tl.minimum(full, seen) - begin, 0), COLS)
    right = tl.cdiv(tl.maximum(seen - end, 0), COLS)
    return begin, left, full, end, right


@triton.jit
def partial_block(i, begin, left, end, COLS: tl.constexpr):
    """Start of the i-th partial block: first the `left` ones from `begin`, then those from `end`."""
    return tl.where(i < left, begin + i * COLS, end + (i - left) * COLS)


@triton.jit
def visible(o_i, o_j, band):
    """Mask of the pairs in the band whose column exists. o_i, o_j: positions, broadcastable against each other.

    The last visible column is bounded per row, so that it costs one comparison per score.
    """
    m_s = o_j < band.m
    if band.last is not None:
        m_s = o_j <= tl.minimum(o_i + band.last, band.m - 1)
    if band.first is not None:
        m_s = m_s & (o_j >= o_i + band.first)
    return m_s
