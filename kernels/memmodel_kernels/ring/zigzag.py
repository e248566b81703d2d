"""The zigzag of a causal ring: of 2W pieces of a sequence, rank r of W has pieces r and 2W-1-r.

A query sees the keys before it, so that ranks with early pieces would have little to do; a pair of an early and a late
one makes the work equal (Zhu, ring-flash-attention, 2024; torch's _HeadTailLoadBalancer).
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def shard(x: Tensor, rank: int, world: int, dim: int = 2) -> Tensor:
    """A rank's two pieces of a whole sequence along `dim`, one behind the other.

    Raises ValueError for a length that 2 x world does not divide.
    """
    if x.shape[dim] % (2 * world):
        raise ValueError(f"a sequence of {x.shape[dim]} on {world} ranks: expected a multiple of {2 * world}")
    pieces = x.chunk(2 * world, dim)
    return torch.cat((pieces[rank], pieces[2 * world - 1 - rank]), dim)


def joined(shards: Sequence[Tensor], dim: int = 2) -> Tensor:
    """The whole sequence of every rank's shard, in order of ranks: the inverse of `shard`."""
    halves = [x.chunk(2, dim) for x in shards]
    return torch.cat([*(early for early, _ in halves), *(late for _, late in reversed(halves))], dim)
