"""Ranks that communicate, and collectives among them, on tensors of either library."""

from collections.abc import Callable
from typing import Any, NamedTuple

from memmodel_kernels.namespace import namespace, on_stream, stream_waits

DEFAULT, NCCL = 0, 1  # streams: that of a process, and that on which its collectives run


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
    """The rank's piece, along the first dimension, of the sum over the ranks."""
    out = x.new_empty(x.shape[0] // group.size, *x.shape[1:])
    namespace(x).distributed.reduce_scatter_tensor(out, x.contiguous(), group=group.handle)
    return out


def gather_into(out: Any, x: Any, group: Group) -> None:
    """The tensors x of all ranks, one after another, into `out`, of which x may be a part."""
    namespace(x).distributed.all_gather_into_tensor(out, x, group=group.handle)


def reduce_scatter_mean(out: Any, x: Any, group: Group) -> None:
    """The rank's part of the mean of x over the ranks, into `out`."""
    _mean(out, group, lambda of, how: of.reduce_scatter_tensor(out, x, how, group=group.handle))


def all_reduce_mean(x: Any, group: Group) -> None:
    """The mean over the ranks, in place."""
    _mean(x, group, lambda of, how: of.all_reduce(x, how, group=group.handle))


def _mean(out: Any, group: Group, run: Callable[[Any, Any], None]) -> None:
    """Run a collective that takes the mean, which gloo does not know: there, a sum, divided after."""
    library = namespace(out)
    divides = library.__name__ != "torch" or out.is_cuda
    run(library.distributed, library.distributed.ReduceOp.AVG if divides else library.distributed.ReduceOp.SUM)
    if not divides:
        out.div_(group.size)


def start_all_reduce(x: Any, group: Group) -> Callable[[], None]:
    """Start to sum x over the ranks, in place, on the library's own stream; a function that waits for it."""
    library = namespace(x)
    if library.__name__ == "torch":
        wait: Callable[[], None] = library.distributed.all_reduce(x, group=group.handle, async_op=True).wait
        return wait
    stream_waits(x, NCCL, DEFAULT)
    with on_stream(x, NCCL):
        library.distributed.all_reduce(x, group=group.handle)
    return lambda: stream_waits(x, DEFAULT, NCCL)
