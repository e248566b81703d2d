"""The zigzag of a causal ring: of 2W pieces of a sequence, rank r of W has pieces r and 2W-1-r.

A query sees the keys before it, so that ranks with early pieces would have little to do; a pair of an early and a late
one makes the work equal (Zhu, ring-flash-attention, 2024; torch's _HeadTailLoadBalancer).
"""

from collections.abc import Sequence
from typing import Any

from memmodel_kernels.namespace import namespace
from memmodel_kernels.parallel.group import Group


def shard(x: Any, rank: int, world: int, dim: int = 2) -> Any:
    """A rank's two pieces of a whole sequence along `dim`, one behind the other.

    Raises ValueError for a length that 2 x world does not divide.
    """
    if x.shape[dim] % (2 * world):
        raise ValueError(f"a sequence of {x.shape[dim]} on {world} ranks: expected a multiple of {2 * world}")
    pieces = x.chunk(2 * world, dim)
    return namespace(x).cat((pieces[rank], pieces[2 * world - 1 - rank]), dim)


def joined(shards: Sequence[Any], dim: int = 2) -> Any:
    """The whole sequence of every rank's shard, in order of ranks: the inverse of `shard`."""
    halves = [x.chunk(2, dim) for x in shards]
    pieces = [*(early for early, _ in halves), *(late for _, late in reversed(halves))]
    return namespace(pieces[0]).cat(pieces, dim)


def places(tokens: Any, group: Group | None) -> Any:
    """The places (n) in their sequences of a rank's tokens (b, n); of whole sequences without a group."""
    xp, count = namespace(tokens), tokens.shape[1]
    if group is None:
        return xp.arange(count, device=tokens.device)
    half = count // 2
    starts = group.rank * half, (2 * group.size - 1 - group.rank) * half
    return xp.cat([xp.arange(start, start + half, device=tokens.device) for start in starts])
