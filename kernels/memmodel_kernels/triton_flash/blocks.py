"""The arguments of the kernels, and moves of blocks between device memory and a program.

A block is some rows of one head of a (b, h, n, d) tensor. It is read either through a TMA descriptor (the copy engine
of sm_90 and newer: no address registers, zeros outside the tensor) or through pointers (any architecture, any stride).
The host decides which; a kernel sees a constexpr. Offsets are 64-bit before they meet a stride; inside one block
32 bits are enough, which the host checks.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr; only constexpr is annotated.

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Heads(NamedTuple):
    """A (b, h, n, d) tensor read or written by pointer: its first element, and its strides in elements."""

    pointer: Any
    strides: Any


class Band(NamedTuple):
    """Row i of n meets column j of m when i + first <= j <= i + last. A bound that excludes nothing is None.

    Triton compiles one kernel per set of bounds that are None, so an unmasked kernel contains no comparison.
    """

    n: Any
    m: Any
    first: Any
    last: Any


class Counts(NamedTuple):
    """Batches or sequences, query heads, query heads per key/value head, and rows of LSE and delta a head.

    `section` heads go through their blocks side by side.
    """

    batch: Any
    heads: Any
    group: Any
    rows: Any
    section: Any


class Tiling(NamedTuple):
    """Compile-time constants of one pass: a block is `rows` queries by `cols` keys, `padded_d` wide, of which d exist.

    `tma` says whether the loop reads by TMA descriptor, `precision` how fp32 is multiplied.
    """

    rows: int
    cols: int
    d: int
    padded_d: int
    tma: bool
    precision: str


@triton.jit
def row_pointers(x, i_b, i_h, start, ROWS: tl.constexpr, TILE: tl.constexpr):
    """Pointers (ROWS, padded_d) to rows start, start + 1, ... of head i_h of batch i_b."""
    p_head = x.pointer + tl.cast(i_b, tl.int64) * x.strides[0] + tl.cast(i_h, tl.int64) * x.strides[1]
    p_row = p_head + tl.cast(start, tl.int64) * x.strides[2]
    o_n = tl.arange(0, ROWS)
    o_d = tl.arange(0, TILE.padded_d)
    return p_row + (o_n[:, None] * x.strides[2] + o_d[None, :] * x.strides[3])


@triton.jit
def existing(start, n, ROWS: tl.constexpr, TILE: tl.constexpr):
    """Mask (ROWS, padded_d) of the elements that belong to the tensor: rows below n, columns below d."""
    m_n = start + tl.arange(0, ROWS) < n
    m_d = tl.arange(0, TILE.padded_d) < TILE.d
    return m_n[:, None] & m_d[None, :]


@triton.jit
def load_block(
    x, i_b, i_h, start, n, ROWS: tl.constexpr, TILE: tl.constexpr, EDGE: tl.constexpr = True, TMA: tl.constexpr = False
):
    """Rows start..start+ROWS of head (i_b, i_h): (ROWS, padded_d), zeros for what lies outside the tensor.

    Without EDGE all the rows exist, and the pointer path checks none.
    """
    if TMA:
        b_x = x.load([i_b, i_h, start, 0]).reshape(ROWS, TILE.padded_d)
    else:
        p_x = row_pointers(x, i_b, i_h, start, ROWS, TILE)
        if EDGE:
            b_x = tl.load(p_x, mask=existing(start, n, ROWS, TILE), other=0.0)
        elif TILE.padded_d != TILE.d:
            b_x = tl.load(p_x, mask=(tl.arange(0, TILE.padded_d) < TILE.d)[None, :], other=0.0)
        else:
            b_x = tl.load(p_x)
    return b_x


@triton.jit
def load_bias(
    bias, i_b, i_h, start_n, start_m, band, TILE: tl.constexpr, EDGE: tl.constexpr = True, TURNED: tl.constexpr = False
):
    """A block (rows, cols) of the bias (b, h, n, m) in fp32, (cols, rows) if TURNED; 0 where there is no bias.

    Strides along dimensions that it is broadcast over are 0. Without EDGE all the columns exist.
    """
    b_bias = 0.0
    if bias is not None:
        p_block = bias.pointer + tl.cast(i_b, tl.int64) * bias.strides[0] + tl.cast(i_h, tl.int64) * bias.strides[1]
        p_block += tl.cast(start_n, tl.int64) * bias.strides[2] + tl.cast(start_m, tl.int64) * bias.strides[3]
        o_n = tl.arange(0, TILE.rows)[:, None]
        o_m = tl.arange(0, TILE.cols)[None, :]
        if TURNED:
            o_n = tl.arange(0, TILE.rows)[None, :]
            o_m = tl.arange(0, TILE.cols)[:, None]
        m_bias = start_n + o_n < band.n
        if EDGE:
            m_bias = m_bias & (start_m + o_m < band.m)
        p_bias = p_block + (o_n * bias.strides[2] + o_m * bias.strides[3])
        b_bias = tl.load(p_bias, mask=m_bias, other=0.0).to(tl.float32)
    return b_bias


@triton.jit
def store_block(x, i_b, i_h, start, n, b_x, ROWS: tl.constexpr, TILE: tl.constexpr):
    """Write the rows of b_x (ROWS, padded_d) that exist, in the tensor's dtype.

    Always by pointer: a TMA store rounds the end of a row up to 16 bytes and may write past it.
    """
    p_x = row_pointers(x, i_b, i_h, start, ROWS, TILE)
    tl.store(p_x, b_x.to(x.pointer.dtype.element_ty), mask=existing(start, n, ROWS, TILE))
