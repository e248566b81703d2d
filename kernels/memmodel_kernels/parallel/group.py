"""Ranks that communicate, and collectives among them, on tensors of either library."""

from typing import Any, NamedTuple

from memmodel_kernels.namespace import namespace


class Group(NamedTuple):
    """Ranks that communicate, as one of them sees it.

    Attributes:
        rank, size: which of how many this is.
        handle: torch's process group; on recording tensors, the numbers of the ranks in the world.
    """

    rank: int
    size: int
    handle: Any


def all_reduced(x: Any, group: Group, how: str = "SUM") -> Any:
    """x itself, after a sum, or a maximum, over the ranks in place."""
    distributed = namespace(x).distributed
    distributed.all_reduce(x, getattr(distributed.ReduceOp, how), group=group.handle)
    return x


def all_gathered(x: Any, group: Group) -> Any:
    """The tensors x of all ranks, one after another along the first dimension."""
    out = x.new_empty(group.size * x.shape[0], *x.shape[1:])
    namespace(x).distributed.all_gather_into_tensor(out, x.contiguous(), group=group.handle)
    return out


def reduce_scattered(x: Any, group: Group) -> Any:
    """The piece of this rank, along the first dimension, of the sum over the ranks."""
    out = x.new_empty(x.shape[0] // group.size, *x.shape[1:])
    namespace(x).distributed.reduce_scatter_tensor(out, x.contiguous(), group=group.handle)
    return out
