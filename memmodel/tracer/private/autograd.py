"""Autograd's graph: which node runs, in which order forward made them, and which tensors they keep."""

import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from memmodel.tracer.private.dispatch import tensors_in

ENGINE = "_engine_run_backward"  # the function that calls autograd's engine
COPY_SLICES = "torch::autograd::CopySlices"  # the node of a write into a view

_DISPATCH = ("memmodel.tracer.", "torch._compile", "torch._dynamo", "torch.utils._python_dispatch")


def running_node() -> Any:
    """The node whose backward runs now, or None."""
    return torch._C._current_autograd_node()


def is_python(node: Any) -> bool:
    """Whether a node is an `autograd.Function`'s, not one of C++."""
    return type(node).__module__ != "torch.autograd.functions" and hasattr(node, "saved_tensors")


def engine_calls() -> bool:
    """Whether the innermost frame outside of dispatch is the one that called autograd's engine."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_DISPATCH):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name == ENGINE


def number_of(node: Any) -> int:
    """The place of a node in the order of forward."""
    return int(node._sequence_nr())


def next_number() -> int:
    """The number that the next node will get."""
    return int(torch._C._autograd._get_sequence_nr())


def label_of(node: Any) -> str:
    """A node's name without its namespace; empty for None."""
    return "" if node is None else str(node.name()).rpartition("::")[2]


def _graph(roots: Iterable[Any]) -> dict[Any, None]:
    """The nodes of the graph behind these tensors."""
    seen: dict[Any, None] = {}
    stack = [root.grad_fn for root in roots if getattr(root, "grad_fn", None) is not None]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen[node] = None
            stack += [after for after, _ in node.next_functions if after is not None]
    return seen


def nodes_behind(roots: Iterable[Any]) -> list[Any]:
    """The nodes behind these tensors in the order of forward, without those that fill `grad`."""
    # AccumulateGrad saves nothing, and has the largest number there is, to run at once (function.h).
    return sorted((node for node in _graph(roots) if "AccumulateGrad" not in node.name()), key=number_of)


def leaves_behind(roots: Iterable[Any]) -> list[Tensor]:
    """The tensors whose `grad` backward from these tensors fills."""
    return [node.variable for node in _graph(roots) if hasattr(node, "variable")]


def kept_by(node: Any) -> Iterator[Tensor]:
    """The tensors that a node saves: generated nodes have them as `_saved_...`, Python's as `saved_tensors`."""
    fields = [field for field in dir(node) if field.startswith("_saved_")]
    values = [getattr(node, field, None) for field in fields]
    if not fields and hasattr(node, "saved_tensors"):
        try:
            values = list(node.saved_tensors)
        except RuntimeError:  # freed already, or packed away by hooks
            values = []
    yield from tensors_in(values)


def is_view(tensor: Tensor) -> bool:
    """Whether autograd knows it as a view of another."""
    return bool(tensor._is_view())


def base_of(view: Tensor) -> Any:
    """The tensor that a view is a view of."""
    return view._base


def version_of(tensor: Tensor) -> int:
    """The number of writes into it."""
    return tensor._version


def holders_of(tensor: Tensor) -> tuple[int, int]:
    """The reference counts in C++ of the tensor and of its storage."""
    return int(tensor._use_count()), int(torch._C._storage_Use_Count(tensor.untyped_storage()._cdata))  # type: ignore[attr-defined]


def at_end_of_backward(callback: Callable[[], None]) -> None:
    """Call this once the engine, which runs now, is done."""
    torch.autograd.Variable._execution_engine.queue_callback(callback)
