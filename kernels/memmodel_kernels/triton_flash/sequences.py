"""Packed sequences of unlike lengths: where the sequence of a program lies among the rows of all.

Sequences lie behind one another in one (1, h, rows, d) tensor. Sequence i has the rows offsets[i] to offsets[i + 1] of
queries and of keys. A program works on one sequence, in its rows: it moves its tensors' first elements to that of its
sequence, and from there on nothing differs from a batch of one.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr; only constexpr is annotated.

from typing import Any, NamedTuple

import triton
import triton.language as tl

from memmodel_kernels.triton_flash.blocks import Band, Heads


class Sequences(NamedTuple):
    """Pointers to the int32 offsets of queries and of keys: one more than there are sequences."""

    queries: Any
    keys: Any


@triton.jit
def own_band(band, rows, columns, i_b, start):
    """(first row, first column, band) of sequence i_b, for a program that holds its rows from `start` on.

    `band` has the longest lengths, and bounds relative to the ends of a sequence's rows and columns, as if these stood
    side by side. A program past the end of its sequence meets no column.
    """
    first_row = tl.load(rows + i_b)
    first_column = tl.load(columns + i_b)
    n = tl.load(rows + i_b + 1) - first_row
    m = tl.load(columns + i_b + 1) - first_column
    first = band.first
    last = band.last
    if band.first is not None:
        first = band.first + m - n
    if band.last is not None:
        last = band.last + m - n
    return first_row, first_column, Band(n, tl.where(start < n, m, 0), first, last)


@triton.jit
def rows_from(x, first):
    """The tensor from its row `first` on."""
    return Heads(x.pointer + tl.cast(first, tl.int64) * x.strides[2], x.strides)


@triton.jit
def mirrored(band):
    """The band seen from the other side."""
    first = band.last
    last = band.first
    if band.last is not None:
        first = -band.last
    if band.first is not None:
        last = -band.first
    return Band(band.m, band.n, first, last)
