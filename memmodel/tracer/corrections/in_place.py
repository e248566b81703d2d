"""Operators that write in place on plain tensors and make new results on fake ones.

Functions of FunctionsManual.cpp and input_buffer.cpp take another branch for tensor subclasses
(isTensorSubclassLike), which fake tensors are and a user's are not; that is put right here. What kernels allocate
inside, which no operator shows, is in `memmodel.rules`. docs/trace.md lists every correction with its source.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from memmodel.tensors.layout import is_dense
from memmodel.tracer.corrections.torch_types import number
from memmodel.tracer.private.autograd import engine_calls, holders_of, is_python
from memmodel.tracer.private.dispatch import TorchDispatchMode, tree_map_only, without_modes
from memmodel.tracer.private.fake import FakeTensorMode, fake_mode, uncompiled

aten = torch.ops.aten


_IN_PLACE = {  # the out-of-place form that fake tensors take in a formula, all on zeros that the formula just made
    aten.scatter.src,
    aten.scatter_add.default,
    aten.index_put.default,
    aten._unsafe_index_put.default,
    aten.index_add.default,
    aten.masked_scatter.default,
}
_OF_LOGITS = {aten.sub.Tensor, aten.mul.Tensor}  # likewise, on what a formula made first
_IF_ADDED = {aten.index_put.default, aten._unsafe_index_put.default}  # else the gradient of an index_put: a copy


def in_place_result(func: Any, args: Any, node: Any, accumulates: bool, adds_in_place: bool, own: bool) -> Any:
    """The tensor that a plain run would have written into; None where it makes a new one.

    `adds_in_place` says that attention in plain operators or a linear layer is under way, which adds its mask or bias;
    `own` that the first operand was made by the node's formula itself.
    """
    if accumulates and _sole_owner(args[0]):
        return args[0]
    if adds_in_place and func is aten.add.Tensor:
        return args[0]
    if node is not None and func in (_IN_PLACE | _OF_LOGITS) and not is_python(node):
        return args[0] if _writes(str(node.name()), func, args, own) else None
    return None


def _writes(node: str, func: Any, args: Any, own: bool) -> bool:
    """Whether the formula of a node in C++ writes the operator's result into its first operand."""
    if func in _OF_LOGITS:
        return own and node.startswith("BinaryCrossEntropyWithLogitsBackward")
    return _adds(func, args) and not node.startswith("ScatterReduceBackward")


def _adds(func: Any, args: Any) -> bool:
    return func not in _IF_ADDED or (len(args) > 3 and bool(args[3]))


_CONTIGUOUS = {
    aten.native_layer_norm.default,
    aten.native_layer_norm_backward.default,
    aten._log_softmax_backward_data.default,
    aten.mse_loss_backward.default,
    aten.smooth_l1_loss_backward.default,
    aten.huber_loss_backward.default,
}
_AS_OPERANDS = {  # the first operand that is not expanded leads, as in any elementwise kernel
    aten.elu_backward.default,
    aten.hardtanh_backward.default,
    aten.softplus_backward.default,
    aten.hardswish_backward.default,
    aten.logit_backward.default,
}


def laid_out(func: Any, args: Any, out: Any) -> Any:
    """The results with the strides that the kernel gives them, where fake tensors' are others."""
    if func in _AS_OPERANDS:
        first, second, *_ = (x for x in args if isinstance(x, Tensor))
        return aten.add.Tensor(first, second)
    as_input = func is aten.native_batch_norm_backward.default and args[1].is_contiguous()
    if func not in _CONTIGUOUS and not as_input:
        return out
    return tree_map_only(Tensor, lambda x: x if x.is_contiguous() else x.new_empty(x.shape), out)


def is_accumulation(func: Any, args: Any, kwargs: Any, node: Any, handed_over: set[int]) -> bool:
    """Whether an `add` is the engine's, summing gradients: its operands have just been checked as a node's results.

    Nor may a node in Python, such as a checkpoint that runs its function again, stand between.
    """
    if func is not aten.add.Tensor or kwargs or len(args) != 2 or not isinstance(args[1], Tensor):
        return False
    return (node is None or id(args[1]) in handed_over) and engine_calls()


def _sole_owner(tensor: Tensor) -> bool:
    """Whether the engine's buffer alone holds a dense tensor and its storage (can_accumulate_inplace)."""
    holders, sharers = use_counts_alone()
    held, storage = holders_of(tensor)
    dense = is_dense(tuple(map(number, tensor.shape)), tuple(map(number, tensor.stride())))
    return dense and held <= holders and storage <= sharers


class _Counts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Reads how many hold the first operand of an accumulation that is known to happen in place."""

    found: tuple[int, int] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.add.Tensor:
            self.found = holders_of(args[0])
        return func(*args, **(kwargs or {}))


@cache
def use_counts_alone() -> tuple[int, int]:
    """The counts of a tensor and of its storage that nobody but the engine's buffer holds, seen from an operator.

    Read from PyTorch itself; to be called before anything is traced, as inside an operator there is no autograd.
    """
    with without_modes(), torch.enable_grad(), uncompiled(FakeTensorMode, _Counts), fake_mode(), _Counts() as counts:  # type: ignore[no-untyped-call]
        x = torch.empty(2, requires_grad=True)
        middle = x * 2.0
        (middle * middle).backward(torch.empty(2))  # type: ignore[no-untyped-call]
    found: tuple[int, int] | None = counts.found
    assert found is not None
    return found
