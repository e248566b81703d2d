"""Collectives: their buffers, and the bytes that each hands to the network.

Sources: torch/csrc/distributed/c10d/Ops.cpp (c10d::*, which write into given tensors) and Functional.cpp
(_c10d_functional::*, which make their results; an all-reduce clones its input). The bytes of a collective are NCCL's:
the buffer of an all-reduce or a broadcast, the whole output of an all-gather, the whole input of a reduce-scatter and
of an all-to-all, the tensor that is sent or received (nccl-tests, doc/PERFORMANCE.md).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from memmodel.events.program import Launch
from memmodel.rules.dispatch import several
from memmodel.rules.operator import FREED, RESULTS, Call, Steps, kernel, moves, rule, scratch_like
from memmodel.sizes.dims import Dim
from memmodel.tensors.layout import Strided
from memmodel.tensors.tensor import Tensor

_NAMES = {
    "all_gather": ("all_gather_into_tensor", "all_gather_into_tensor_out", "all_gather_into_tensor_coalesced"),
    "all_reduce": ("all_reduce", "all_reduce_", "all_reduce_coalesced", "all_reduce_coalesced_"),
    "reduce_scatter": ("reduce_scatter_tensor", "reduce_scatter_tensor_out", "reduce_scatter_tensor_coalesced"),
    "all_to_all": ("all_to_all_single", "shard_dim_alltoall"),
    "broadcast": ("broadcast", "broadcast_"),
}
_IN_PLACE = {
    "all_gather": ("_allgather_base_", "allgather_", "allgather_into_tensor_coalesced_", "allgather_coalesced_"),
    "all_reduce": ("allreduce_", "allreduce_coalesced_"),
    "reduce_scatter": ("_reduce_scatter_base_", "reduce_scatter_", "reduce_scatter_tensor_coalesced_"),
    "all_to_all": ("alltoall_", "alltoall_base_"),
    "send": ("send",),
    "receive": ("recv_", "recv_any_source_"),
    "reduce": ("reduce_",),
    "gather": ("gather_",),
    "scatter": ("scatter_",),
}
C10D = "c10d."  # before the names of operators of that namespace: ATen has others of the same name
_NAME_OF = {op: name for name, ops in _NAMES.items() for op in ops}
_NAME_OF |= {C10D + op: name for name, ops in _IN_PLACE.items() for op in ops}


@rule(*(op for ops in _NAMES.values() for op in ops))
def functional(call: Call) -> Steps:
    """Make the results, then communicate."""
    yield RESULTS
    given = call.tensors()
    # The larger side is what NCCL counts: an all-gather's output, a reduce-scatter's input.
    yield _communicated(call, given, call.results, max(_bytes(given), _bytes(call.results)))


@rule(*(C10D + op for ops in _IN_PLACE.values() for op in ops))
def in_place(call: Call) -> Steps:
    """Communicate between tensors that are there: among the operands, what is no output is read."""
    by_name = {name: _tensors(value) for name, value in call.named.items()}
    reads = [x for name, found in by_name.items() for x in found if not name.startswith("out")]
    writes = [x for name, found in by_name.items() for x in found if not name.startswith("in")]
    yield _communicated(call, reads, writes, max(map(_bytes, by_name.values())))


@rule("wait_tensor", f"{C10D}barrier", f"{C10D}monitored_barrier_")
def waits(call: Call) -> Steps:
    """Nothing: the collective has its own kernel."""
    yield from ()


def _communicated(call: Call, reads: list[Strided], writes: Sequence[Strided], moved: Dim) -> Launch:
    typed = (writes or reads)[0].dtype
    ranks = tuple(call.named.get("ranks", ()))
    return kernel(_NAME_OF[call.op], reads, writes, typed, kind="collective", sizes=(moved,), ranks=ranks)


def _tensors(value: Any) -> list[Strided]:
    if isinstance(value, Strided):
        return [value]
    return [x for each in value for x in _tensors(each)] if isinstance(value, list | tuple) else []


def _bytes(tensors: Iterable[Strided]) -> Dim:
    return sum((x.numel() * x.dtype.itemsize for x in tensors), start=0)


@rule("all_gather_copy_in", "chunk_cat", "_chunk_cat")
def flat_copies(call: Call) -> Steps:
    """FSDP2's copies into the flat tensor that is sent (torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py).

    On the CPU a tensor whose rows do not divide is padded first, and one of another dtype copied; CUDA's kernel pads
    and converts as it copies (aten/src/ATen/native/TensorShape.cpp, _pad_chunk and cat; cuda/Shape.cu).
    """
    given = call.args[0]
    if call.op == "all_gather_copy_in":
        yield moves("copy", given, [call.args[1]])
        return
    if not call.mutated:
        yield RESULTS
    if call.device.name == "cpu":
        dim, chunks = call.args[1:3]
        yield from _cpu_copies(given, dim, chunks, call.written()[0])
    yield moves("copy", given, call.written())


def _cpu_copies(given: Sequence[Strided], dim: int, chunks: int, out: Strided) -> Steps:
    padded = [_padded(x, dim, chunks) for x in given]
    yield from (scratch_like(x, name="padded copy") for x, y in zip(padded, given, strict=True) if x is not y)
    for x in padded if out.dtype is not given[0].dtype else ():  # converted one after another, each copy freed
        yield scratch_like(x, name="copy")
        yield FREED


def _padded(x: Strided, dim: int, chunks: int) -> Strided:
    rows = -(-x.shape[dim] // chunks) * chunks
    return x if rows == x.shape[dim] else Strided((*x.shape[:dim], rows, *x.shape[dim + 1 :]), x.dtype)


def split_with_sizes_copy(x: Tensor, sizes: Sequence[Dim], dim: int, out: Sequence[Tensor]) -> None:
    """The pieces of `x` along `dim`, copied into tensors that are there."""
    several("split_with_sizes_copy", x, into=out)


def _chunk_cat(tensors: Sequence[Tensor], dim: int, chunks: int, out: Tensor) -> None:
    """The i-th of so many chunks of every tensor along `dim`, padded to the first, in row i of `out`."""
    several("_chunk_cat", tensors, dim, chunks, into=out)
