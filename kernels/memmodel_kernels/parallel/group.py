"""Ranks that communicate, and collectives among them, on tensors of either library."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    # Recording tensors do as NCCL does.
    divides = library.__name__ != "torch" or out.is_cuda
    run(library.distributed, library.distributed.ReduceOp.AVG if divides else library.distributed.ReduceOp.SUM)
    if not divides:
        out.div_(group.size)


def start_all_reduce(x: Any, group: Group) -> Callable[[], None]:
    """Start to sum x over the ranks, in place; a function that waits for it."""
    library = namespace(x)
    with _stream_of_collectives(x):
        work = library.distributed.all_reduce(x, group=group.handle, async_op=True)

    def wait() -> None:
        work.wait()
        _default_stream_waits(x)

    return wait


class Coming(NamedTuple):
    """Tensors that are being received. `works`: the transfers under way, which hold what is sent."""

    tensors: list[Any]
    works: list[Any]

    def wait(self) -> list[Any]:
        """The tensors, when they are there."""
        while self.works:
            self.works.pop().wait()
        _default_stream_waits(self.tensors[0])
        return self.tensors


def start_passing_on(tensors: Sequence[Any], group: Group) -> Coming:
    """Start to send tensors to the next rank, and to receive those of the rank before."""
    library = namespace(tensors[0])
    distributed, handle = library.distributed, group.handle
    # What is sent must stay as it is until it has arrived: it is received into buffers of its own.
    received = [library.empty_like(x) for x in tensors]
    after, before = (distributed.get_global_rank(handle, (group.rank + step) % group.size) for step in (1, -1))
    sends = [distributed.P2POp(distributed.isend, x, after, handle) for x in tensors]
    receives = [distributed.P2POp(distributed.irecv, x, before, handle) for x in received]
    with _stream_of_collectives(tensors[0]):
        return Coming(received, distributed.batch_isend_irecv([*sends, *receives]))


@contextmanager
def _stream_of_collectives(x: Any) -> Iterator[None]:
    """Inside, collectives run beside kernels, after those that are there; torch sees to that itself."""
    if namespace(x).__name__ == "torch":
        yield
        return
    stream_waits(x, NCCL, DEFAULT)
    with on_stream(x, NCCL):
        yield


def _default_stream_waits(x: Any) -> None:
    if namespace(x).__name__ != "torch":
        stream_waits(x, DEFAULT, NCCL)
