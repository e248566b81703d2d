"""Collectives on recording tensors, under the names and with the arguments of `torch.distributed`.

A group is the numbers of its ranks. Nothing is sent: the launch says what a rank would send, and to how many.
"""

from typing import Any

from memmodel.rules.collectives import C10D
from memmodel.rules.dispatch import several
from memmodel.tensors.tensor import Tensor

Group = tuple[int, ...]


class ReduceOp:
    """How an all-reduce combines its operands; their bytes do not depend on it."""

    SUM, MAX, AVG = "sum", "max", "avg"


def all_reduce(tensor: Tensor, op: str = ReduceOp.SUM, group: Group = ()) -> None:
    """Combine the tensors of all ranks, into the tensor itself."""
    _run("allreduce_", tensor, group, tensors=tensor)


def all_gather_into_tensor(output_tensor: Tensor, input_tensor: Tensor, group: Group = ()) -> None:
    """The tensors of all ranks, one after another along the first dimension."""
    _run("_allgather_base_", output_tensor, group, output_tensor=output_tensor, input_tensor=input_tensor)


def reduce_scatter_tensor(output: Tensor, input: Tensor, op: str = ReduceOp.SUM, group: Group = ()) -> None:
    """The piece of this rank, along the first dimension, of the sum of all ranks' tensors."""
    _run("_reduce_scatter_base_", output, group, output_tensor=output, input_tensor=input)


def all_to_all_single(output: Tensor, input: Tensor, *_: Any, group: Group = ()) -> None:
    """A piece of every rank's tensor, along the first dimension, for a piece of this rank's."""
    _run("alltoall_base_", output, group, output=output, input=input)


def _run(name: str, into: Tensor, group: Group, **tensors: Any) -> None:
    several(C10D + name, into=into, tape=into.storage.tape, ranks=group, **tensors)
