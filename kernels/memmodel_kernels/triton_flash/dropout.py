"""Dropout of attention weights: whether a pair is kept is a function of the seed and of where the pair lies.

Forward and backward draw the same number for a pair, whatever their tiles, so that no mask is stored. The numbers are
Philox 4x32 with 7 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011: the fewest that pass
their tests; flash-attention takes as many), of the counter (key, sequence and head, query, 0) under the seed.

    O = sum(P kept V) / (1 - p)        dS = P (kept dP / (1 - p) - delta)        delta = rowsum(dO * O)
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr; only constexpr is annotated.

from typing import Any, NamedTuple

import triton
import triton.language as tl

ROUNDS: tl.constexpr = tl.constexpr(7)


class Dropout(NamedTuple):
    """A pair is kept if its 32-bit number, read with a sign, is `least` or more; its weight is times the `factor`.

    `seed` points to an int64; in a program, after `seeded`, it is that number.
    """

    seed: Any
    least: Any
    factor: Any


@triton.jit
def seeded(dropout):
    """Dropout with its seed read, once a program."""
    return Dropout(tl.load(dropout.seed), dropout.least, dropout.factor)


@triton.jit
def keeps(dropout, i_bh, o_i, o_j):
    """Mask of the pairs that are kept, of head i_bh of all; queries o_i and keys o_j broadcast against each other."""
    # Queries and keys are of one dimension each in the first two rounds, which cost next to nothing.
    b_random, _, _, _ = tl.philox(dropout.seed, o_j, i_bh, o_i, 0, ROUNDS)
    return b_random.to(tl.int32, bitcast=True) >= dropout.least
