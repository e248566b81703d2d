"""Collectives on recording tensors, under the names and with the arguments of `torch.distributed`.

A group is the numbers of its ranks. Nothing is sent: the launch says what a rank would send, and to how many.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from memmodel.events.program import COLLECTIVE
from memmodel.rules.collectives import C10D
from memmodel.rules.dispatch import several
from memmodel.rules.operator import kernel
from memmodel.tensors.tensor import Tensor

Group = tuple[int, ...]


class ReduceOp:
    """How an all-reduce combines its operands; their bytes do not depend on it."""

    SUM, MAX, AVG = "sum", "max", "avg"


class Work:
    """The handle of a collective; it is over when its launch is recorded."""

    def wait(self) -> None:
        """Do nothing."""


def all_reduce(tensor: Tensor, op: str = ReduceOp.SUM, group: Group = (), async_op: bool = False) -> Work:
    """Combine the tensors of all ranks, into the tensor itself."""
    _run("allreduce_", tensor, group, tensors=tensor)
    return Work()


def all_gather_into_tensor(output_tensor: Tensor, input_tensor: Tensor, group: Group = ()) -> None:
    """The tensors of all ranks, one after another along the first dimension."""
    _run("_allgather_base_", output_tensor, group, output_tensor=output_tensor, input_tensor=input_tensor)


def reduce_scatter_tensor(output: Tensor, input: Tensor, op: str = ReduceOp.SUM, group: Group = ()) -> None:
    """The piece of this rank, along the first dimension, of the sum of all ranks' tensors."""
    _run("_reduce_scatter_base_", output, group, output_tensor=output, input_tensor=input)


def all_to_all_single(output: Tensor, input: Tensor, *_: Any, group: Group = ()) -> None:
    """A piece of every rank's tensor, along the first dimension, for a piece of this rank's."""
    _run("alltoall_base_", output, group, output=output, input=input)


class P2POp(NamedTuple):
    """A tensor to send to a rank of the world, or to receive from it."""

    op: Callable[[Tensor, int, Group], None]
    tensor: Tensor
    peer: int
    group: Group = ()


def isend(tensor: Tensor, peer: int, group: Group = ()) -> None:
    """Send a tensor."""
    _passed("send", tensor, peer, group)


def irecv(tensor: Tensor, peer: int, group: Group = ()) -> None:
    """Receive a tensor, into one that is there."""
    _passed("receive", tensor, peer, group)


def batch_isend_irecv(operations: Sequence[P2POp]) -> list[Work]:
    """Run these at once."""
    for operation in operations:
        operation.op(operation.tensor, operation.peer, operation.group)
    return [Work() for _ in operations]


def get_global_rank(group: Group, rank: int) -> int:
    """The number in the world of a rank of a group."""
    return group[rank]


def _passed(name: str, x: Tensor, peer: int, group: Group) -> None:
    """Record a send or a receive.

    With a group, all of its ranks take part, as in a ring: each of them passes something on at that time, and they
    share the links.
    """
    reads, writes = ([x], []) if name == "send" else ([], [x])
    sent = x.numel() * x.dtype.itemsize
    x.storage.tape.launch(kernel(name, reads, writes, x.dtype, kind=COLLECTIVE, sizes=(sent,), ranks=group or (peer,)))


def _run(name: str, into: Tensor, group: Group, **tensors: Any) -> None:
    several(C10D + name, into=into, tape=into.storage.tape, ranks=group, **tensors)
